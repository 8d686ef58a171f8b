"""Reading an architecture that a search found: from its file, its run folder, or as typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_nas.errors import RunFolderError, SpaceError, UsageError
from lightning_nas.spaces.config import describe_space, make_space
from lightning_nas.spaces.describe import find_spaces


class Genotype(NamedTuple):
    """An architecture and where it comes from.

    Attributes:
        space: Class path and arguments of the search space.
        architecture: In the space's own notation.
        origin: A sentence about it, for the terminal.
        images: Class path and arguments of the data module on which the search trained, now with all images to train
            on; None where it looked scores up in a table, or nobody knows.
        trained_on: Name of the images on which the search trained; None where it did not.
    """

    space: dict[str, Any]
    architecture: str
    origin: str
    images: dict[str, Any] | None = None
    trained_on: str | None = None


def read_genotype(text: str) -> Genotype:
    """Find out which architecture is meant.

    Args:
        text: A ``genotype.json``, the run folder of a search, or an architecture in the notation of a shipped space.

    Raises:
        RunFolderError: The folder holds no genotype.
        UsageError: The file is damaged.
        SpaceError: It is neither a file nor an architecture of any space.

    Example:
        >>> read_genotype("|skip_connect~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|").space["class_path"]
        'lightning_nas.spaces.nasbench201.NASBench201'
    """
    path = Path(text)
    if path.is_dir():
        return _from_file(_in_folder(path))
    if path.is_file():
        return _from_file(path)
    if path.suffix == ".json":
        raise UsageError(f"--genotype {text}: there is no such file")
    return _from_notation(text)


def _in_folder(folder: Path) -> Path:
    path = folder / "genotype.json"
    if not path.is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        raise RunFolderError(
            f"{folder}: holds no genotype.json, but {found}; expected the run folder of a search with at least one "
            "evaluated architecture ('lightning-nas search' leaves it there)"
        )
    return path


def _from_file(path: Path) -> Genotype:
    try:
        content = json.loads(path.read_text("utf-8"))
        architecture, name = str(content["architecture"]), str(content["space"])
        described = content.get("space_class") or describe_space(find_spaces()[name])  # older files have the name alone
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{path}: not a genotype ({type(error).__name__}: {error}), expected a JSON object with 'space', "
            "'space_class' and 'architecture' as 'lightning-nas search' writes it"
        ) from error
    make_space(described).parse(architecture)
    scores = [f"{key} {content[key]:.2f} %" for key in ("valid", "test") if isinstance(content.get(key), float)]
    # All strategies and runs of a search share one genotype: the one with the best validation accuracy.
    by = (
        f" by {content['strategy']}, the best of all strategies and runs on validation" if "strategy" in content else ""
    )
    origin = f"{path}: found{by}" + (f" ({', '.join(scores)} in the search)" if scores else "")
    data = (content.get("benchmark") or {}).get("data")
    trained_on = str(data.get("data")) if isinstance(data, dict) else None
    return Genotype(described, architecture, origin, _images_of(path.parent), trained_on)


def _images_of(folder: Path) -> dict[str, Any] | None:
    """The data module of the search's live benchmark or supernet, from the configuration that the run left."""
    for name in ("config.yaml", "search_config.yaml"):
        try:
            config = yaml.safe_load((folder / name).read_text("utf-8"))
            shown = [_shown_to_supernet(config.get("data") or {})]
            for callback in config["trainer"]["callbacks"]:
                benchmark = (callback.get("init_args") or {}).get("benchmark") or {}
                shown.append((benchmark.get("init_args") or {}).get("data"))
            for data in shown:
                if isinstance(data, dict):
                    given = data.get("init_args") or {}
                    # A search may have taken a part of the images; of the digits, this says which are for the test.
                    some = () if data["class_path"].endswith(".DigitsDataModule") else ("num_train",)
                    kept = {name: value for name, value in given.items() if name not in ("batch_size", *some)}
                    return {"class_path": data["class_path"], "init_args": {**kept, "purpose": "evaluation"}}
        except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
            continue  # it is only a default
    return None


def _shown_to_supernet(data: dict[str, Any]) -> dict[str, Any] | None:
    """The images of a bilevel search, from the description of its data."""
    bilevel = str(data.get("class_path")).endswith(".BilevelDataModule")
    images: dict[str, Any] | None = (data.get("init_args") or {}).get("images") if bilevel else None
    return images


def _from_notation(text: str) -> Genotype:
    reasons = []
    for space in find_spaces().values():
        try:
            space.parse(text)
        except SpaceError as error:
            reasons.append(str(error))
        else:
            return Genotype(describe_space(space), text, f"an architecture of {space.name}, as typed")
    raise SpaceError(
        f"--genotype {text}: neither a genotype.json, nor a run folder, nor an architecture of a shipped space "
        f"({'; '.join(reasons)}); for a space of your own use --model.space CLASS --model.architecture STRING"
    )
