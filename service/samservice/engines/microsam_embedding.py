"""The embedding of a plane: the encoder's output, which the caller keeps and sends again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contract.axes import MASK_AXES
from ..contract.errors import EmbeddingsUnsupported, WrongAxes
from .microsam_device import MicroSamDevice
from .microsam_errors import memory_error_translated
from .microsam_input import encoder_input
from .microsam_options import Size, size_of
from .microsam_parameters import NORMALIZATION
from .microsam_stages import PlaneFeatures, scaled_planes

#: Side of the patches from which Segment Anything's encoder makes one feature each.
PATCH_PX = 16
EMBEDDING_CHANNELS = 256


class MicroSamEmbeddings:
    """Makes and checks the embeddings of one model.

    Args:
        predictor: micro-sam's predictor.
        model: The device's stage.
        origin: The keys that say which model made an embedding.
    """

    def __init__(self, predictor: Any, model: MicroSamDevice, origin: Mapping[str, Any]) -> None:
        self._transform = predictor.transform
        self._model = model
        self._origin = dict(origin)
        side = int(predictor.model.image_encoder.img_size) // PATCH_PX
        self._feature_shape = (1, EMBEDDING_CHANNELS, side, side)

    @property
    def unpacked_bytes(self) -> int:
        """The size of the features."""
        return math.prod(self._feature_shape) * np.dtype(np.float32).itemsize

    def encode(
        self, image: npt.NDArray[np.generic], axes: str, normalization: str
    ) -> dict[str, Any]:
        """See :meth:`.microsam.MicroSamEngine.encode`."""
        if axes in MASK_AXES and MASK_AXES[axes] != "YX":
            raise WrongAxes(
                f"axes {axes} are not those of a plane, expected YX or CYX for an embedding"
            )
        prepared = encoder_input(image, axes, normalization)
        height, width = prepared.pixels.shape[:2]
        constant = not prepared.has_content.any()
        if constant:
            features = np.zeros(self._feature_shape, np.float32)
        else:
            (plane,) = scaled_planes(prepared, (0,), axes, self._transform)
            features = memory_error_translated(lambda: self._model.encode(plane))
        return {
            "features": features,
            "input_size": list(self._input_size((height, width))),
            "original_size": [height, width],
            "constant": constant,
            NORMALIZATION: normalization,
            **self._origin,
        }

    def checked(self, embedding: Mapping[str, Any], normalization: str) -> PlaneFeatures:
        """Return the features of an embedding and the sizes that belong to them.

        Raises :class:`EmbeddingsUnsupported` when another model or normalization made the
        embedding, and when it is malformed.
        """
        for key, own in (self._origin | {NORMALIZATION: normalization}).items():
            if embedding.get(key) != own:
                raise EmbeddingsUnsupported(
                    f"the embedding's {key} is {embedding.get(key)!r}, expected {own!r}"
                )
        features = np.asarray(embedding.get("features"))
        if features.shape != self._feature_shape or features.dtype != np.float32:
            raise EmbeddingsUnsupported(
                f"the embedding's features are {features.dtype} {features.shape}, "
                f"expected float32 {self._feature_shape}"
            )
        original_size = size_of(embedding.get("original_size"))
        if (
            original_size is None
            or size_of(embedding.get("input_size")) != self._input_size(original_size)
            or not isinstance(embedding.get("constant"), bool)
        ):
            raise EmbeddingsUnsupported(
                f"the embedding's original_size {embedding.get('original_size')!r}, input_size "
                f"{embedding.get('input_size')!r} and constant {embedding.get('constant')!r} "
                "do not fit together, expected the values that encode returned"
            )
        return PlaneFeatures(
            np.ascontiguousarray(features), self._input_size(original_size), original_size
        )

    def _input_size(self, original_size: Size) -> Size:
        side_px = self._transform.target_length
        rows, columns = self._transform.get_preprocess_shape(*original_size, side_px)
        return int(rows), int(columns)
