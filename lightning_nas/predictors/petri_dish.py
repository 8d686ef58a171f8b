"""A Petri dish as a performance predictor (arXiv 2005.13092)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.modules.petri_dish import PetriDish
from lightning_nas.nn.inner_loop import InnerLoop
from lightning_nas.nn.motif_network import MotifNetwork
from lightning_nas.predictors.predictor import Regression, RegressionPredictor
from lightning_nas.predictors.targets import Target
from lightning_nas.spaces.base import FiniteSpace


class PetriDishPredictor(RegressionPredictor):
    """Learns a new dish from the known architectures, random data and weights each time, and scores others in it.

    For spaces whose architectures are what the network reads: ``SigmoidSlope`` with ``SlopeNetwork``.

    Args:
        network: Blueprint of the motif-networks; default ``SlopeNetwork``.
        loop: How they are trained; default 250 steps of Adam.
        num_dishes: Dishes whose median score counts; the paper has one.
        keep: Share of the dishes whose median this is, at least one: those that match the known scores best.
        init_scale: Standard deviation of the initial weights.
        penalty: Weight of the sum of squares of all inputs.
        stages: Outer steps and learning rate of each stage.
        reset_moments: Begin every stage with a new optimiser.
        clip: Largest norm of a dish's gradient; None for no limit.
        normalise: Make the gradient of every dish one long.
        target: What is matched instead of the accuracies themselves; default: standardised ones.
    """

    def __init__(
        self,
        network: MotifNetwork | None = None,
        loop: InnerLoop | None = None,
        num_dishes: int = 8,
        keep: float = 0.6,
        init_scale: float = 1.0,
        penalty: float = 1e-5,
        stages: Sequence[tuple[int, float]] = ((20, 0.05), (30, 0.02), (30, 0.008)),
        reset_moments: bool = True,
        clip: float | None = None,
        normalise: bool = False,
        target: Target | None = None,
    ) -> None:
        super().__init__(target)
        self.network, self.loop, self.init_scale = network, loop, init_scale
        self.num_dishes, self.keep = num_dishes, keep
        self.penalty, self.stages, self.reset_moments = penalty, list(stages), reset_moments
        self.clip, self.normalise = clip, normalise
        self.dish(0)  # says at once what cannot be

    def dish(self, seed: int, num_dishes: int | None = None) -> PetriDish:
        """An untrained dish with these settings."""
        return PetriDish(
            self.network, self.loop, num_dishes or self.num_dishes, self.keep, self.init_scale,
            self.penalty, self.stages, self.reset_moments, clip=self.clip, normalise=self.normalise, seed=seed,
        )  # fmt: skip

    def regression(self, space: FiniteSpace[Any], members: LongTensor, targets: Tensor, seed: int) -> Regression:
        """Learn the dish's data."""
        if len(members) < 2:
            raise UsageError(f"PetriDishPredictor: got {len(members)} known architectures, expected at least two")
        dish = self.dish(seed)
        dish.learn(_motifs(dish, space, members), targets)
        return _Scores(space, dish)

    def predict_runs(
        self, space: FiniteSpace[Any], known: Sequence[tuple[Tensor, Tensor]], asked: Sequence[Tensor],
        seeds: Sequence[int],
    ) -> list[Tensor]:  # fmt: skip
        """Predictions of several runs, whose dishes are trained side by side.

        Args:
            space: The architectures' space.
            known: Of each run, members and their accuracies, as many in every run.
            asked: Of each run, members to be predicted.
            seeds: Of each run.
        """
        return self.ask_runs(self.learn_runs(space, known, seeds), space, known, asked)

    def learn_runs(
        self, space: FiniteSpace[Any], known: Sequence[tuple[Tensor, Tensor]], seeds: Sequence[int]
    ) -> PetriDish:
        """The dishes of several runs, trained side by side; arguments as of :meth:`predict_runs`."""
        each = self.num_dishes
        dish = self.dish(seeds[0], each * len(known))
        dish.begin_anew([(seed, number) for seed in seeds for number in range(each)])
        motifs, targets = [], []
        for members, accuracies in known:
            motifs += each * [_motifs(dish, space, members)]  # type: ignore[arg-type]
            targets += each * [self.target.fit(accuracies).forward(accuracies)]
        dish.learn(torch.stack(motifs), torch.stack(targets))
        return dish

    def ask_runs(
        self, dish: PetriDish, space: FiniteSpace[Any], known: Sequence[tuple[Tensor, Tensor]], asked: Sequence[Tensor]
    ) -> list[Tensor]:
        """Predictions of dishes that :meth:`learn_runs` made; arguments as of :meth:`predict_runs`."""
        wanted = [_motifs(dish, space, members) for members in asked]  # type: ignore[arg-type]
        most = max(map(len, wanted))
        padded = [torch.cat([part, part[:1].expand(most - len(part), *part.shape[1:])]) for part in wanted]
        scores = dish.consensus(torch.stack([part for part in padded for _ in range(self.num_dishes)]), len(known))
        return [
            self.target.fit(accuracies).backward(row[: len(part)])
            for (_, accuracies), row, part in zip(known, scores, wanted, strict=True)
        ]


class _Scores(Regression):
    def __init__(self, space: FiniteSpace[Any], dish: PetriDish) -> None:
        self.space, self.dish = space, dish

    def __call__(self, members: LongTensor) -> Tensor:
        return self.dish.consensus(_motifs(self.dish, self.space, members))[0]


def _motifs(dish: PetriDish, space: FiniteSpace[Any], members: LongTensor) -> Tensor:
    return dish.network.motifs([space[place] for place in members.tolist()])
