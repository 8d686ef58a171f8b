"""Writing a trained network for use without this package: as Python source, as a torch.export program, as ONNX.

Everything is compared with the live network before it is written; a file is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pprint import pformat
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_nas.errors import NASError, UsageError
from lightning_nas.export_template import TEMPLATE
from lightning_nas.files import write_atomically
from lightning_nas.modules.classifier import ImageClassifier
from lightning_nas.nn.auxiliary import HasAuxiliary
from lightning_nas.nn.source import network_source

# Other kernels sum in another order: a share of the scores' spread, and one of their size for what float32 can hold.
_TOLERANCE, _FLOOR = 1e-4, 100 * torch.finfo(torch.float32).eps
_PREPROCESSING = (
    "of an image file: turned upright by its EXIF tags; converted to grey or RGB; unless it is of height x width, the "
    "central square is cut out and resized bilinearly; pixels times max_pixel / 255; minus mean, divided by std"
)


class Exported(NamedTuple):
    """What was written.

    Attributes:
        path: The file to use.
        difference: Largest difference of a class score to the live network's.
        spread: Standard deviation of the live network's scores over images: what the difference is to be compared to.
    """

    path: Path
    difference: float
    spread: float


def export_python(model: ImageClassifier, folder: Path) -> Exported:
    """Write ``network.py`` and ``weights.pt``, which need torch alone.

    Args:
        model: A trained classifier.
        folder: Where to write.

    Raises:
        UsageError: The network cannot be written as source (see :func:`~lightning_nas.nn.source.network_source`), or
            the source does not compute the same.
    """
    network = _plain(model)
    source, facts = network_source(network), metadata(model)
    constants = {name: pformat(facts[name], width=100, compact=True) for name in ("classes", "mean", "std")}
    constants["architecture"] = facts["architecture"].replace("\\", r"\\").replace('"', r"\"")
    text = TEMPLATE.format(
        **facts | constants, imports=f"{source.imports}\n" if source.imports else "",
        modules=source.classes.rstrip(), constructor=source.constructor,
    )  # fmt: skip
    path, weights = folder / "network.py", io.BytesIO()
    torch.save(source.weights, weights)
    scope: dict[str, Any] = {"__name__": "exported_network", "__file__": str(path)}
    written: nn.Module | None = None
    try:
        exec(compile(text, path, "exec"), scope)
        written = scope["load"](io.BytesIO(weights.getvalue()))
        exported = _compare(model, path, written)
    except Exception as error:  # whatever a module of someone else's may do
        where = _first_difference(network, written, _images(model, 7))
        raise UsageError(
            f"export --format python: the source does not follow {where} ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); expected modules whose forward torch.fx can trace, or another --format: "
            "program, onnx"
        ) from error
    with write_atomically(folder / "weights.pt", "wb") as file:
        file.write(weights.getvalue())
    with write_atomically(path) as file:
        file.write(text)
    return exported


def export_program(model: ImageClassifier, folder: Path) -> Exported:
    """Write ``network.pt2``, a program for ``torch.export.load`` that takes any number of images.

    Args:
        model: A trained classifier.
        folder: Where to write.

    Raises:
        UsageError: torch.export cannot follow the network.
        NASError: What was written computes something else.
    """
    with _explained("program"):
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(_plain(model), (_images(model, 2),), dynamic_shapes=shapes)
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"metadata.json": json.dumps(metadata(model))})
    path = folder / "network.pt2"
    exported = _compare(model, path, torch.export.load(io.BytesIO(content.getvalue())).module())
    with write_atomically(path, "wb") as file:
        file.write(content.getvalue())
    return exported


def export_onnx(model: ImageClassifier, folder: Path) -> Exported:
    """Write ``network.onnx``, with a dynamic number of images; classes and preprocessing are in its metadata.

    Args:
        model: A trained classifier.
        folder: Where to write.

    Raises:
        UsageError: ONNX is not installed, or torch.export cannot follow the network.
        NASError: What was written computes something else.
    """
    if not onnx_is_there():
        raise UsageError("export --format onnx: needs ONNX; pip install 'lightning-nas[export]'")
    onnxruntime = importlib.import_module("onnxruntime")
    with _explained("onnx"), _quiet():
        program = torch.onnx.export(
            _plain(model), (_images(model, 2),), input_names=["images"], output_names=["scores"],
            dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata(model).items()})
    path, content = folder / "network.onnx", program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    exported = _compare(model, path, lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]))
    with write_atomically(path, "wb") as file:
        file.write(content)
    return exported


def onnx_is_there() -> bool:
    """Whether the packages of the extra ``export`` are installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


