"""What a training of a found architecture leaves in its run folder besides the checkpoint."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning_nas.files import write_atomically
from lightning_nas.modules.classifier import ImageClassifier
from lightning_nas.nn.complexity import count_flops
from lightning_nas.provenance import provenance


def write_retrain_report(
    folder: Path, model: ImageClassifier, data: dict[str, Any], valid: float | None, test: float, **training: float
) -> str:
    """Write ``retrain.json`` and ``summary.md``, each atomically.

    Args:
        folder: Run folder.
        model: The trained module.
        data: Identity of the data.
        valid: Validation accuracy in percent; None where all images were trained on.
        test: Test accuracy in percent.
        training: Numbers about the training: epochs, seconds.

    Returns:
        The summary, for the terminal.

    Raises:
        RunFolderError: The folder cannot be written.
    """
    record = {
        "space": model.space.name,
        "architecture": model.space.format(model.arch),
        "test_accuracy": test,
        "valid_accuracy": valid,
        **training,
        "parameters": sum(weight.numel() for weight in model.network.parameters()),
        "multiply_adds": count_flops(model.network, model.image_shape),
        "model": {name: value for name, value in model.hparams.items() if not name.startswith("_")},
        "data": data,
        "date": datetime.now(UTC).date().isoformat(),
        **provenance(),
    }
    with write_atomically(folder / "retrain.json") as file:
        json.dump(record, file, indent=2, ensure_ascii=False)
        file.write("\n")
    selected = "" if valid is None else f", validation {valid:.2f} %"
    text = (
        f"# An architecture of {record['space']}, trained from scratch\n\n"
        f"`{record['architecture']}`\n\n"
        f"Test accuracy **{test:.2f} %**{selected}, after {training['epochs']:.0f} epochs in "
        f"{training['seconds']:.0f} seconds; {record['parameters']:,} parameters, "
        f"{record['multiply_adds'] / 1e6:.1f} million multiply-adds for an image.\n\n"
        "The weights are those of the last step: nothing was selected on the test images.\n\n"
        f"Files: checkpoints/last.ckpt: the weights; config.yaml: everything that was set; retrain.json: these numbers."
        f"\n\nNext:\n\n    lightning-nas export {folder}\n"
    )
    with write_atomically(folder / "summary.md") as file:
        file.write(text)
    return text
