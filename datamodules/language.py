"""Text as tokens, for language models."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_nas.datamodules.vision import as_it_is
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.nn.language_training import columns

END, UNKNOWN = "<eos>", "<unk>"

_PARTS = ("train", "valid", "test")
_SHARES = (0.8, 0.1, 0.1)


class LanguageModelDataModule(LightningDataModule):
    """Tokens of a text in three parts: Python's own help texts, any text file, or a folder of three.

    A folder holds ``train``, ``valid`` and ``test`` as ``NAME.txt``, ``NAME.txt.gz``, ``wiki.NAME.tokens`` (WikiText)
    or ``ptb.NAME.txt`` (Penn Treebank), whose words are separated by blanks already. Every line ends with ``<eos>``. A
    single file, and the help texts, are cut into words and signs and split by lines in that order: 80 % to train on,
    10 % to select by, 10 % for the test. The vocabulary is that of the training part.

    Args:
        path: Text file or folder; None for the help texts that come with Python (their words depend on its version).
        vocabulary_size: Most frequent tokens that are kept, ``<unk>`` for all others included; None for all.
        num_train: Tokens to train on, from the beginning; None for all.
        num_valid: Tokens to select by; None for all.
        num_test: Tokens of the test; None for all.
        batch_size: Pieces of the text that are read side by side.
        bptt: Time steps of a batch of the dataloaders.

    Example:
        >>> data = LanguageModelDataModule(vocabulary_size=100, num_train=1000)
        >>> data.setup()
        >>> len(data.vocabulary), data.train.shape
        (100, torch.Size([1000]))
    """

    train: Tensor
    valid: Tensor
    test: Tensor

    def __init__(
        self,
        path: str | None = None,
        vocabulary_size: int | None = 10_000,
        num_train: int | None = None,
        num_valid: int | None = None,
        num_test: int | None = None,
        batch_size: int = 20,
        bptt: int = 35,
    ) -> None:
        super().__init__()
        limits = [vocabulary_size, num_train, num_valid, num_test]
        if min(batch_size, bptt, *(1 if limit is None else limit - 1 for limit in limits)) < 1:
            raise UsageError(
                f"LanguageModelDataModule(vocabulary_size={vocabulary_size}, num_train={num_train}, num_valid="
                f"{num_valid}, num_test={num_test}, batch_size={batch_size}, bptt={bptt}): expected positive numbers, "
                "and sizes of 2 or more, or null"
            )
        self.path, self.limit = path, vocabulary_size
        self.sizes = num_train, num_valid, num_test
        self.batch_size, self.bptt = batch_size, bptt

    @property
    def origin(self) -> str:
        """Name of the text."""
        return "pydoc" if self.path is None else Path(self.path).name.partition(".")[0].lower()

    def identity(self) -> dict[str, Any]:
        """Primitives that fix every token; reads the text."""
        digest = hashlib.sha256("\x00".join(" ".join(words) for words in self._words).encode()).hexdigest()[:16]
        return {"data": self.origin, "text": digest, "vocabulary_size": self.limit, "sizes": list(self.sizes)}

    def setup(self, stage: str | None = None) -> None:
        """Read the text; repeats cost nothing."""
        if hasattr(self, "test"):
            return
        self.train, self.valid, self.test = (self._encoded(words) for words in self._words)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Number of every token, the most frequent first (equal ones by their first place)."""
        counted = Counter(self._words[0])
        counted.setdefault(UNKNOWN, 0)
        rare = counted.pop(UNKNOWN)
        kept = [word for word, _ in counted.most_common(None if self.limit is None else self.limit - 1)]
        place = sum(counted[word] > rare for word in kept) if rare else len(kept)
        kept.insert(place, UNKNOWN)
        return {word: number for number, word in enumerate(kept)}

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary."""
        return len(self.vocabulary)

    def _encoded(self, words: list[str]) -> Tensor:
        unknown = self.vocabulary[UNKNOWN]
        return torch.tensor([self.vocabulary.get(word, unknown) for word in words])

    @cached_property
    def _words(self) -> list[list[str]]:
        """Words of the three parts, cut to their sizes."""
        parts = self._folder() if self.path is not None and Path(self.path).is_dir() else self._single()
        cut = [words[:size] for words, size in zip(parts, self.sizes, strict=True)]
        for name, words in zip(_PARTS, cut, strict=True):
            if len(words) < 2:
                raise BenchmarkDataError(
                    f"{self.path or 'pydoc'}: the {name} part has {len(words)} words, expected more"
                )
        return cut

    def _folder(self) -> list[list[str]]:
        folder = Path(str(self.path))
        return [list(_words_of(_read(_find(folder, name)), str.split)) for name in _PARTS]

    def _single(self) -> list[list[str]]:
        if self.path is None:
            from pydoc_data.topics import topics

            text = "\n".join(topics[name] for name in sorted(topics))
        else:
            text = _read(Path(self.path))
        lines = [line for line in text.splitlines() if line.strip()]
        begin, parts = 0, []
        for share in _SHARES:
            end = begin + round(share * len(lines))
            parts.append(list(_words_of("\n".join(lines[begin:end]), _cut)))
            begin = end
        return parts

    def train_dataloader(self) -> DataLoader[Any]:
        """Pieces of the training text in order."""
        return self._loader(self.train)

    def val_dataloader(self) -> DataLoader[Any]:
        """Pieces of the validation text."""
        return self._loader(self.valid)

    def test_dataloader(self) -> DataLoader[Any]:
        """Pieces of the test text."""
        return self._loader(self.test)

    def _loader(self, tokens: Tensor) -> DataLoader[Any]:
        return DataLoader(Pieces(columns(tokens, self.batch_size), self.bptt), batch_size=None, collate_fn=as_it_is)


class Pieces(Dataset[tuple[Tensor, Tensor]]):
    """Consecutive pieces of a text that is read in several columns: tokens, and those that follow them.

    Args:
        text: ``(L, B)``.
        length: Time steps of a piece; the last one may be shorter.
    """

    def __init__(self, text: Tensor, length: int) -> None:
        self.text, self.length = text, length

    def __len__(self) -> int:
        return -(-(len(self.text) - 1) // self.length)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        begin = item * self.length
        end = min(begin + self.length, len(self.text) - 1)
        return self.text[begin:end], self.text[begin + 1 : end + 1]


def _find(folder: Path, part: str) -> Path:
    names = [f"{part}.txt", f"{part}.txt.gz", f"wiki.{part}.tokens", f"wiki.{part}.raw", f"ptb.{part}.txt"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise BenchmarkDataError(f"{folder}: holds no {part} part, expected one of {', '.join(names)}")


def _read(path: Path) -> str:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as file:
                return file.read()
        return path.read_text("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BenchmarkDataError(f"{path}: cannot be read as text ({error}); expected UTF-8, perhaps in .gz") from error


def _words_of(text: str, cut: Any) -> Iterator[str]:
    for line in text.splitlines():
        yield from cut(line)
        yield END


def _cut(line: str) -> list[str]:
    """Words and single signs."""
    return re.findall(r"\w+|[^\w\s]", line.lower())