def metadata(model: ImageClassifier) -> dict[str, Any]:
    """What a user of the network must know, as primitives: the network's input is ``(pixels - mean) / std``.

    Args:
        model: A trained classifier.
    """
    channels, height, width = model.image_shape
    saved = model.hparams
    try:
        package = version("lightning-nas")
    except PackageNotFoundError:
        package = "from source"
    return {
        "space": model.space.name,
        "architecture": model.space.format(model.arch),
        "channels": channels,
        "height": height,
        "width": width,
        "mean": tuple(saved["mean"] or (0.0,) * channels),
        "std": tuple(saved["std"] or (1.0,) * channels),
        "max_pixel": saved["max_pixel"] or 255,
        "preprocessing": _PREPROCESSING,
        "classes": tuple(saved["classes"] or map(str, range(saved["num_classes"]))),
        "version": package,
    }


def _plain(model: ImageClassifier) -> nn.Module:
    """A copy of the network alone, for evaluation, without auxiliary head, with weights laid out as usual."""
    network = copy.deepcopy(model.network).eval().cpu()
    if isinstance(network, HasAuxiliary):
        network.auxiliary = None
    return network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


def _images(model: ImageClassifier, number: int) -> Tensor:
    """Random pixels, normalised."""
    facts = metadata(model)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(facts["max_pixel"] + 1, (number, *model.image_shape), generator=generator)
    mean, std = (torch.tensor(facts[name]).view(-1, 1, 1) for name in ("mean", "std"))
    return (pixels - mean) / std


@torch.no_grad()
def _compare(model: ImageClassifier, path: Path, written: Callable[[Tensor], Tensor]) -> Exported:
    """Scores of other images, and another number of them, than the export has seen."""
    images = _images(model, 7)
    expected = _plain(model)(images)
    difference, spread = float((written(images) - expected).abs().max()), float(expected.std(dim=0).mean())
    if not difference <= _TOLERANCE * spread + _FLOOR * float(expected.abs().max()):
        raise NASError(
            f"{path}: its scores differ from the network's by up to {difference:.3g}, so it was not written; use "
            "another --format, and please report this"
        )
    return Exported(path, difference, spread)


@torch.no_grad()
def _first_difference(network: nn.Module, written: nn.Module | None, images: Tensor) -> str:
    """The innermost of the first modules whose output differs; the copy's modules have the same names."""
    outputs: list[dict[str, Tensor]] = []
    copied = {} if written is None else dict(written.named_modules())
    for modules, run in ((dict(network.named_modules()), network), (copied, written)):
        found: dict[str, Tensor] = {}
        outputs.append(found)
        for name, module in modules.items():
            module.register_forward_hook(partial(_note, found, name))
        if run is not None:
            with contextlib.suppress(Exception):  # it ends at the module in question
                run(images)
    for name, output in outputs[0].items():  # a module ends after its children
        if name in copied and not (name in outputs[1] and torch.equal(output, outputs[1][name])):
            return f"{name} ({type(network.get_submodule(name)).__name__})" if name else type(network).__name__
    return type(network).__name__


def _note(found: dict[str, Tensor], name: str, module: nn.Module, given: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        found.setdefault(name, output.clone())  # which a later module may change


@contextlib.contextmanager
def _explained(format: str) -> Iterator[None]:
    """What torch.export says about a network that it cannot follow fills pages."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"export --format {format}: torch.export cannot follow the network ({type(error).__name__}: {reason}); "
            "expected a forward without branches on the values of tensors, or another --format"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress, no advice about operators that are not used here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(), open(os.devnull, "w") as nothing,
            contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing),
        ):  # fmt: skip
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
