"""Find, download and load the weights of :class:`samservice.engines.microsam.MicroSamEngine`."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..contract.errors import SegmentationFailed, WrongParameter
from . import microsam_api

#: The type of encoder that micro-sam takes from the module mobile_sam.
VIT_T = "vit_t"


def checked_device(device: str | None) -> str:
    """Return the torch device to use, for None the best available one. Raises WrongParameter."""
    try:
        util = microsam_api.util()
    except ModuleNotFoundError as error:
        raise WrongParameter(
            f"engine 'microsam' cannot be built: {error}; install micro-sam or use 'watershed'"
        ) from error
    try:
        return str(util.get_device(device))
    except RuntimeError as error:
        raise WrongParameter(f"device {device!r}: {error}") from error


def gpu_of(device: str) -> dict[str, Any] | None:
    """Return name and memory of a CUDA device, None for any other."""
    import torch

    if not device.startswith("cuda"):
        return None
    properties = torch.cuda.get_device_properties(device)
    return {"name": str(properties.name), "memory_bytes": int(properties.total_memory)}


def find_weights(model: str, checkpoint: str | None) -> list[Path]:
    """Return the file of the weights, or encoder and decoder where micro-sam has two files.

    Downloads a registered model's missing files. Raises :class:`WrongParameter` for an
    unknown model, one that needs a missing package, or a missing checkpoint,
    :class:`SegmentationFailed` when a download fails.
    """
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and not path.is_file():
        raise WrongParameter(f"checkpoint {checkpoint!r} is not a file, expected a file of weights")
    registry = microsam_api.util().models()
    known = [name for name in registry.registry if not name.endswith("_decoder")]
    vit_t_problem = microsam_api.vit_t_problem()
    if path is None and model not in known:
        needs = f" ({VIT_T} needs mobilesam-mirror, which is missing)" if vit_t_problem else ""
        raise WrongParameter(
            f"model {model!r} is unknown, expected one of {', '.join(known)}{needs}"
        )
    if model.startswith(VIT_T) and vit_t_problem:
        raise WrongParameter(
            f"model {model!r} needs the module mobile_sam, which cannot be imported "
            f"({vit_t_problem}); expected: pip install mobilesam-mirror"
        )
    return [path] if path is not None else _registered_weights(model, registry)


def _registered_weights(model: str, registry: Any) -> list[Path]:
    names = [name for name in (model, f"{model}_decoder") if name in registry.registry]
    try:
        return [Path(registry.fetch(name)) for name in names]
    # requests' errors are OSErrors; pooch raises ValueError for a download with a wrong hash.
    except (OSError, ValueError) as error:
        raise SegmentationFailed(
            f"the weights of {model!r} are not in {registry.abspath} and cannot be downloaded; "
            f"put {' and '.join(names)} there from a machine with internet, point "
            "$MICROSAM_CACHEDIR at a folder whose models/ has them, or give a checkpoint "
            f"({on_one_line(error)})"
        ) from error


def check_checkpoint(path: Path) -> None:
    """Raise WrongParameter unless torch's restricted unpickler reads the file.

    micro-sam unpickles without restriction, and a pickle may run any program.
    """
    import torch

    def read(*, mmap: bool) -> None:
        torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)

    # Malicious pickles can make the reader raise any error.
    try:
        try:
            read(mmap=True)
        except RuntimeError:
            # mmap avoids reading gigabytes, but does not support the format from before torch 1.6.
            read(mmap=False)
    except Exception as error:
        raise WrongParameter(
            f"checkpoint {str(path)!r} cannot be read as weights alone"
            f" ({on_one_line(error)}); its other content may run any program: set"
            " trust_checkpoint if you trust its source"
        ) from error


def load_segmenter(
    model: str, checkpoint: Path | None, mode: str, device: str, is_tiled: bool
) -> tuple[Any, Any]:
    """Return micro-sam's predictor and segmenter. Raises :class:`WrongParameter`."""
    micro_sam = microsam_api.automatic_segmentation()
    try:
        with pickle_restored():
            loaded: tuple[Any, Any] = micro_sam.get_predictor_and_segmenter(
                model, checkpoint, device, segmentation_mode=mode, is_tiled=is_tiled
            )
            return loaded
    except Exception as error:
        raise WrongParameter(
            f"{checkpoint or model} cannot be loaded in mode {mode}: {on_one_line(error)}"
        ) from error


@contextmanager
def pickle_restored() -> Iterator[None]:
    """Restore ``pickle.Unpickler``, which micro-sam replaces for the whole process."""
    original = pickle.Unpickler
    try:
        yield
    finally:
        pickle.Unpickler = original  # type: ignore[misc]


def mode_of(segmenter: Any) -> str:
    """Return the mode that micro-sam chose: ais, amg or apg."""
    classes = microsam_api.instance_segmentation()
    prompted = (classes.AutomaticPromptGenerator, classes.TiledAutomaticPromptGenerator)
    if isinstance(segmenter, prompted):
        return "apg"
    return "ais" if isinstance(segmenter, classes.InstanceSegmentationWithDecoder) else "amg"


def sha256_of(paths: Sequence[Path]) -> str:
    """Return the hexadecimal SHA-256 of the concatenated files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def on_one_line(error: Exception) -> str:
    """Return class and message of an error without line breaks, as the wire format needs."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
