"""Loading cost and query rate of the prepared NAS-Bench-201 table: ``LIGHTNING_NAS_DATA=… python bench_table.py``."""

import resource
import sys
import time

import torch

from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.spaces.nasbench201 import NASBench201


def resident_mb() -> float:
    """Memory the process holds now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    """Print seconds to load, memory above the imports, and queries per second in batches and one by one."""
    torch.set_num_threads(1)
    before, start = resident_mb(), time.perf_counter()
    space = NASBench201()
    benchmark = TabularBenchmark(space, epochs=12, test_epochs=200)
    loaded = time.perf_counter() - start
    memory = resident_mb() - before

    indices = torch.randint(len(space), (500, 100), generator=torch.Generator().manual_seed(0))
    start, rounds = time.perf_counter(), 100
    for _ in range(rounds):
        benchmark.lookup(indices)
    batched = rounds * indices.numel() / (time.perf_counter() - start)

    archs = [space[i] for i in indices[:20].flatten().tolist()]
    start = time.perf_counter()
    benchmark.evaluate(archs)
    single = len(archs) / (time.perf_counter() - start)
    sys.stdout.write(
        f"table: load {loaded:.3f} s, memory {memory:+.1f} MB, "
        f"lookup {batched:.2e} queries/s by index, {single:.2e} by architecture\n"
    )


if __name__ == "__main__":
    main()
