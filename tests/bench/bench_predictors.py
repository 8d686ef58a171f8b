"""EmProx, NAO and SemiNAS against the same algorithms written step by step, on one thread.

``python -m tests.bench.bench_predictors``: fits to 121 cells of NAS-Bench-201 with the published settings. The plain
version runs its LSTMs cell by cell, as sequence models are written for decoding; weights, batches and losses are the
same. Both in turn, several times; processor seconds, medians.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_nas.nn.seq2seq import SequenceDecoder, SequenceEncoder
from lightning_nas.predictors.emprox import EmProx
from lightning_nas.predictors.nao import NAO, SemiNAS
from lightning_nas.predictors.predictor import Predictor
from lightning_nas.spaces.nasbench201 import NASBench201
from tests.bench.keeping import Times

KNOWN, REPEATS = 121, 3


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


def main() -> None:
    """Measure, print and keep."""
    torch.set_num_threads(1)
    note = (
        "Both sides multiply the same matrices. An LSTM of our own, both "
        "directions in one product, sigmoids for tangents and the backward pass by hand, was slower than torch's: 8.0 "
        "against 6.2 ms forward and backward at width 32, 20.0 against 16.7 ms at width 64 (100 sequences of 27 "
        "tokens, both directions, beside other work), and was not kept."
    )
    times = Times(
        "predictors", "Fit of sequence predictors on 121 cells, processor seconds", "LSTMs step by step", (note,)
    )
    generator = torch.Generator().manual_seed(0)
    members = torch.randperm(len(NASBench201()), generator=generator)[:KNOWN]
    accuracies = 85 + 10 * torch.rand(KNOWN, generator=generator, dtype=torch.float64)
    for name, predictor, repeats in (("EmProx", EmProx(), REPEATS), ("NAO", NAO(), REPEATS), ("SemiNAS", SemiNAS(), 1)):
        pairs = []
        for _ in range(repeats):
            ours = seconds(predictor, members, accuracies)
            pairs.append((ours, plainly(lambda one=predictor: seconds(one, members, accuracies))))  # type: ignore[misc]
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        times.add(name, mine, theirs)
    times.keep(f"NAS-Bench-201, {KNOWN} cells, published settings (EmProx 50 epochs at 32, NAO and SemiNAS at 64)")


if __name__ == "__main__":
    main()
