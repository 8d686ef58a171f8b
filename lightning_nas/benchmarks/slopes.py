"""Ground truth of the sigmoid's slope: perceptrons really trained, many slopes and runs side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_nas.benchmarks.side_by_side import SideBySideBenchmark, Trained, grouped, with_runs
from lightning_nas.nn.slope_networks import SlopeNetworks, SlopeRecipe
from lightning_nas.spaces.sigmoid_slope import SigmoidSlope

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_nas.datamodules.vision import VisionDataModule

_DEFAULT_RECIPE = SlopeRecipe()


class SlopeBenchmark(SideBySideBenchmark[float]):
    """Accuracies of perceptrons with a slope (arXiv 2005.13092, Sec. 4.1), means over runs.

    Args:
        data: Images to train, select and report on; pixels are scaled to 0 … 1.
        space: The slopes; default: the paper's grid of 100.
        recipe: How the perceptrons are trained.
        seed: Of weights and order of the first run.
        num_seeds: Runs of every slope (the paper: 20).
        group_size: Slopes trained at a time.
        store: SQLite file that keeps results; None for this process's memory alone.
        device: Where to train, for example ``cuda``.
    """

    def __init__(
        self,
        data: VisionDataModule,
        space: SigmoidSlope | None = None,
        recipe: SlopeRecipe = _DEFAULT_RECIPE,
        seed: int = 0,
        num_seeds: int = 20,
        group_size: int = 5,
        store: str | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(space or SigmoidSlope(), recipe.epochs, seed, num_seeds, group_size, store)
        self.data, self.recipe, self.device = data, recipe, device
        self._parts: list[tuple[Tensor, Tensor]] | None = None

    def details(self) -> dict[str, Any]:
        """Data and recipe."""
        return {"data": self.data.identity(), "recipe": self.recipe.identity()}

    def num_parameters(self, arch: float) -> int:
        """Weights and biases."""
        inputs, width = (
            math.prod(self.data.image_shape),
            self.recipe.width,
        )
        hidden = (inputs + 1) * width + (self.recipe.num_layers - 1) * (width + 1) * width
        return hidden + (width + 1) * self.data.num_classes

    def train(self, archs: Sequence[float], seeds: Sequence[int]) -> Trained:
        """All slopes and seeds as one computation."""
        (images, labels), valid, test = self._pixels()
        slopes, several = with_runs(archs, seeds)
        networks = SlopeNetworks(slopes, several, images.shape[1], self.data.num_classes, self.recipe, self.device)
        curve = networks.train(images, labels, valid)
        return grouped(curve, len(archs)), grouped(networks.accuracy(*test), len(archs))

    def _pixels(self) -> list[tuple[Tensor, Tensor]]:
        if self._parts is None:
            self.data.prepare_data()
            self.data.setup("fit")
            self._parts = [
                (part.images.flatten(1).float().div(self.data.max_pixel).to(self.device), part.labels.to(self.device))
                for part in (self.data.train, self.data.valid, self.data.test)
            ]
        return self._parts
