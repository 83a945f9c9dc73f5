"""The engine for every model that micro-sam can load.

The engine imports micro-sam and torch when it is built, which takes seconds.
Source: https://github.com/computational-cell-analytics/micro-sam (1.8)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contract.axes import MASK_AXES
from ..contract.errors import (
    EmbeddingsUnsupported,
    SegmentationFailed,
    ServiceError,
    WrongAxes,
    WrongParameter,
)
from ..contract.image_statistics import FULL_RANGE, ROBUST_RANGE, ImageStatistics
from ..contract.parameters import check_parameters
from . import microsam_api
from .microsam_input import EncoderInput, bytes_as_they_are, encoder_input
from .microsam_load import (
    check_checkpoint,
    checked_device,
    find_weights,
    gpu_of,
    load_segmenter,
    mode_of,
    on_one_line,
    sha256_of,
)
from .microsam_parameters import (
    MODES,
    NORMALIZATION,
    PARAMETERS,
    arguments_of,
    normalization_of,
)
from .microsam_volume import segment_volume

#: Side of the patches from which Segment Anything's encoder makes one feature each.
PATCH_PX = 16
EMBEDDING_CHANNELS = 256

Labels = npt.NDArray[np.uint32]


class MicroSamEngine:
    """Implement :class:`samservice.engines.base.Engine` with a model of micro-sam.

    Args:
        model: Name in micro-sam's registry. With a checkpoint, it names the encoder.
        checkpoint: File to load instead of the registry's weights, in one of micro-sam's formats.
        mode: ``ais`` (needs a decoder), ``amg``, ``apg`` (needs a decoder) or ``auto``: AIS when
            the model has a decoder, else AMG.
        device: ``cpu``, ``cuda`` or ``mps``; None for the best available one.
        tile_shape: (Y, X) in pixels, together with ``halo`` or not at all. With them micro-sam
            embeds every image tile by tile and stitches the labels.
        halo: (Y, X) in pixels around each tile.
        trust_checkpoint: Accept a checkpoint that holds more than weights, as checkpoints of
            training do. Reading such a file may run any program.

    Raises:
        WrongParameter: An option is wrong, or the model cannot be loaded.
        SegmentationFailed: The weights cannot be downloaded.
    """

    def __init__(
        self,
        model: str = "vit_b_lm",
        checkpoint: str | None = None,
        mode: str = "auto",
        device: str | None = None,
        tile_shape: Sequence[int] | None = None,
        halo: Sequence[int] | None = None,
        trust_checkpoint: bool = False,
    ) -> None:
        if mode not in ("auto", *MODES):
            raise WrongParameter(f"mode {mode!r} is unknown, expected auto, {', '.join(MODES)}")
        # Any text is true in Python, "false" as well.
        if not isinstance(trust_checkpoint, bool):
            raise WrongParameter(f"trust_checkpoint {trust_checkpoint!r}, expected True or False")
        self._tiling = _checked_tiling(tile_shape, halo)
        self._device = checked_device(device)
        weights = find_weights(model, checkpoint)
        if checkpoint and not trust_checkpoint:
            check_checkpoint(weights[0])
        self._model_sha256 = sha256_of(weights)
        self._weights_folder = weights[0].resolve().parent
        self._name = Path(checkpoint).name if checkpoint else model
        self._predictor, self._segmenter = self.load_model(
            model, Path(checkpoint) if checkpoint else None, mode
        )
        self._mode = mode_of(self._segmenter)

    def load_model(self, model: str, checkpoint: Path | None, mode: str) -> tuple[Any, Any]:
        """Return micro-sam's predictor and segmenter on the engine's device.

        A subclass may override it to load another format of weights.

        Raises :class:`WrongParameter`.
        """
        return load_segmenter(model, checkpoint, mode, self._device, bool(self._tiling))

    def describe(self) -> dict[str, Any]:
        """See :meth:`samservice.engines.base.Engine.describe`.

        Further keys are ``mode``, ``tile_shape``, ``halo``, and ``embedding_bytes``, the size of
        an unpacked embedding or None without embeddings.

        ``model`` names weights, mode and tiling, because each of them changes the labels.
        ``model_sha256`` is the digest of the checkpoint, or of encoder and then decoder where
        micro-sam's registry has two files.
        """
        packages = ("micro_sam", "torch", "torch_em", "numpy")
        return {
            "engine": "microsam",
            "model": self._identity(),
            "model_sha256": self._model_sha256,
            "segmentation_version": 2,
            "versions": {package: version(package) for package in packages},
            "embeddings": self._has_embeddings(),
            "embedding_parameters": [NORMALIZATION] if self._has_embeddings() else [],
            "image_statistics": [ROBUST_RANGE, FULL_RANGE],
            "device": self._device,
            "gpu": gpu_of(self._device),
            "slow_without_gpu": True,
            # Segment Anything scales every image to a square of one size.
            "scales_images": True,
            "model_cache": str(self._weights_folder),
            "parameters": {name: dict(schema) for name, schema in PARAMETERS[self._mode].items()},
            "mode": self._mode,
            "tile_shape": list(self._tiling["tile_shape"]) if self._tiling else None,
            "halo": list(self._tiling["halo"]) if self._tiling else None,
            "embedding_bytes": (
                math.prod(self._feature_shape()) * np.dtype(np.float32).itemsize
                if self._has_embeddings()
                else None
            ),
        }

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        """Raise :class:`WrongParameter` with the parameter, its value and the accepted values."""
        check_parameters(parameters, PARAMETERS[self._mode], f" (mode {self._mode})")

    def segment(
        self,
        image: npt.NDArray[np.generic],
        axes: str,
        parameters: dict[str, Any],
        statistics: ImageStatistics | None = None,
    ) -> Labels:
        """Segment (Y, X), (C, Y, X), (Z, Y, X) or (C, Z, Y, X).

        :func:`.microsam_input.encoder_input` converts the image for the model. A volume is
        segmented plane by plane, and its objects are joined across z by overlap.
        Returns uint32 labels, (Y, X) or (Z, Y, X); a plane without content gives zeros.

        Raises :class:`WrongParameter`, :class:`WrongAxes`, :class:`SegmentationFailed`.
        """
        self.check_parameters(parameters)
        prepared = encoder_input(image, axes, normalization_of(parameters), statistics)
        shape = prepared.pixels.shape[: len(MASK_AXES[axes])]
        if not prepared.has_content.any():
            return np.zeros(shape, np.uint32)
        generate, merging = arguments_of(parameters, self._mode, axes)
        generate |= self._one_thread()
        with self._one_image(shape), bytes_as_they_are(prepared.is_final):
            if "Z" in axes:
                return segment_volume(
                    self._predictor, self._segmenter, prepared, self._tiling, generate, merging
                )
            return self._segment_plane(prepared, generate)

    def _segment_plane(self, prepared: EncoderInput, generate: dict[str, Any]) -> Labels:
        labels = microsam_api.automatic_segmentation().automatic_instance_segmentation(
            self._predictor,
            self._segmenter,
            prepared.pixels,
            ndim=2,
            verbose=False,
            **self._tiling,
            **generate,
        )
        return np.asarray(labels).astype(np.uint32, copy=False)

    def encode(
        self,
        image: npt.NDArray[np.generic],
        axes: str,
        parameters: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the embedding of a (Y, X) or (C, Y, X) image.

        Keys: ``features`` (1, 256, N, N) float32, N = 64 for micro-sam's models; ``input_size``
        and ``original_size``, [Y, X] of the image in pixels, for the model and as received;
        ``constant`` (bool, a plane without content; features are zeros then); ``normalization``;
        ``model`` and ``model_sha256``. ``parameters`` may hold ``normalization``.

        Raises :class:`EmbeddingsUnsupported` unless the mode is AIS or APG without tiles,
        :class:`WrongParameter`, :class:`WrongAxes` for a volume, :class:`SegmentationFailed`.
        """
        self._require_embeddings()
        self.check_parameters(parameters or {})
        if axes in MASK_AXES and MASK_AXES[axes] != "YX":
            raise WrongAxes(
                f"axes {axes} are not those of a plane, expected YX or CYX for an embedding"
            )
        normalization = normalization_of(parameters or {})
        prepared = encoder_input(image, axes, normalization)
        original_size = prepared.pixels.shape[:2]
        constant = not prepared.has_content.any()
        if constant:
            features = np.zeros(self._feature_shape(), np.float32)
        else:
            features = self._encode_prepared(prepared)
        return {
            "features": features,
            "input_size": list(self._input_size(original_size)),
            "original_size": list(original_size),
            "constant": constant,
            NORMALIZATION: normalization,
            "model": self._identity(),
            "model_sha256": self._model_sha256,
        }

    def segment_embedding(self, embedding: dict[str, Any], parameters: dict[str, Any]) -> Labels:
        """Segment the answer of :meth:`encode`: (Y, X) uint32, equal to :meth:`segment`.

        Raises :class:`EmbeddingsUnsupported` for an embedding of another model or mode and for a
        malformed one; :class:`WrongParameter`, :class:`SegmentationFailed`.
        """
        self.check_parameters(parameters)
        features, original_size = self._checked_embedding(embedding, parameters)
        if embedding["constant"]:
            return np.zeros(original_size, np.uint32)
        image_embeddings = {
            "features": features,
            "input_size": self._input_size(original_size),
            "original_size": original_size,
        }
        with self._one_image(original_size):
            self._segmenter.initialize(image=None, image_embeddings=image_embeddings, verbose=False)
            labels = self._segmenter.generate(**arguments_of(parameters, self._mode, "YX")[0])
        return np.asarray(labels).astype(np.uint32, copy=False)

    def _encode_prepared(self, prepared: EncoderInput) -> npt.NDArray[np.float32]:
        pixels = prepared.pixels
        with self._one_image(pixels.shape[:2]), bytes_as_they_are(prepared.is_final):
            computed = microsam_api.util().precompute_image_embeddings(
                self._predictor, pixels, ndim=2, verbose=False
            )
        return np.asarray(computed["features"], np.float32)

    def _checked_embedding(
        self, embedding: dict[str, Any], parameters: dict[str, Any]
    ) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
        self._require_embeddings()
        expected = {
            "model": self._identity(),
            "model_sha256": self._model_sha256,
            NORMALIZATION: normalization_of(parameters),
        }
        for key, own in expected.items():
            if embedding.get(key) != own:
                raise EmbeddingsUnsupported(
                    f"the embedding's {key} is {embedding.get(key)!r}, expected {own!r}"
                )
        features = np.asarray(embedding.get("features"))
        if features.shape != self._feature_shape() or features.dtype != np.float32:
            raise EmbeddingsUnsupported(
                f"the embedding's features are {features.dtype} {features.shape}, "
                f"expected float32 {self._feature_shape()}"
            )
        original_size = _size(embedding.get("original_size"))
        if (
            original_size is None
            or _size(embedding.get("input_size")) != self._input_size(original_size)
            or not isinstance(embedding.get("constant"), bool)
        ):
            raise EmbeddingsUnsupported(
                f"the embedding's original_size {embedding.get('original_size')!r}, input_size "
                f"{embedding.get('input_size')!r} and constant {embedding.get('constant')!r} "
                "do not fit together, expected the values that encode returned"
            )
        return np.ascontiguousarray(features), original_size

    def _identity(self) -> str:
        tiles = ""
        if self._tiling:
            tile, halo = self._tiling["tile_shape"], self._tiling["halo"]
            tiles = f", tiles {tile[0]}x{tile[1]} px, halo {halo[0]}x{halo[1]} px"
        return f"{self._name} ({self._mode}{tiles})"

    def _one_thread(self) -> dict[str, int]:
        """Return the option that makes tiled AIS reproducible.

        With more threads, one thread smooths in place the pixels that another one reads.
        """
        return {"n_threads": 1} if self._tiling and self._mode == "ais" else {}

    def _has_embeddings(self) -> bool:
        return self._mode in ("ais", "apg") and not self._tiling

    def _require_embeddings(self) -> None:
        if not self._has_embeddings():
            raise EmbeddingsUnsupported(
                f"{self._identity()} has no embeddings, expected mode ais or apg without tiles"
            )

    def _feature_shape(self) -> tuple[int, int, int, int]:
        side = int(self._predictor.model.image_encoder.img_size) // PATCH_PX
        return (1, EMBEDDING_CHANNELS, side, side)

    def _input_size(self, original_size: tuple[int, ...]) -> tuple[int, int]:
        transform = self._predictor.transform
        rows, columns = transform.get_preprocess_shape(*original_size, transform.target_length)
        return int(rows), int(columns)

    @contextmanager
    def _one_image(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Translate micro-sam's errors, and always clear the image's state afterwards."""
        try:
            yield
        except ServiceError:
            raise
        except Exception as error:
            raise self._translated(error, shape) from error
        finally:
            self._predictor.reset_image()
            self._segmenter.clear_state()
            # clear_state does not delete the features that the tiled segmenters keep of every tile.
            if hasattr(self._segmenter, "_image_embeddings"):
                self._segmenter._image_embeddings = None

    def _translated(self, error: Exception, shape: tuple[int, ...]) -> SegmentationFailed:
        import torch

        # On the CPU torch reports exhausted memory as a RuntimeError.
        exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if exhausted or "can't allocate memory" in str(error):
            return SegmentationFailed(
                f"out of memory on {self._device} with an image of {shape} px; give the engine "
                "tile_shape and halo, a smaller model, or a device with more memory"
            )
        return SegmentationFailed(f"micro-sam failed with {on_one_line(error)}")


def _checked_tiling(
    tile_shape: Sequence[int] | None, halo: Sequence[int] | None
) -> dict[str, tuple[int, int]]:
    if tile_shape is None and halo is None:
        return {}
    tile, overlap = _size(tile_shape), _size(halo, least=0)
    if tile is None or overlap is None:
        raise WrongParameter(
            f"tile_shape {tile_shape!r} and halo {halo!r}, expected both as [Y, X] in whole "
            "pixels, such as [384, 384] and [64, 64], or neither"
        )
    return {"tile_shape": tile, "halo": overlap}


def _size(value: object, least: int = 1) -> tuple[int, int] | None:
    """Return a (Y, X) of two integers not below ``least``, None for any other value."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    if any(isinstance(n, bool) or not isinstance(n, int) or n < least for n in value):
        return None
    return value[0], value[1]
