"""Find, download, check and load the weights of :class:`.cellpose.CellposeEngine`.

Cellpose downloads another model when a path does not exist, and loads what it finds of a checkpoint
whose keys do not fit; both are refused here.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
from importlib import metadata
from pathlib import Path
from typing import Any

from ..contract.errors import SegmentationFailed, WrongParameter
from .microsam_load import on_one_line

#: Environment variable of Cellpose for the folder of the weights.
MODELS_VARIABLE = "CELLPOSE_LOCAL_MODELS_PATH"

#: Distributions with a module ``segment_anything``; their files lie in one folder.
_SEGMENT_ANYTHING = ("segment_anything", "segment-anything-py")


def checked_device(device: str | None) -> Any:
    """Return the torch device to use, for None the best available one. Raises WrongParameter."""
    try:
        import torch
        from cellpose.core import assign_device
    except ModuleNotFoundError as error:
        raise WrongParameter(
            f"engine 'cellpose' cannot be built: {error}; expected: pip install cellpose"
        ) from error
    if device is None:
        return assign_device(gpu=True)[0]
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise WrongParameter(f"device {device!r}: {on_one_line(error)}") from error
    return chosen


def models_folder() -> Path:
    """Return the folder of Cellpose's weights.

    Cellpose reads the variable only when it is imported.
    """
    named = os.environ.get(MODELS_VARIABLE)
    return Path(named) if named else Path.home() / ".cellpose" / "models"


def find_weights(model: str, checkpoint: str | None) -> Path:
    """Return the file of the weights; a model of Cellpose is downloaded if it is missing.

    Raises :class:`WrongParameter` for an unknown model or a missing checkpoint,
    :class:`SegmentationFailed` when the download fails.
    """
    from cellpose import models, utils

    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            raise WrongParameter(
                f"checkpoint {checkpoint!r} is not a file, expected a file of weights"
            )
        return Path(checkpoint)
    if model not in models.MODEL_NAMES:
        raise WrongParameter(
            f"model {model!r} is unknown, expected one of {', '.join(models.MODEL_NAMES)}, or the"
            " option checkpoint for a file"
        )
    path = models_folder() / model
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            utils.download_url_to_file(models._MODEL_URL + model, str(path), progress=False)
        # Errors of urllib are OSErrors.
        except OSError as error:
            raise SegmentationFailed(
                f"the weights of {model!r} are not in {path.parent} and cannot be downloaded; put"
                f" {model} there from a machine with internet, point ${MODELS_VARIABLE} at a folder"
                f" that has it, or give a checkpoint ({on_one_line(error)})"
            ) from error
    return path


def load_model(weights: Path, device: Any, use_bfloat16: bool) -> Any:
    """Return Cellpose's model with the weights of a file.

    Raises :class:`WrongParameter` for a file that is no checkpoint of Cellpose 4, or that lacks
    some of the model's weights or has others.
    """
    from cellpose import models

    try:
        model = models.CellposeModel(
            pretrained_model=str(weights), device=device, use_bfloat16=use_bfloat16
        )
        stored = _stored_names(weights)
    except Exception as error:
        raise WrongParameter(f"{weights} cannot be loaded: {on_one_line(error)}") from error
    expected = set(model.net.state_dict())
    if stored != expected:
        missing, unknown = sorted(expected - stored), sorted(stored - expected)
        raise WrongParameter(
            f"{weights} has {len(stored)} weights, expected the {len(expected)} of the model:"
            f" {len(missing)} are missing (e.g. {', '.join(missing[:2]) or 'none'}),"
            f" {len(unknown)} are unknown (e.g. {', '.join(unknown[:2]) or 'none'})"
        )
    return model


def installed_segment_anything() -> str:
    """Return name and version of the distribution whose files lie in ``segment_anything``.

    Two distributions install different files there, and the last one wins without a word: the
    labels may then be others.
    """
    import segment_anything

    folder = Path(str(segment_anything.__file__)).parent
    for name in _SEGMENT_ANYTHING:
        try:
            record = metadata.distribution(name).read_text("RECORD") or ""
        except metadata.PackageNotFoundError:
            continue
        digests = {row[0]: row[1] for row in csv.reader(record.splitlines()) if len(row) > 1}
        files = ("segment_anything/build_sam.py", "segment_anything/modeling/image_encoder.py")
        if all(digests.get(file) == _record_digest(folder.parent / file) for file in files):
            return f"{name} {metadata.version(name)}"
    return "unknown"


def _record_digest(path: Path) -> str:
    """Return the digest of a file as a wheel's RECORD has it."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _stored_names(weights: Path) -> set[str]:
    import torch

    stored = torch.load(weights, map_location="cpu", weights_only=True)
    return {name.removeprefix("module.") for name in stored}
