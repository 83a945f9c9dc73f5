"""The engine for Cellpose 4 (Cellpose-SAM).

The engine imports Cellpose and torch when it is built, which takes seconds.
The steps are those of ``CellposeModel.eval``.
Source: https://github.com/MouseLand/cellpose (4.2.1)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contract.axes import mask_shape
from ..contract.errors import EmbeddingsUnsupported, SegmentationFailed, WrongAxes, WrongParameter
from ..contract.image_statistics import ImageStatistics
from .cellpose_load import checked_device, find_weights, installed_segment_anything, load_model
from .cellpose_parameters import (
    MODEL_DIAMETER_PX,
    OF_THE_MODEL,
    PARAMETERS,
    STEPS,
    check_parameters,
    complete,
)
from .microsam_load import gpu_of, on_one_line, sha256_of
from .microsam_options import BFLOAT16, FLOAT32, checked_dtype
from .stages import Prepared, segment_in_stages

#: Channels that the model takes.
MAX_CHANNELS = 3
#: Bytes of each value of an image in ``prepare``, and of each pixel of the flows and the dynamics.
_PREPARE_BYTES = 12
_FLOW_BYTES = 60

Labels = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Flows:
    """What the model gave for one image.

    Attributes:
        labels_shape: Shape of the labels, (Y, X) or (Z, Y, X).
        shape: Shape of the image as the model received it, (Z, Y, X, C).
        flows: (2 or 3, Z, Y, X), or (3, Z, Y, X) for flows in three dimensions.
        cellprob: (Z, Y, X).
        masks: The labels where the device made them, else None.
    """

    labels_shape: tuple[int, ...]
    shape: tuple[int, ...]
    flows: npt.NDArray[np.float32]
    cellprob: npt.NDArray[np.float32]
    masks: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class ModelInput:
    """An image for the model.

    Attributes:
        labels_shape: Shape of the labels, (Y, X) or (Z, Y, X).
        pixels: (Z, Y, X, C) float32, normalized.
        parameters: All parameters.
    """

    labels_shape: tuple[int, ...]
    pixels: npt.NDArray[np.float32]
    parameters: Mapping[str, Any]


class CellposeEngine:
    """Implement :class:`samservice.engines.stages.StagedEngine` with a model of Cellpose 4.

    Args:
        model: Name of a model of Cellpose.
        checkpoint: File of weights to load instead.
        device: ``cpu``, ``cuda`` or ``mps``; None for the best available one.
        dtype: ``float32``, or ``bfloat16``, which is faster on a GPU and gives other labels.

    Raises:
        WrongParameter: An option is wrong, or the model cannot be loaded.
        SegmentationFailed: The weights cannot be downloaded.
    """

    def __init__(
        self,
        model: str = "cpsam_v2",
        checkpoint: str | None = None,
        device: str | None = None,
        dtype: str = FLOAT32,
    ) -> None:
        self._dtype = checked_dtype(dtype)
        self._device = checked_device(device)
        weights = find_weights(model, checkpoint)
        self._model_sha256 = sha256_of([weights])
        self._weights_folder = weights.resolve().parent
        self._name = Path(checkpoint).name if checkpoint else model
        self._model = self.load_model(weights)
        self._segment_anything = installed_segment_anything()

    def load_model(self, weights: Path) -> Any:
        """Return Cellpose's model. A subclass may load another network. Raises WrongParameter."""
        return load_model(weights, self._device, self._dtype == BFLOAT16)

    def describe(self) -> dict[str, Any]:
        """See :meth:`samservice.engines.base.Engine.describe`.

        ``model`` names the weights, and bfloat16, which changes the labels.
        """
        import torch

        on_cpu = self._device.type == "cpu"
        packages = ("cellpose", "torch", "numpy")
        versions = {package: version(package) for package in packages}
        return {
            "engine": "cellpose",
            "model": self._name + (f" ({self._dtype})" if self._dtype != FLOAT32 else ""),
            "model_sha256": self._model_sha256,
            "segmentation_version": 1,
            "versions": {**versions, "segment_anything": self._segment_anything},
            "embeddings": False,
            "inference_parameters": list(OF_THE_MODEL if on_cpu else PARAMETERS),
            "device": str(self._device),
            "gpu": gpu_of(str(self._device)),
            "slow_without_gpu": True,
            "model_cache": str(self._weights_folder),
            "parameters": {name: dict(schema) for name, schema in PARAMETERS.items()},
            "device_threads": torch.get_num_threads() if on_cpu else 0,
        }

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        """Raise :class:`WrongParameter` with the parameter, its value and the accepted values."""
        check_parameters(parameters)

    def segment(
        self,
        image: npt.NDArray[np.generic],
        axes: str,
        parameters: dict[str, Any],
        statistics: ImageStatistics | None = None,
    ) -> Labels:
        """Segment (Y, X), (C, Y, X), (Z, Y, X) or (C, Z, Y, X) as ``CellposeModel.eval`` does.

        A volume needs ``do_3D`` or ``stitch_threshold`` to join objects across planes. Grey images
        have one channel: the model then uses its first one alone.
        Returns uint32 labels, (Y, X) or (Z, Y, X).

        Raises :class:`WrongParameter`, :class:`WrongAxes` above three channels,
        :class:`SegmentationFailed`.
        """
        return segment_in_stages(self, image, axes, parameters, statistics)

    def prepare(
        self,
        image: npt.NDArray[np.generic],
        axes: str,
        parameters: dict[str, Any],
        statistics: ImageStatistics | None = None,
    ) -> Prepared | npt.NDArray[np.uint32]:
        """Return a normalized copy of the image; an image without content has no objects."""
        self.check_parameters(parameters)
        pixels = _channels_last(image, axes)
        labels_shape = mask_shape(image.shape, axes)
        if all(_is_constant(pixels[..., channel]) for channel in range(pixels.shape[-1])):
            return np.zeros(labels_shape, np.uint32)
        given = complete(parameters)
        normalized = _normalized(pixels, given)
        return Prepared(ModelInput(labels_shape, normalized, given))

    def infer(self, prepared: Sequence[Prepared]) -> list[Flows]:
        """Run the model, and on a GPU also the dynamics, which use the device."""
        return [self._infer(each.content) for each in prepared]

    def _infer(self, given: ModelInput) -> Flows:
        parameters = given.parameters
        try:
            flows, cellprob, _ = self._model._run_net(
                given.pixels,
                rescale=_rescale(parameters),
                **{
                    name: parameters[name]
                    for name in (
                        *("resample", "augment", "batch_size", "tile_overlap", "do_3D"),
                        "anisotropy",
                    )
                },
            )
            found = Flows(given.labels_shape, given.pixels.shape, flows, cellprob)
            if self._device.type == "cpu":
                return found
            return replace(found, masks=self._masks(found, parameters))
        except Exception as error:
            raise _translated(error, str(self._device), given.labels_shape) from error

    def finish(self, state: Flows, parameters: dict[str, Any]) -> Labels:
        """Return the labels of the model's flows, uint32."""
        masks = state.masks
        if masks is None:
            try:
                masks = self._masks(state, complete(parameters))
            except Exception as error:
                raise _translated(error, str(self._device), state.labels_shape) from error
        # Cellpose squeezes axes of length 1.
        return np.asarray(masks).reshape(state.labels_shape).astype(np.uint32)

    def _masks(self, state: Flows, parameters: Mapping[str, Any]) -> npt.NDArray[Any]:
        rescale = _rescale(parameters) if parameters["resample"] else 1.0
        # Cellpose divides by zero where an axis has length 1.
        with np.errstate(divide="ignore", invalid="ignore"):
            masks = self._model._compute_masks(
                state.shape,
                state.flows,
                state.cellprob,
                niter=parameters["niter"] or int(STEPS / rescale),
                **{
                    name: parameters[name]
                    for name in (
                        *("flow_threshold", "cellprob_threshold", "min_size"),
                        *("max_size_fraction", "stitch_threshold", "do_3D"),
                    )
                },
            )
        is_joined = parameters["do_3D"] or parameters["stitch_threshold"] > 0
        return np.asarray(masks) if is_joined or state.shape[0] == 1 else _with_own_ids(masks)

    def max_batch(self, batch_key: Hashable) -> int:
        """Return 1: the model computes the tiles of one image together."""
        return 1

    def working_bytes(self, shape: tuple[int, ...], axes: str) -> int:
        """Return the bytes of an image from ``prepare`` to the end of ``finish``."""
        values = int(np.prod(shape, dtype=np.int64))
        pixels = int(np.prod(mask_shape(shape, axes), dtype=np.int64))
        return max(_PREPARE_BYTES * values, 4 * values + _FLOW_BYTES * pixels)

    def encode(
        self,
        image: npt.NDArray[np.generic],
        axes: str,
        parameters: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Raise :class:`EmbeddingsUnsupported`."""
        raise EmbeddingsUnsupported("cellpose has no embeddings")

    def segment_embedding(self, embedding: dict[str, Any], parameters: dict[str, Any]) -> Labels:
        """Raise :class:`EmbeddingsUnsupported`."""
        raise EmbeddingsUnsupported("cellpose has no embeddings")


def _channels_last(image: npt.NDArray[np.generic], axes: str) -> npt.NDArray[np.float32]:
    """Return a float32 copy, (Z, Y, X, C); a plane has one Z. Raises WrongAxes."""
    if axes.startswith("C") and image.shape[0] > MAX_CHANNELS:
        raise WrongAxes(
            f"the image has {image.shape[0]} channels, Cellpose takes {MAX_CHANNELS} at most:"
            " select channels"
        )
    # Cellpose changes float32 images in place.
    pixels = np.array(image, np.float32)
    pixels = np.moveaxis(pixels, 0, -1) if axes.startswith("C") else pixels[..., None]
    return np.ascontiguousarray(pixels if "Z" in axes else pixels[None])


def _is_constant(channel: npt.NDArray[np.float32]) -> bool:
    return bool(channel.min() == channel.max())


def _normalized(
    pixels: npt.NDArray[np.float32], parameters: Mapping[str, Any]
) -> npt.NDArray[np.float32]:
    """Return the pixels as ``CellposeModel.eval`` normalizes them."""
    from cellpose import transforms

    normalize = dict(parameters["normalize"])
    if not normalize["normalize"]:
        return pixels
    is_joined = parameters["do_3D"] or parameters["stitch_threshold"] > 0
    if len(pixels) > 1:
        normalize["norm3D"] = parameters["do_3D"] or (is_joined and normalize["norm3D"])
    try:
        return np.asarray(transforms.normalize_img(pixels, **normalize), np.float32)
    except ValueError as error:
        raise WrongParameter(f"parameter 'normalize': {on_one_line(error)}") from error


def _rescale(parameters: Mapping[str, Any]) -> float:
    diameter = parameters["diameter"]
    return MODEL_DIAMETER_PX / diameter if diameter > 0 else 1.0


def _with_own_ids(planes: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Return the labels of planes, each numbered from 1, with ids of their own in each plane."""
    counts = [int(plane.max(initial=0)) for plane in planes]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.uint32)
    shifted = [
        np.where(plane > 0, plane + start, 0) for plane, start in zip(planes, starts, strict=True)
    ]
    return np.stack(shifted).astype(np.uint32)


def _translated(error: Exception, device: str, shape: tuple[int, ...]) -> Exception:
    """Return MemoryError where the memory did not suffice, else SegmentationFailed."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "can't allocate memory" in str(error)
    ):
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
        return MemoryError(
            f"out of memory on {device} with an image of {shape} px; give a smaller batch_size or"
            " a device with more memory"
        )
    return SegmentationFailed(f"Cellpose failed with {on_one_line(error)}")
