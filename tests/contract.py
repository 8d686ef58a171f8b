"""What every LightningModule here must do, and the tiny space that most tests of training and search run on.

A module's test subclasses :class:`ModuleContract` and says how to make the module and its data; all else is inherited.
"""

import multiprocessing
import os
from functools import cached_property

import numpy as np
import torch
import yaml
from pytorch_lightning import Callback, Trainer, seed_everything
from torch.utils.data import DataLoader, DistributedSampler

from lightning_nas.benchmarks.table import write_table
from lightning_nas.errors import SpaceError
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.categorical import CategoricalSpace


class TinySpace(CategoricalSpace):
    """81 cells: four operations in a row; whatever stands at position i, a ``skip`` there adds an arc from the input.

    Unlike in NAS-Bench-201, the wiring differs between cells, so that decoding it is a test.
    """

    name = "tiny"
    choices = (("conv", "pool", "skip"),) * 4
    vertex_labels = ("input", "conv", "pool", "skip", "output")
    num_vertices = 6

    def graph(self, arch):
        self._check(arch)
        ops = torch.tensor([0, *(code + 1 for code in arch), 4])
        adjacency = torch.diag(torch.ones(5, dtype=torch.bool), diagonal=1)
        for position, code in enumerate(arch):
            adjacency[0, position + 1] |= code == 2
        return CellGraph(ops, adjacency)

    def from_graph(self, graph):
        arch = tuple((graph.ops[1:-1] - 1).tolist())
        if set(arch) <= {0, 1, 2} and all(map(torch.equal, self.graph(arch), graph)):
            return arch
        raise SpaceError("tiny: no such cell")

    def build(self, arch):
        raise NotImplementedError("nothing here is trained")


class OtherSpace(TinySpace):
    """The same cells under another name."""

    name = "other"


def write_tiny_table(path, change=lambda columns: None):
    """A table of made-up scores: ``toy`` with valid, test and cost, ``second`` with other numbers."""
    rng = np.random.default_rng(3)
    columns = {}
    for dataset in ("toy", "second"):
        columns[f"{dataset}/valid@3"] = 80 + 10 * rng.random(81)
        columns[f"{dataset}/test@9"] = columns[f"{dataset}/valid@3"] + rng.normal(0, 1, 81)
        columns[f"{dataset}/cost@3"] = 10 * rng.random(81)
    change(columns)
    return write_table(path, {"space": "tiny"}, columns)


def quiet_trainer(folder, kind=Trainer, **arguments):
    """A Trainer without bars and summaries, on one CPU process unless asked otherwise."""
    defaults = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False, "log_every_n_steps": 1,
    }  # fmt: skip
    return kind(default_root_dir=str(folder), **{**defaults, **arguments})


def weights(module):
    """Copies of all parameters and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_identical(ours, theirs):
    """Bit for bit, NaN included."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name].nan_to_num(nan=-7e7), theirs[name].nan_to_num(nan=-7e7)), name


