"""What an engine is, and the one place that knows which engines exist.

An engine is synchronous and holds per-image state: :mod:`samservice.server.queue` gives it one
image at a time, in a thread of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..contract.errors import WrongParameter
from ..contract.image_statistics import ImageStatistics


class Engine(Protocol):
    """One loaded model. Every method may take seconds and must not be called in parallel."""

    def describe(self) -> dict[str, Any]:
        """Return what shapes the labels, as plain JSON values.

        Keys: ``engine`` (str), ``model`` (str), ``model_sha256`` (str or None),
        ``segmentation_version`` (int, rises only when labels of the same input may change),
        ``versions`` ({package: version}), ``embeddings`` (bool), ``device`` (str),
        ``parameters`` ({name: {"default": ..., "type": "number"|"integer"|"string"|"array",
        "minimum": ..., "maximum": ..., "enum": [...], "description": ...}}), and optionally
        ``image_statistics``, the names of what it takes of
        :mod:`samservice.contract.image_statistics`, ``gpu`` ({"name": str, "memory_bytes": int} or
        None) and ``model_cache``, the folder of the weights.
        """
        ...

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        """Raise :class:`WrongParameter` naming the parameter, what came, what is accepted."""
        ...

    def segment(
        self,
        image: np.ndarray,
        axes: str,
        parameters: dict[str, Any],
        statistics: ImageStatistics | None = None,
    ) -> np.ndarray:
        """Segment one checked image (finite, non-empty, real) with ``axes`` in MASK_AXES.

        ``statistics`` are those of the plane of which ``image`` is a tile, with what the engine
        describes; they take the place of the tile's own, and a plane with its own gives the same.
        Only an engine that describes ``image_statistics`` is given any.

        Returns instance labels, uint32, 0 is background, with the axes ``MASK_AXES[axes]``.
        """
        ...

    def encode(self, image: np.ndarray, axes: str) -> dict[str, Any]:
        """Return the embedding of a (Y, X) or (C, Y, X) image, a dict of arrays and JSON values.

        Raises :class:`EmbeddingsUnsupported` when the engine has none.
        """
        ...

    def segment_embedding(
        self, embedding: dict[str, Any], parameters: dict[str, Any]
    ) -> np.ndarray:
        """Segment from :meth:`encode`'s answer: (Y, X) uint32, equal to the direct way.

        Raises :class:`EmbeddingsUnsupported` when the embedding is of another engine or model.
        """
        ...


ENGINES = ("watershed", "microsam")


def build_engine(name: str, options: dict[str, Any] | None = None) -> Engine:
    """Load an engine by name. ``options`` are its constructor's (model, device, ...).

    Raises :class:`WrongParameter` for an unknown name or option. Heavy imports happen here, not
    before.
    """
    options = options or {}
    make: Callable[..., Engine]
    if name == "watershed":
        from .watershed import WatershedEngine

        make = WatershedEngine
    elif name == "microsam":
        from .microsam import MicroSamEngine

        make = MicroSamEngine
    else:
        raise WrongParameter(f"engine {name!r} is unknown, expected one of {', '.join(ENGINES)}")
    accepted = inspect.signature(make).parameters
    for option in options.keys() - accepted.keys():
        raise WrongParameter(
            f"engine {name} has no option {option!r}, expected {', '.join(accepted) or 'none'}"
        )
    return make(**options)
