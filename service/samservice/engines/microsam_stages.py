"""What the stages of micro-sam pass on, and the stages that use the CPU alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contract.axes import MASK_AXES, mask_shape
from . import microsam_api
from .microsam_input import EncoderInput, coloured
from .microsam_volume import join_planes

#: Bytes of each value of an image in ``prepare``, the image itself included.
_PREPARE_BYTES = 20
#: Bytes of each pixel of a plane: in AIS the three maps of the state, and what ``generate`` needs.
_MAPS_BYTES = 12
_GENERATE_BYTES = 33
_LABEL_BYTES = 4
#: In AMG, a state has three masks for each of 32 x 32 points, run-length encoded in lists.
_AMG_MASKS = 3 * 32 * 32
_RUN_BYTES = 44

Labels = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ScaledPlane:
    """A plane as the encoder receives it.

    Attributes:
        pixels: (Y, X, 3); the longer side is that of the encoder's input.
        original_size: (Y, X) of the plane before, pixels.
    """

    pixels: Bytes
    original_size: tuple[int, int]

    @property
    def input_size(self) -> tuple[int, int]:
        """(Y, X) of the scaled plane, pixels."""
        height, width = self.pixels.shape[:2]
        return height, width


@dataclass(frozen=True)
class PlaneFeatures:
    """A plane of which the encoder's output is known.

    Attributes:
        features: (1, 256, N, N) float32.
        input_size: (Y, X) of the scaled plane, pixels.
        original_size: (Y, X) of the plane before, pixels.
    """

    features: npt.NDArray[np.float32]
    input_size: tuple[int, int]
    original_size: tuple[int, int]


@dataclass(frozen=True)
class ModelInput:
    """What the device needs of one image.

    Attributes:
        shape: That of the labels, (Y, X) or (Z, Y, X).
        shown: The numbers of the planes with content; those of a single plane are (0,).
        source: The planes with content, or the whole image where micro-sam itself scales it.
        generate: The arguments of ``generate`` for a mode in which it uses the device.
    """

    shape: tuple[int, ...]
    shown: tuple[int, ...]
    source: tuple[ScaledPlane, ...] | PlaneFeatures | EncoderInput
    generate: Mapping[str, Any]


@dataclass(frozen=True)
class ModelState:
    """What the device gave for one image.

    Attributes:
        shape: That of the labels, (Y, X) or (Z, Y, X).
        shown: The numbers of the planes with content.
        planes: For each of these the state of micro-sam's segmenter, or labels (Y, X) in a mode
            in which the device makes them.
    """

    shape: tuple[int, ...]
    shown: tuple[int, ...]
    planes: tuple[Any, ...]


def working_bytes(shape: tuple[int, ...], axes: str, mode: str) -> int:
    """Return the bytes of an image from ``prepare`` to the end of ``finish``.

    They are an upper limit for ``ais``, measured at 2048 and 4096 px. For ``amg`` each mask is
    assumed to have two runs in each column. What ``infer`` needs on top is not contained.
    """
    labels_shape = mask_shape(shape, axes)
    plane = math.prod(labels_shape[-2:])
    voxels = math.prod(labels_shape)
    states = {
        "ais": _MAPS_BYTES * voxels,
        "amg": _AMG_MASKS * 2 * labels_shape[-1] * _RUN_BYTES * voxels // plane,
        "apg": _LABEL_BYTES * voxels,
    }
    finish = states[mode] + _GENERATE_BYTES * plane + 2 * _LABEL_BYTES * voxels
    return max(_PREPARE_BYTES * math.prod(shape), finish)


def scaled_planes(
    prepared: EncoderInput, shown: tuple[int, ...], axes: str, transform: Any
) -> tuple[ScaledPlane, ...]:
    """Return the planes with content, scaled by the ``transform`` of micro-sam's predictor.

    The steps are those of ``micro_sam.util.precompute_image_embeddings`` (1.8).
    """
    planes = [prepared.pixels[z] for z in shown] if "Z" in axes else [prepared.pixels]
    to_bytes = coloured if prepared.is_final else microsam_api.util()._to_image
    return tuple(
        ScaledPlane(transform.apply_image(to_bytes(plane)), (plane.shape[0], plane.shape[1]))
        for plane in planes
    )


def shown_planes(prepared: EncoderInput) -> tuple[int, ...]:
    """Return the numbers of the planes with content."""
    return tuple(int(z) for z in np.flatnonzero(prepared.has_content))


def finished(
    state: ModelState,
    blank: Any,
    generate: Mapping[str, Any],
    merging: Mapping[str, Any],
    tiles: Mapping[str, Any],
) -> Labels:
    """Return the labels of a state, (Y, X) or (Z, Y, X). It changes no argument.

    ``blank`` is a segmenter without state, ``tiles`` the arguments for planes of micro-sam's own
    tiles; the others are those of :func:`.microsam_parameters.arguments_of`.
    """
    is_volume = len(state.shape) == len(MASK_AXES["ZYX"])
    planes = (_labels(plane, blank, generate, {} if is_volume else tiles) for plane in state.planes)
    return join_planes(planes, state.shown, state.shape, merging) if is_volume else next(planes)


def _labels(
    plane: Any, blank: Any, generate: Mapping[str, Any], tiles: Mapping[str, Any]
) -> Labels:
    """Return the labels of a plane's state."""
    if isinstance(plane, np.ndarray):
        return plane.astype(np.uint32)
    # With tiles, micro-sam smooths the arrays of the state in place.
    state = copy.deepcopy(plane) if tiles else plane
    segmenter = copy.copy(blank)
    segmenter.set_state(state)
    return np.asarray(segmenter.generate(**generate, **tiles)).astype(np.uint32, copy=False)