class Gradients(Callback):
    """Writes the gradients that the optimiser is about to use, and which cells they came from, per step and rank."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.cells = list(map(str, batch[0].tolist()))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        found = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}
        where = self.folder / f"{trainer.world_size}-{trainer.global_rank}-{trainer.global_step}.pt"
        torch.save({"cells": self.cells, "gradients": found}, where)


class ModuleContract:
    """Subclass it as ``Test…``; override :meth:`module`, :meth:`data`, and :meth:`calm` where eval() is not enough."""

    embedding_dim: int

    def module(self, seed=0):
        raise NotImplementedError

    def data(self, seed=0):
        raise NotImplementedError

    def calm(self, module):
        """Make the gradient of a batch the mean of its parts' gradients: no noise, no dropout, no batch statistics.

        Evaluation mode does all three, and Lightning keeps a module's mode during fit. Batch normalisation then uses
        running statistics, which must not be the trivial ones: the caller has trained the module before.
        """
        module.eval()

    def trained(self, folder, max_epochs, seed=0, ckpt_path=None, **arguments):
        seed_everything(seed, verbose=False)
        module = self.module(seed)
        if ckpt_path is not None:
            # What resumes must come from the checkpoint alone.
            seed_everything(12345, verbose=False)
            module = self.module(seed)
        trainer = quiet_trainer(folder, max_epochs=max_epochs, **arguments)
        trainer.fit(module, self.data(seed), ckpt_path=ckpt_path, **({"weights_only": True} if ckpt_path else {}))
        return module, trainer

    def test_fast_dev_run_touches_every_hook_and_no_file(self, tmp_path):
        module, data = self.module(), self.data()
        trainer = quiet_trainer(tmp_path, fast_dev_run=True, enable_checkpointing=True, logger=None)
        before = weights(module)
        trainer.fit(module, data)
        after = weights(module)
        assert any(not torch.equal(before[name], after[name]) for name in before)
        assert all(value.isfinite().all() for value in after.values())
        for verb in (trainer.validate, trainer.test):
            (logged,) = verb(module, data, verbose=False)
            assert logged
            assert all(np.isfinite(value) for value in logged.values())
        trainer.predict(module, data)
        assert list(tmp_path.iterdir()) == []

    def test_a_checkpoint_holds_primitives_and_restores_the_module_alone(self, tmp_path):
        module, trainer = self.trained(tmp_path, 1)
        path = tmp_path / "module.ckpt"
        trainer.save_checkpoint(path)
        torch.load(path, weights_only=True)
        restored = type(module).load_from_checkpoint(path, weights_only=True)
        assert_identical(weights(module), weights(restored))
        assert dict(restored.hparams) == dict(module.hparams)
        batch = next(iter(trainer.datamodule.predict_dataloader()))
        with torch.no_grad():
            assert torch.equal(restored.eval().predict_step(batch, 0)[1], module.eval().predict_step(batch, 0)[1])

    def test_two_and_two_epochs_are_four(self, tmp_path):
        _, half = self.trained(tmp_path, 2)
        half.save_checkpoint(tmp_path / "half.ckpt")
        rest, resumed = self.trained(tmp_path, 4, ckpt_path=tmp_path / "half.ckpt")
        whole, straight = self.trained(tmp_path, 4)
        assert resumed.global_step == straight.global_step > half.global_step
        assert any(not torch.equal(v, weights(half.lightning_module)[k]) for k, v in weights(whole).items())
        assert_identical(weights(whole), weights(rest))
        for ours, theirs in zip(straight.optimizers, resumed.optimizers, strict=True):
            for number, state in ours.state_dict()["state"].items():
                assert_identical(state, theirs.state_dict()["state"][number])

    def test_the_seed_fixes_everything(self, tmp_path):
        first, again, other = (weights(self.trained(tmp_path, 2, seed)[0]) for seed in (0, 0, 1))
        assert_identical(first, again)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_prediction_is_index_and_embedding_of_every_cell_in_order(self, tmp_path):
        module, data = self.module(), self.data()
        trainer = quiet_trainer(tmp_path)
        outputs = trainer.predict(module, data)
        index, embedding = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        assert torch.equal(index, torch.arange(len(data.space)))
        assert (len(embedding), embedding.shape[-1]) == (len(data.space), self.embedding_dim)  # perhaps several views
        assert embedding.isfinite().all()
        assert embedding.std(dim=0).max() > 1e-4
        again = torch.cat([values for _, values in trainer.predict(module, data)])
        assert torch.equal(embedding, again)

    def test_gradients_of_two_processes_are_those_of_the_joint_batch(self, tmp_path):
        """Gloo, 2 processes with batches of 8 against 1 process with batches of 16, three steps.

        Without noise, dropout and batch statistics (see :meth:`calm`) the two are the same number; what remains is
        float32 rounding in another order of summation.
        """
        module, trainer = self.trained(tmp_path, 1)
        trainer.save_checkpoint(tmp_path / "start.ckpt")
        for devices in (1, 2):
            module = type(module).load_from_checkpoint(tmp_path / "start.ckpt", weights_only=True)
            self.calm(module)
            trainer = quiet_trainer(
                tmp_path, devices=devices, strategy="ddp_fork" if devices == 2 else "auto", max_steps=3,
                use_distributed_sampler=False, callbacks=[Gradients(tmp_path)], limit_val_batches=0,
            )  # fmt: skip
            trainer.fit(module, self._without_shuffle(16 // devices))
        for step in range(3):
            joint, left, right = (torch.load(tmp_path / f"{name}-{step}.pt") for name in ("1-0", "2-0", "2-1"))
            assert sorted(left["cells"] + right["cells"]) == sorted(joint["cells"])
            assert not set(left["cells"]) & set(right["cells"])
            assert joint["gradients"].keys() == left["gradients"].keys()
            assert_identical(left["gradients"], right["gradients"])
            largest = max(float(g.abs().max()) for g in joint["gradients"].values())
            assert largest > 1e-3
            for name, gradient in joint["gradients"].items():
                assert torch.allclose(gradient, left["gradients"][name], rtol=1e-4, atol=1e-5 * largest), name

    def _without_shuffle(self, batch_size):
        data = self.data()

        def train_dataloader():
            loader = type(data).train_dataloader(data)
            trainer = data.trainer
            sampler = DistributedSampler(loader.dataset, trainer.world_size, trainer.global_rank, shuffle=False)
            return DataLoader(loader.dataset, batch_size, sampler=sampler, collate_fn=loader.collate_fn)

        data.train_dataloader = train_dataloader
        return data


class TinyModuleContract(ModuleContract):
    """The contract on :class:`TinySpace`."""

    @cached_property
    def space(self):
        return TinySpace()

    def data(self, seed=0):
        from lightning_nas.datamodules.cells import CellDataModule

        return CellDataModule(self.space, batch_size=8, eval_batch_size=32, val_fraction=0.2, seed=seed)


def tiny_config(folder, **search):
    """A complete experiment on the tiny space as a dictionary: arch2vec, then four strategies, five runs each."""
    return {
        "seed_everything": 0,
        "model": {
            "class_path": "lightning_nas.modules.arch2vec.Arch2Vec",
            "init_args": {"hidden_dim": 8, "latent_dim": 3, "num_layers": 2},
        },
        "data": {
            "class_path": "lightning_nas.datamodules.cells.CellDataModule",
            "init_args": {"space": "tests.contract.TinySpace", "batch_size": 8, "eval_batch_size": 32},
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {
                    "class_path": "lightning_nas.callbacks.search.SearchCallback",
                    "init_args": {
                        "benchmark": {
                            "class_path": "lightning_nas.benchmarks.tabular.TabularBenchmark",
                            "init_args": {
                                "space": "tests.contract.TinySpace",
                                "table": str(folder / "tiny.npz"),
                                "dataset": "toy",
                                "epochs": 3,
                                "test_epochs": 9,
                            },
                        },
                        "strategies": {
                            "random": {"class_path": "lightning_nas.search.random.RandomSearch"},
                            "evolution": {
                                "class_path": "lightning_nas.search.evolution.RegularizedEvolution",
                                "init_args": {"population_size": 4},
                            },
                            "gp": {
                                "class_path": "lightning_nas.search.bayesian.BayesianSearch",
                                "init_args": {
                                    "surrogate": "lightning_nas.predictors.gp.GaussianProcess",
                                    "num_initial": 4,
                                },
                            },
                        },
                        "num_queries": 8,
                        "num_runs": 5,
                        **search,
                    },
                }
            ],
        },
    }


class Project:
    """A folder with the tiny table and experiment, and the command line on it.

    Args:
        folder: Where to put it; runs go to ``folder / "run"`` unless told otherwise.
    """

    def __init__(self, folder):
        self.folder = folder
        self.run_dir = folder / "run"
        write_tiny_table(folder / "tiny.npz")
        self.config = self.write()

    def write(self, name="tiny.yaml", change=lambda config: None, **search):
        """Write a configuration and return its path."""
        config = tiny_config(self.folder, **search)
        change(config)
        path = self.folder / name
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    def main(self, verb, *args, config=None, run_dir=None):
        """Type ``lightning-nas VERB --config … --run_dir … ARGS`` in this process."""
        from lightning_nas.cli import main

        main([verb, "--config", str(config or self.config), "--run_dir", str(run_dir or self.run_dir), *map(str, args)])

    def fork(self, *args, before=lambda: None, **kwargs):
        """The same in a process of its own, started at once; ``before`` runs in it first."""

        def child():
            with open(self.folder / "child.log", "a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            before()
            self.main(*args, **kwargs)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        return process


def weights_in(run_dir):
    """State of the last checkpoint of a run folder."""
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def histories_in(run_dir):
    """Histories of all strategies of a run folder, by name."""
    files = sorted((run_dir / "search").glob("*.pt"))
    return {file.stem: torch.load(file, weights_only=True)["history"] for file in files}


def assert_same_searches(ours, theirs):
    """Two run folders hold the same histories, bit for bit."""
    first, second = histories_in(ours), histories_in(theirs)
    assert first.keys() == second.keys() != set()
    for name in first:
        assert first[name].pop("seed") == second[name].pop("seed")
        assert_identical(first[name], second[name])
