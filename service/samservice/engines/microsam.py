"""The engine for every model that micro-sam can load.

The engine imports micro-sam and torch when it is built, which takes seconds.
Source: https://github.com/computational-cell-analytics/micro-sam (1.8)
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contract.axes import MASK_AXES
from ..contract.errors import (
    EmbeddingsUnsupported,
    SegmentationFailed,
    WrongParameter,
)
from ..contract.image_statistics import FULL_RANGE, ROBUST_RANGE, ImageStatistics
from ..contract.parameters import check_parameters
from .microsam_device import MicroSamDevice
from .microsam_embedding import MicroSamEmbeddings
from .microsam_errors import (
    is_out_of_memory,
    memory_error_translated,
    micro_sam_failed,
    out_of_memory,
)
from .microsam_input import encoder_input
from .microsam_load import (
    check_checkpoint,
    checked_device,
    find_weights,
    gpu_of,
    load_segmenter,
    mode_of,
    sha256_of,
)
from .microsam_options import FLOAT32, checked_dtype, checked_tiling, identity
from .microsam_parameters import (
    MODES,
    NORMALIZATION,
    PARAMETERS,
    arguments_of,
    inference_parameters,
    normalization_of,
)
from .microsam_stages import (
    Labels,
    ModelInput,
    ModelState,
    finished,
    scaled_planes,
    shown_planes,
    working_bytes,
)
from .stages import Prepared, segment_in_stages


class MicroSamEngine:
    """Implement :class:`samservice.engines.stages.StagedEngine` with a model of micro-sam.

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
        dtype: ``float32`` or ``bfloat16``, see :class:`.microsam_device.MicroSamDevice`.

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
        dtype: str = FLOAT32,
    ) -> None:
        if mode not in ("auto", *MODES):
            raise WrongParameter(f"mode {mode!r} is unknown, expected auto, {', '.join(MODES)}")
        # Any text is true in Python, "false" as well.
        if not isinstance(trust_checkpoint, bool):
            raise WrongParameter(f"trust_checkpoint {trust_checkpoint!r}, expected True or False")
        self._dtype = checked_dtype(dtype)
        self._tiling = checked_tiling(tile_shape, halo)
        self._device = checked_device(device)
        weights = find_weights(model, checkpoint)
        if checkpoint and not trust_checkpoint:
            check_checkpoint(weights[0])
        self._model_sha256 = sha256_of(weights)
        self._weights_folder = weights[0].resolve().parent
        name = Path(checkpoint).name if checkpoint else model
        self._predictor, self._segmenter = self.load_model(
            model, Path(checkpoint) if checkpoint else None, mode
        )
        self._mode = mode_of(self._segmenter)
        self._identity = identity(name, self._mode, self._tiling, self._dtype)
        #: A segmenter without state, of which ``finish`` uses a copy per image.
        self._blank = copy.copy(self._segmenter)
        self._model = MicroSamDevice(
            self._predictor, self._segmenter, self._mode, self._tiling, dtype
        )
        self._no_batches = self._model.choose_batch()
        self._embeddings = None
        if self._mode != "amg" and not self._tiling:
            origin = {"model": self._identity, "model_sha256": self._model_sha256}
            self._embeddings = MicroSamEmbeddings(self._predictor, self._model, origin)

    def load_model(self, model: str, checkpoint: Path | None, mode: str) -> tuple[Any, Any]:
        """Return micro-sam's predictor and segmenter on the engine's device.

        A subclass may override it to load another format of weights.

        Raises :class:`WrongParameter`.
        """
        return load_segmenter(model, checkpoint, mode, self._device, bool(self._tiling))

    def describe(self) -> dict[str, Any]:
        """See :meth:`samservice.engines.base.Engine.describe`.

        Further keys are ``mode``, ``tile_shape``, ``halo``, ``batching``, why there are no batches
        or their size, and ``embedding_bytes``, the size of an unpacked embedding or None without
        embeddings.

        ``model`` names weights, mode, tiling and dtype, because each of them changes the labels.
        ``model_sha256`` is the digest of the checkpoint, or of encoder and then decoder where
        micro-sam's registry has two files.
        """
        packages = ("micro_sam", "torch", "torch_em", "numpy")
        return {
            "engine": "microsam",
            "model": self._identity,
            "model_sha256": self._model_sha256,
            "segmentation_version": 2,
            "versions": {package: version(package) for package in packages},
            "embeddings": self._embeddings is not None,
            "embedding_parameters": [NORMALIZATION] if self._embeddings else [],
            "inference_parameters": inference_parameters(self._mode),
            "image_statistics": [ROBUST_RANGE, FULL_RANGE],
            "device": self._device,
            "gpu": gpu_of(self._device),
            "slow_without_gpu": True,
            # Segment Anything scales every image to a square of one size.
            "scales_images": True,
            "model_cache": str(self._weights_folder),
            "parameters": {name: dict(schema) for name, schema in PARAMETERS[self._mode].items()},
            "mode": self._mode,
            "max_batch": self._model.max_batch,
            "batching": self._no_batches or f"up to {self._model.max_batch} planes",
            "device_threads": self._device_threads(),
            "tile_shape": list(self._tiling["tile_shape"]) if self._tiling else None,
            "halo": list(self._tiling["halo"]) if self._tiling else None,
            "embedding_bytes": self._embeddings.unpacked_bytes if self._embeddings else None,
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
        return memory_error_translated(
            lambda: segment_in_stages(self, image, axes, parameters, statistics)
        )

    def prepare(
        self,
        image: npt.NDArray[np.generic],
        axes: str,
        parameters: dict[str, Any],
        statistics: ImageStatistics | None = None,
    ) -> Prepared | Labels:
        """See :meth:`samservice.engines.stages.Stages.prepare`.

        Raises :class:`WrongParameter`, :class:`WrongAxes`.
        """
        self.check_parameters(parameters)
        prepared = encoder_input(image, axes, normalization_of(parameters), statistics)
        shape = prepared.pixels.shape[: len(MASK_AXES[axes])]
        shown = shown_planes(prepared)
        if not shown:
            return np.zeros(shape, np.uint32)
        if not self._model.is_batched:
            return Prepared(
                ModelInput(shape, shown, prepared, self._generate_arguments(parameters, axes))
            )
        planes = scaled_planes(prepared, shown, axes, self._predictor.transform)
        return Prepared(ModelInput(shape, shown, planes, {}), None if "Z" in axes else "planes")

    def infer(self, prepared: Sequence[Prepared]) -> list[ModelState]:
        """See :meth:`samservice.engines.stages.Stages.infer`."""
        return self._model.infer([each.content for each in prepared])

    def finish(self, state: ModelState, parameters: dict[str, Any]) -> Labels:
        """See :meth:`samservice.engines.stages.Stages.finish`.

        Raises :class:`WrongParameter`, :class:`SegmentationFailed`.
        """
        self.check_parameters(parameters)
        axes = "ZYX"[-len(state.shape) :]
        _, merging = arguments_of(parameters, self._mode, axes)
        tiles = self._tiling if self._mode == "ais" else {}
        try:
            return finished(
                state, self._blank, self._generate_arguments(parameters, axes), merging, tiles
            )
        except Exception as error:
            if is_out_of_memory(error):
                raise SegmentationFailed(out_of_memory("cpu", [state.shape])) from None
            raise micro_sam_failed(error) from error

    def max_batch(self, batch_key: Hashable) -> int:
        """See :meth:`samservice.engines.stages.Stages.max_batch`."""
        return 1 if batch_key is None else self._model.max_batch

    def working_bytes(self, shape: tuple[int, ...], axes: str) -> int:
        """See :meth:`samservice.engines.stages.Stages.working_bytes`."""
        return working_bytes(shape, axes, self._mode)

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
        embeddings = self._with_embeddings()
        self.check_parameters(parameters or {})
        return embeddings.encode(image, axes, normalization_of(parameters or {}))

    def segment_embedding(self, embedding: dict[str, Any], parameters: dict[str, Any]) -> Labels:
        """Segment the answer of :meth:`encode`: (Y, X) uint32, equal to :meth:`segment`.

        Raises :class:`EmbeddingsUnsupported` for an embedding of another model or mode and for a
        malformed one; :class:`WrongParameter`, :class:`SegmentationFailed`.
        """
        prepared = self.prepare_embedding(embedding, parameters)
        if isinstance(prepared, np.ndarray):
            return prepared
        return memory_error_translated(lambda: self.finish(self.infer([prepared])[0], parameters))

    def prepare_embedding(
        self, embedding: dict[str, Any], parameters: dict[str, Any]
    ) -> Prepared | Labels:
        """See :meth:`samservice.engines.stages.EmbeddingStages.prepare_embedding`.

        Raises :class:`EmbeddingsUnsupported`, :class:`WrongParameter`.
        """
        self.check_parameters(parameters)
        embeddings = self._with_embeddings()
        features = embeddings.checked(embedding, normalization_of(parameters))
        shape = features.original_size
        if embedding["constant"]:
            return np.zeros(shape, np.uint32)
        generate = self._generate_arguments(parameters, "YX")
        return Prepared(
            ModelInput(shape, (0,), features, generate),
            "features" if self._model.is_batched else None,
        )

    def _generate_arguments(self, parameters: dict[str, Any], axes: str) -> dict[str, Any]:
        """Return the arguments of ``generate``, and the one that makes tiled AIS reproducible.

        With more threads, one thread smooths in place the pixels that another one reads.
        """
        generate, _ = arguments_of(parameters, self._mode, axes)
        return generate | ({"n_threads": 1} if self._tiling and self._mode == "ais" else {})

    def _device_threads(self) -> int:
        import torch

        return torch.get_num_threads() if self._device == "cpu" else 0

    def _with_embeddings(self) -> MicroSamEmbeddings:
        if self._embeddings is None:
            raise EmbeddingsUnsupported(
                f"{self._identity} has no embeddings, expected mode ais or apg without tiles"
            )
        return self._embeddings
