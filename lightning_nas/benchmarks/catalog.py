"""Which published tables can be prepared, from which official files, and whom to thank for them.

Pure data without heavy imports: ``lightning-nas data list`` and the "no such table" error read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One official download a table can be prepared from.

    Attributes:
        file: Name of the file or unpacked folder as its authors publish it.
        size: Size of the download, for humans.
        url: Official page that links the download.
        pickled: Whether it is a pickle, which is read only with ``--trust_pickle``.
        sha256: Checksum that its authors publish, if they do.
    """

    file: str
    size: str
    url: str
    pickled: bool = True
    sha256: str | None = None


@dataclass(frozen=True)
class PublishedTable:
    """A benchmark whose results others have published.

    Attributes:
        name: Name of the prepared table and argument of ``lightning-nas data prepare``.
        description: What it holds, in one line.
        rows: Number of architectures.
        sources: Downloads it can be prepared from, the recommended one first.
        licence: Licence of the data.
        citation: What to cite.
        partial: Whether a table of some of the architectures can be prepared, too.
    """

    name: str
    description: str
    rows: int
    sources: tuple[Source, ...]
    licence: str
    citation: str
    partial: bool = False

    def command(self, source: Source, folder: Path | None = None) -> str:
        """Command that prepares the table from a downloaded source.

        Args:
            source: One of :attr:`sources`.
            folder: Folder for the table, unless it is the default one.
        """
        trust = " --trust_pickle" if source.pickled else ""
        where = f" --data_dir {folder}" if folder else ""
        return f"lightning-nas data prepare {self.name} --source {source.file}{trust}{where}"


PUBLISHED: dict[str, PublishedTable] = {
    "nasbench201": PublishedTable(
        name="nasbench201",
        description="NAS-Bench-201 / NATS-Bench topology space on CIFAR-10, CIFAR-100 and ImageNet16-120",
        rows=15_625,
        sources=(
            Source("NATS-tss-v1_0-3ffb9-simple", "1.1 GB (.tar, unpack it)", "https://github.com/D-X-Y/NATS-Bench"),
            Source("NAS-Bench-201-v1_1-096897.pth", "4.7 GB", "https://github.com/D-X-Y/NAS-Bench-201"),
        ),
        licence="MIT",
        citation=(
            "Dong & Yang, NAS-Bench-201, ICLR 2020, arXiv:2001.00326 (dong2020nasbench201); "
            "Dong et al., NATS-Bench, TPAMI 2021, arXiv:2009.00437 (dong2021nats)"
        ),
    ),
    "natsbench_size": PublishedTable(
        name="natsbench_size",
        description="NATS-Bench size space on CIFAR-10, CIFAR-100 and ImageNet16-120",
        rows=32_768,
        sources=(
            Source("NATS-sss-v1_0-50262-simple", "1.4 GB (.tar, unpack it)", "https://github.com/D-X-Y/NATS-Bench"),
        ),
        licence="MIT",
        citation="Dong et al., NATS-Bench, TPAMI 2021, arXiv:2009.00437 (dong2021nats)",
    ),
    "nasbench101": PublishedTable(
        name="nasbench101",
        description="NAS-Bench-101 space on CIFAR-10, three trainings of 108 epochs each (full: 4, 12 and 36, too)",
        rows=423_624,
        sources=(
            Source(
                "nasbench_only108.tfrecord",
                "499 MB",
                "https://github.com/google-research/nasbench",
                pickled=False,
                sha256="4c39c3936e36a85269881d659e44e61a245babcb72cb374eacacf75d0e5f4fd1",
            ),
            Source(
                "nasbench_full.tfrecord",
                "1.95 GB",
                "https://github.com/google-research/nasbench",
                pickled=False,
                sha256="3d64db8180fb1b0207212f9032205064312b6907a3bbc81eabea10db2f5c7e9c",
            ),
        ),
        licence="Apache-2.0",
        citation="Ying et al., NAS-Bench-101, ICML 2019, arXiv:1902.09635 (pmlr-v97-ying19a)",
        partial=True,
    ),
    "darts": PublishedTable(
        name="darts",
        description="214 random networks of the DARTS space on CIFAR-10, test accuracies of all 600 epochs",
        rows=214,
        sources=(
            Source(
                "darts_random214.npz",
                "0.3 MB, genotypes and curves of its folder Plots/data as arrays",
                "https://github.com/antoyang/NAS-Benchmark",
                pickled=False,
            ),
        ),
        licence="GPL-3.0",
        citation="Yang et al., NAS evaluation is frustratingly hard, ICLR 2020, arXiv:1912.12522 (Yang2020NAS)",
    ),
    "sigmoid_slope": PublishedTable(
        name="sigmoid_slope",
        description="Perceptrons of 100 sigmoid slopes on MNIST, mean of 20 runs",
        rows=100,
        sources=(
            Source(
                "sigmoid_slope.json",
                "4 kB, the pairs of its file mar8_search_slope_full.pkl as JSON",
                "https://github.com/uber-research/Synthetic-Petri-Dish",
                pickled=False,
            ),
        ),
        licence="Uber non-commercial licence",
        citation="Rawal et al., Synthetic Petri Dish, 2020, arXiv:2005.13092",
    ),
}


def how_to_get(name: str, folder: Path | None = None) -> str:
    """What to download and type to have a table; for unknown names, which there are.

    Args:
        name: Name of a table.
        folder: Folder it shall be in, unless it is the default one.

    Example:
        >>> how_to_get("mine").split(";")[0]
        'published tables are nasbench201, natsbench_size, nasbench101, darts, sigmoid_slope'
    """
    table = PUBLISHED.get(name)
    if table is None:
        return f"published tables are {', '.join(PUBLISHED)}; 'lightning-nas data list' says what is there"
    ways = [
        f"download {source.file}, {source.size}, from {source.url} and run '{table.command(source, folder)}'"
        for source in table.sources
    ]
    return "; or ".join(ways)
