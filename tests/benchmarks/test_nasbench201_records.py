"""The readers of official files, below the importer that ``test_nasbench201.py`` takes through whole sources."""

from types import SimpleNamespace

import numpy as np
import pytest

from lightning_nas.benchmarks.nasbench201_records import gather, open_nats, open_pth
from lightning_nas.errors import BenchmarkDataError


class Trained:
    """Answers like the official packages' results: accuracies that name their own place."""

    def __init__(self, number, epochs, seeds):
        self.number, self.epochs, self.seeds = number, epochs, seeds
        self.arch_str = ("first", "second")[number]

    def query(self, training):
        accuracies = {
            f"{name}@{epoch}": self.number + epoch / 1000 + 10 * place
            for place, name in enumerate(("x-valid", "x-test", "ori-test"))
            for epoch in range(self.epochs)
        }
        return {seed: self._trial(accuracies, seed) for seed in self.seeds}

    def _trial(self, accuracies, seed):
        return SimpleNamespace(
            eval_acc1es={key: value + seed / 1e4 for key, value in accuracies.items()},
            train_times=dict.fromkeys(range(self.epochs), 2.0),
            eval_times=dict.fromkeys(accuracies, 0.5),
            params=0.1,
            flop=8.0,
            epochs=self.epochs,
            get_latency=lambda: -1.0,
        )


def test_seeds_stand_side_by_side_and_missing_ones_are_holes():
    def record(index):
        seeds = (777, 888) if index == 0 else (777,)
        return {12: Trained(index, 12, (111,)), 200: Trained(index, 200, seeds)}

    columns, seeds = gather(record, ["first", "second"], "source")
    assert seeds["cifar10/test@200"] == [777, 888]
    test = columns["cifar10/test@200"]
    np.testing.assert_allclose(test[0], [20.199 + 0.0777, 20.199 + 0.0888], rtol=1e-5)
    np.testing.assert_allclose(test[1, 0], 21.199 + 0.0777, rtol=1e-5)
    assert np.isnan(test[1, 1])
    np.testing.assert_allclose(columns["cifar100/valid@12"][:, 0], [0.011 + 0.0111, 1.011 + 0.0111], rtol=1e-4)
    assert not [name for name in columns if name.startswith("latency")]  # a negative latency was not measured


def test_a_record_of_another_cell_is_refused():
    def record(index):
        return {12: Trained(1 - index, 12, (111,)), 200: Trained(1 - index, 200, (777,))}

    with pytest.raises(BenchmarkDataError, match="record 0 is of 'second', expected 'first'"):
        gather(record, ["first", "second"], "source")


@pytest.mark.parametrize("opened", [open_pth, open_nats])
def test_what_is_no_such_source_is_refused(tmp_path, opened):
    damaged = tmp_path / "damaged"
    if opened is open_nats:
        damaged.mkdir()
        (damaged / "meta.pickle.pbz2").write_bytes(b"nothing")
    else:
        damaged.write_bytes(b"nothing")
    with pytest.raises(BenchmarkDataError, match="damaged"):
        opened(damaged, 3)
