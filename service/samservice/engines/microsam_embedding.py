"""The embedding of a plane: what :meth:`.microsam.MicroSamEngine.encode` returns, and its check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..contract.errors import EmbeddingsUnsupported
from .microsam_options import Size, size_of
from .microsam_stages import PlaneFeatures


def checked_embedding(
    embedding: Mapping[str, Any],
    origin: Mapping[str, Any],
    feature_shape: tuple[int, ...],
    input_size: Callable[[Size], Size],
) -> PlaneFeatures:
    """Return the features of an embedding and the sizes that belong to them.

    Args:
        embedding: What the caller sent.
        origin: The keys that must be equal: those of model and normalization.
        feature_shape: That of the features.
        input_size: Returns the scaled size of a plane of that size, (Y, X) in pixels.

    Raises:
        EmbeddingsUnsupported: Another model or mode made the embedding, or it is malformed.
    """
    for key, own in origin.items():
        if embedding.get(key) != own:
            raise EmbeddingsUnsupported(
                f"the embedding's {key} is {embedding.get(key)!r}, expected {own!r}"
            )
    features = np.asarray(embedding.get("features"))
    if features.shape != feature_shape or features.dtype != np.float32:
        raise EmbeddingsUnsupported(
            f"the embedding's features are {features.dtype} {features.shape}, "
            f"expected float32 {feature_shape}"
        )
    original_size = size_of(embedding.get("original_size"))
    if (
        original_size is None
        or size_of(embedding.get("input_size")) != input_size(original_size)
        or not isinstance(embedding.get("constant"), bool)
    ):
        raise EmbeddingsUnsupported(
            f"the embedding's original_size {embedding.get('original_size')!r}, input_size "
            f"{embedding.get('input_size')!r} and constant {embedding.get('constant')!r} "
            "do not fit together, expected the values that encode returned"
        )
    return PlaneFeatures(np.ascontiguousarray(features), input_size(original_size), original_size)
