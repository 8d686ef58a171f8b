"""Training of many recurrent language models side by side, with all pieces of NAO's recipe (arXiv 1808.07233)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.errors import UsageError
from lightning_nas.nn.recurrent_cells import Dropped, LanguageModels


@dataclass(frozen=True)
class LanguageRecipe:
    """How recurrent language models are trained; the defaults are NAO's on Penn Treebank.

    Args:
        epochs: Passes over the text.
        batch_size: Columns that the training text is read in.
        eval_batch_size: Columns that the other texts are read in.
        bptt: Time steps of a piece, through which gradients flow.
        random_length: Draw the length of every piece: half of ``bptt`` with probability 0.05, and normal with a
            deviation of 5 around that, 5 to ``bptt + 20``; the learning rate follows the length.
        learning_rate: Of gradient descent, from the mean over pieces and words.
        clip: Largest norm of a gradient.
        weight_decay: Of gradient descent.
        width: Of embedding and state.
        gated: Whether nodes have gates.
        init_range: Weights are uniform within plus and minus this at first.
        word_dropout: Share of the words that are left out of a piece, everywhere in it.
        input_dropout: Share of the cell's inputs that are zeroed, the same at all time steps (so are the others).
        hidden_dropout: Of the last state.
        output_dropout: Of what the softmax reads.
        slowness: Weight of the squared difference between successive outputs.
        activation: Weight of the squared outputs.
        averaging_after: Epochs after which an epoch that is worse than the best of all but that many last ones begins
            the averaging of weights (ASGD); the average counts from then on. 0 averages from the beginning, None never.
    """

    epochs: int = 600
    batch_size: int = 64
    eval_batch_size: int = 10
    bptt: int = 35
    random_length: bool = True
    learning_rate: float = 20.0
    clip: float = 0.25
    weight_decay: float = 8e-7
    width: int = 850
    gated: bool = True
    init_range: float = 0.04
    word_dropout: float = 0.0
    input_dropout: float = 0.75
    hidden_dropout: float = 0.25
    output_dropout: float = 0.75
    slowness: float = 1e-3
    activation: float = 0.0
    averaging_after: int | None = 5

    def __post_init__(self) -> None:
        positive = self.epochs, self.batch_size, self.eval_batch_size, self.bptt, self.learning_rate, self.clip
        shares = self.word_dropout, self.input_dropout, self.hidden_dropout, self.output_dropout
        others = self.weight_decay, self.slowness, self.activation, self.averaging_after or 0
        if min(*positive, self.width, self.init_range) <= 0 or min(others) < 0 or not all(0 <= p < 1 for p in shares):
            raise UsageError(
                f"{self}: expected positive sizes and rates, shares in [0, 1), and penalties that are not negative"
            )

    def identity(self) -> dict[str, Any]:
        """Primitives that fix a training."""
        return asdict(self)


class LanguageTraining:
    """Trains N models, each by itself, on one text; what is random is the same for all and depends on the seed alone.

    Args:
        cells: Of the models, ``(N, 2 V)``.
        vocabulary_size: Words.
        recipe: How.
        seed: Of weights, lengths and dropout.
        device: Where.
    """

    def __init__(
        self, cells: Tensor, vocabulary_size: int, recipe: LanguageRecipe, seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.recipe, self.seed = recipe, seed
        self.models = LanguageModels(
            cells, vocabulary_size, recipe.width, recipe.init_range, seed, recipe.gated
        ).to(device)  # fmt: skip
        self.averages = [parameter.detach().clone() for parameter in self.models.parameters()]
        begins = 0.0 if recipe.averaging_after == 0 else math.inf
        self.steps, self.begins = 0, torch.full((len(cells),), begins, device=device)
        self.curve: list[Tensor] = []

    def train(self, text: Tensor, valid: Tensor) -> Tensor:
        """All epochs; validation loss after each, in nats per word, ``(N, epochs)``.

        Args:
            text: ``(L, B)``.
            valid: ``(L', B')``.
        """
        for epoch in range(self.recipe.epochs):
            self._epoch(text, epoch)
            loss = self.loss(valid)
            self._maybe_average(loss)
            self.curve.append(loss)
        return torch.stack(self.curve, dim=1)

    def _epoch(self, text: Tensor, epoch: int) -> None:
        recipe, models = self.recipe, self.models
        entropy = np.random.SeedSequence((self.seed, epoch, 1))
        rng, generator = np.random.default_rng(entropy), torch.Generator(text.device)
        generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0]) >> 1)
        state, begin = models.initial_state(text.shape[1]), 0
        while begin < len(text) - 1:
            length = min(self._length(rng), len(text) - 1 - begin)
            piece, following = text[begin : begin + length], text[begin + 1 : begin + length + 1]
            dropped = self._dropped(text.shape[1], generator)
            outputs, state = models.run(piece, state.detach(), dropped)
            read = outputs if dropped.outputs is None else outputs * dropped.outputs
            losses = self._cross_entropy(models.logits(read), following)
            if recipe.activation:
                losses = losses + recipe.activation * read.square().mean(dim=(1, 2, 3))
            if recipe.slowness and length > 1:
                change = outputs[:, 1:] - outputs[:, :-1]
                losses = losses + recipe.slowness * change.square().mean(dim=(1, 2, 3))
            gradients = torch.autograd.grad(losses.sum(), list(models.parameters()))
            self._step(gradients, recipe.learning_rate * (length / recipe.bptt if recipe.random_length else 1.0))
            begin += length

    def _length(self, rng: np.random.Generator) -> int:
        bptt = self.recipe.bptt
        if not self.recipe.random_length:
            return bptt
        base = bptt if rng.random() < 0.95 else bptt / 2
        return min(max(5, int(rng.normal(base, 5))), bptt + 20)

    def _dropped(self, size: int, generator: torch.Generator) -> Dropped:
        recipe, width = self.recipe, self.recipe.width

        def mask(share: float, *shape: int) -> Tensor | None:
            if share == 0.0:
                return None
            kept = torch.rand(shape, generator=generator, device=generator.device) >= share
            return kept.float() / (1.0 - share)

        return Dropped(
            mask(recipe.word_dropout, self.models.vocabulary_size), mask(recipe.input_dropout, size, width),
            mask(recipe.hidden_dropout, size, width), mask(recipe.output_dropout, size, width),
        )  # fmt: skip

    @staticmethod
    def _cross_entropy(logits: Tensor, following: Tensor) -> Tensor:
        """Mean over words of every model, ``(N, T, B, vocabulary)``, ``(T, B)`` -> ``(N,)``."""
        targets = following.flatten().repeat(len(logits))
        losses = F.cross_entropy(logits.flatten(0, 2), targets, reduction="none")
        return losses.view(len(logits), -1).mean(dim=1)

    @torch.no_grad()
    def _step(self, gradients: tuple[Tensor, ...], rate: float) -> None:
        """Clipped gradient descent of every model by itself, and the averages of those that average."""
        self.steps += 1
        squares = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients])
        factor = (self.recipe.clip / squares.sum(dim=0).sqrt().clamp_min(self.recipe.clip)).mul_(rate)
        share = 1.0 / (self.steps - self.begins).clamp_min(1.0)
        for parameter, gradient, average in zip(self.models.parameters(), gradients, self.averages, strict=True):
            view = -1, *[1] * (parameter.dim() - 1)
            parameter.mul_(1.0 - rate * self.recipe.weight_decay).sub_(gradient * factor.view(view))
            if self.recipe.averaging_after is not None:
                average.lerp_(parameter, share.view(view))

    def _maybe_average(self, loss: Tensor) -> None:
        """Begin averaging the models whose validation loss is worse than the best of all but the last epochs."""
        after = self.recipe.averaging_after
        if after and len(self.curve) > after:
            best = torch.stack(self.curve[:-after]).amin(dim=0)
            now = (loss > best) & self.begins.isinf()
            self.begins[now] = float(self.steps)

    @torch.no_grad()
    def loss(self, text: Tensor) -> Tensor:
        """Cross-entropy in nats per word, of the averaged weights where there are some, ``(L, B)`` -> ``(N,)``.

        A model that diverged, or is worse than a uniform guess, gets that of a uniform guess.
        """
        with self._averaged():
            state, total = self.models.initial_state(text.shape[1]), torch.zeros_like(self.begins)
            for begin in range(0, len(text) - 1, self.recipe.bptt):
                end = min(begin + self.recipe.bptt, len(text) - 1)
                outputs, state = self.models.run(text[begin:end], state)
                total += self._cross_entropy(self.models.logits(outputs), text[begin + 1 : end + 1]) * (end - begin)
        worst = math.log(self.models.vocabulary_size)
        return (total / (len(text) - 1)).nan_to_num(nan=worst).clamp_max(worst)

    def _averaged(self) -> Any:
        return _Swapped(list(self.models.parameters()), self.averages, self.recipe.averaging_after is not None)


class _Swapped:
    """Averages in place of the parameters, for as long as the block lasts."""

    def __init__(self, parameters: list[Any], averages: list[Tensor], there_are_some: bool) -> None:
        self.pairs = list(zip(parameters, averages, strict=True)) if there_are_some else []

    def __enter__(self) -> None:
        self.swap()

    def __exit__(self, *_: object) -> None:
        self.swap()

    def swap(self) -> None:
        for place, (parameter, average) in enumerate(self.pairs):
            self.pairs[place] = (parameter, parameter.data)
            parameter.data = average


def columns(tokens: Tensor, count: int) -> Tensor:
    """The text in equally long consecutive columns, ``(n,)`` -> ``(n // count, count)``; a rest is left out.

    Raises:
        UsageError: It is too short.

    Example:
        >>> columns(torch.arange(7), 3).tolist()
        [[0, 2, 4], [1, 3, 5]]
    """
    length = len(tokens) // count
    if length < 2:
        raise UsageError(f"got a text of {len(tokens)} tokens for {count} columns, expected at least two for each")
    return tokens[: length * count].view(count, length).T.contiguous()
