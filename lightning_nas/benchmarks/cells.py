"""Ground truth of recurrent cells: language models really trained, many cells side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_nas.benchmarks.side_by_side import SideBySideBenchmark, Trained
from lightning_nas.nn.language_training import LanguageRecipe, LanguageTraining, columns
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.recurrent_cell import Cell, RecurrentCell

if TYPE_CHECKING:
    from lightning_nas.datamodules.language import LanguageModelDataModule

_DEFAULT_RECIPE = LanguageRecipe()


class CellBenchmark(SideBySideBenchmark[Cell]):
    """Negative perplexities of language models with a recurrent cell (arXiv 2005.13092, Sec. 4.2): higher is better.

    Args:
        data: The text.
        space: The cells; default: all with 11 nodes.
        recipe: How the language models are trained; its defaults are those of 600 epochs on Penn Treebank.
        seed: Of weights and dropout of the first run.
        num_seeds: Runs of every cell; scores are means.
        group_size: Cells trained at a time.
        store: SQLite file that keeps results; None for this process's memory alone.
        device: Where to train, for example ``cuda``.
    """

    def __init__(
        self,
        data: LanguageModelDataModule,
        space: SearchSpace | None = None,  # type: ignore[type-arg]  # jsonargparse would instantiate SearchSpace[A]
        recipe: LanguageRecipe = _DEFAULT_RECIPE,
        seed: int = 0,
        num_seeds: int = 1,
        group_size: int = 16,
        store: str | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(space or RecurrentCell(), recipe.epochs, seed, num_seeds, group_size, store)
        self.data, self.recipe, self.device = data, recipe, device
        self._texts: list[Tensor] | None = None

    def details(self) -> dict[str, Any]:
        """Text and recipe."""
        return {"data": self.data.identity(), "recipe": self.recipe.identity()}

    def num_parameters(self, arch: Cell) -> int:
        """Weights, biases of the softmax, embedding."""
        width, words = self.recipe.width, self.data.num_tokens
        columns = 2 * width if self.recipe.gated else width
        return (2 * width + len(arch) // 2 * width) * columns + words * (width + 1)

    def train(self, archs: Sequence[Cell], seeds: Sequence[int]) -> Trained:
        """All cells as one computation, seed by seed."""
        text, valid, test = self._read()
        curves, tests = [], []
        for seed in seeds:
            cells = torch.tensor(archs, device=self.device)
            training = LanguageTraining(cells, self.data.num_tokens, self.recipe, seed, self.device)
            curves.append(training.train(text, valid))
            tests.append(training.loss(test))
        return -torch.stack(curves, dim=1).double().exp().cpu(), -torch.stack(tests, dim=1).double().exp().cpu()

    def _read(self) -> list[Tensor]:
        if self._texts is None:
            self.data.prepare_data()
            self.data.setup("fit")
            sizes = self.recipe.batch_size, self.recipe.eval_batch_size, self.recipe.eval_batch_size
            parts = self.data.train, self.data.valid, self.data.test
            self._texts = [columns(part, size).to(self.device) for part, size in zip(parts, sizes, strict=True)]
        return self._texts
