"""EmProx, NAO and SemiNAS against the same algorithms written step by step, on one thread.

``python -m tests.bench.bench_predictors``: fits to 121 cells of NAS-Bench-201 with the published settings. The plain
version runs its LSTMs cell by cell, as sequence models are written for decoding; weights, batches and losses are the
same. Both in turn, several times; processor seconds, medians. The matrix products that both need, done alone, show how
far any implementation of the same algorithm in the same precision could come.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_nas.nn.seq2seq import SequenceDecoder, SequenceEncoder
from lightning_nas.predictors.emprox import EmProx
from lightning_nas.predictors.nao import NAO, SemiNAS
from lightning_nas.predictors.predictor import Predictor
from lightning_nas.predictors.sequence_training import SequenceTraining
from lightning_nas.spaces.nasbench201 import NASBench201
from lightning_nas.spaces.sequences import GraphSequence
from tests.bench.keeping import Times

KNOWN, REPEATS = 121, 3
NUM_TOKENS, LENGTH = GraphSequence().sizes(NASBench201())
EPOCHS = SequenceTraining().num_epochs


class StepByStep(nn.Module):
    """An LSTM layer of torch's, one direction after the other and one token at a time."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm
        self.bidirectional = lstm.bidirectional

    def forward(
        self, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        sides = [self._run(inputs, "", state)]
        if self.bidirectional:
            sides.append(self._run(inputs.flip(1), "_reverse", None).flip(1))
        outputs = torch.cat(sides, dim=-1)
        return outputs, (outputs[:, -1], outputs[:, -1])

    def _run(self, inputs: Tensor, suffix: str, state: tuple[Tensor, Tensor] | None) -> Tensor:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        parameters = [getattr(self.lstm, f"{name}_l0{suffix}") for name in names]
        zeros = inputs.new_zeros(len(inputs), self.lstm.hidden_size)
        hidden, cell = (part[0] for part in state) if state else (zeros, zeros)
        outputs = []
        for step in inputs.unbind(dim=1):
            hidden, cell = torch.lstm_cell(step, (hidden, cell), *parameters)
            outputs.append(hidden)
        return torch.stack(outputs, dim=1)


def seconds(predictor: Predictor, members: Tensor, accuracies: Tensor) -> float:
    """Processor time of one fit."""
    start = time.process_time()
    predictor.fit(NASBench201(), members, accuracies, 0)  # type: ignore[arg-type]
    return time.process_time() - start


def plainly(work: Callable[[], float]) -> float:
    """The same with LSTMs that go step by step."""
    made = {kind: kind.__init__ for kind in (SequenceEncoder, SequenceDecoder)}

    def replacing(kind: type[nn.Module]) -> Callable[..., None]:
        def init(self: nn.Module, *args: object, **kwargs: object) -> None:
            made[kind](self, *args, **kwargs)  # type: ignore[arg-type]
            self.lstm = StepByStep(self.lstm)  # type: ignore[arg-type]

        return init

    try:
        for kind in made:
            kind.__init__ = replacing(kind)  # type: ignore[method-assign]
        return work()
    finally:
        for kind, init in made.items():
            kind.__init__ = init  # type: ignore[method-assign]


def products(dim: int, sizes: Sequence[int], lstms: bool) -> float:
    """Processor time of the matrix products of a fit, forward and backward.

    Args:
        dim: Width of everything, D.
        sizes: Of the batches of an epoch.
        lstms: Count torch's whole LSTM layers instead of the products in them.
    """
    steps, pairs = [], []
    for size in sizes:
        rows = size * LENGTH
        work = [(rows, 2 * dim, dim, 2, 3), (rows, dim, dim, 1, 3), (rows, dim, NUM_TOKENS, 1, 3)]  # linear layers
        work += [(rows, dim, LENGTH, 2, 3)]  # attention's scores and context, as one product, not one for each sequence
        if lstms:
            steps += 3 * [(nn.LSTM(dim, dim, batch_first=True), torch.randn(size, LENGTH, dim, requires_grad=True))]
        else:  # inputs, states one after the other, gradients of the weights of states
            work += 3 * [(rows, dim, 4 * dim, 1, 3), (size, dim, 4 * dim, LENGTH, 2), (rows, dim, 4 * dim, 1, 1)]
        pairs += [(torch.randn(m, k), torch.randn(k, n), times * ways) for m, k, n, times, ways in work]
    start = time.process_time()
    for _ in range(EPOCHS):
        for a, b, count in pairs:
            for _ in range(count):
                a @ b
        for lstm, inputs in steps:
            lstm(inputs)[0].sum().backward()
    return time.process_time() - start


def main() -> None:
    """Measure, print and keep."""
    torch.set_num_threads(1)
    note = (
        "Both sides multiply the same matrices: the time of these products alone, over that of the LSTMs step by step, "
        "is the least ratio in float32; with torch's LSTM layers, their time and that of the other products. An LSTM "
        "of our own, both directions in one product, sigmoids for tangents and the backward pass by hand, was slower "
        "than torch's: 8.0 against 6.2 ms forward and backward at width 32, 20.0 against 16.7 ms at width 64 (100 "
        "sequences of 27 tokens, both directions, beside other work); it was dropped."
    )
    times = Times(
        "predictors", "Fit of sequence predictors on 121 cells, processor seconds", "LSTMs step by step", (note,)
    )
    generator = torch.Generator().manual_seed(0)
    members = torch.randperm(len(NASBench201()), generator=generator)[:KNOWN]
    accuracies = 85 + 10 * torch.rand(KNOWN, generator=generator, dtype=torch.float64)
    first = [100, KNOWN - 100]
    second = [100] * 13 + [31]  # SemiNAS goes on with ten times the known architectures and as many others
    for name, predictor, repeats, sizes in (
        ("EmProx", EmProx(), REPEATS, first), ("NAO", NAO(), REPEATS, first), ("SemiNAS", SemiNAS(), 1, first + second)
    ):  # fmt: skip
        pairs = []
        for _ in range(repeats):
            ours = seconds(predictor, members, accuracies)
            pairs.append((ours, plainly(lambda one=predictor: seconds(one, members, accuracies))))  # type: ignore[misc]
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        times.add(name, mine, theirs)
        for what, lstms in (("matrix products alone", False), ("LSTMs of torch and other products alone", True)):
            alone = statistics.median(products(predictor.hidden_dim, sizes, lstms) for _ in range(REPEATS))
            times.add(f"{name}, its {what}", alone, theirs)
    times.keep(f"NAS-Bench-201, {KNOWN} cells, published settings (EmProx 50 epochs at 32, NAO and SemiNAS at 64)")


if __name__ == "__main__":
    main()
