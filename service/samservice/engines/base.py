"""The interface of an engine, and how to build an engine from its description.

An engine is synchronous and may hold per-image state: :mod:`samservice.server.device` passes it one
image at a time, in a separate thread. :mod:`.stages` has what an engine may offer beyond that.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np

from ..contract.engine_description import describe_engine, find_engine
from ..contract.errors import WrongParameter
from ..contract.identity import DISTRIBUTION
from ..contract.image_statistics import ImageStatistics
from ..contract.parameters import parameter_problems
from ..contract.plugins import OWN_DISTRIBUTION, Plugin, canonical_name
from .checked_engine import check_engine


class Engine(Protocol):
    """One loaded model. Every method may take seconds and must not be called in parallel."""

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the labels, as plain JSON values.

        Keys: ``engine`` (str), ``model`` (str), ``model_sha256`` (str or None),
        ``segmentation_version`` (int, rises only when labels of the same input may change),
        ``versions`` ({package: version}), ``embeddings`` (bool), ``device`` (str),
        ``parameters`` ({name: {"default": ..., "type": "number"|"integer"|"string"|"array",
        "minimum": ..., "maximum": ..., "enum": [...], "description": ...}}), and optionally
        ``image_statistics``, the names of the statistics of
        :mod:`samservice.contract.image_statistics` that it accepts, ``embedding_parameters``, the
        names of the parameters that an embedding depends on, ``gpu`` ({"name": str,
        "memory_bytes": int} or None), ``model_cache``, the folder of the weights,
        ``slow_without_gpu`` (bool, an image takes many times as long on a CPU) and
        ``scales_images`` (bool, the model scales every image to one size, so that a small one takes
        as long as a large one).
        """
        ...

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        """Raise :class:`WrongParameter` with the parameter, its value and the accepted values."""
        ...

    def segment(
        self,
        image: np.ndarray,
        axes: str,
        parameters: dict[str, Any],
        statistics: ImageStatistics | None = None,
    ) -> np.ndarray:
        """Segment one checked image (finite, non-empty, real) with ``axes`` in MASK_AXES.

        When ``image`` is a tile, ``statistics`` are those of its whole plane and replace the tile's
        own. A plane that comes with its own statistics gives the same labels as without. Only an
        engine that describes ``image_statistics`` receives any, and only those that it describes.

        Returns instance labels, uint32, 0 is background, with the axes ``MASK_AXES[axes]``.
        """
        ...

    def encode(self, image: np.ndarray, axes: str) -> dict[str, Any]:
        """Return the embedding of a (Y, X) or (C, Y, X) image, a dict of arrays and JSON values.

        An engine that describes ``embedding_parameters`` takes them as a third argument, a dict.

        Raises :class:`EmbeddingsUnsupported` when the engine has none.
        """
        ...

    def segment_embedding(
        self, embedding: dict[str, Any], parameters: dict[str, Any]
    ) -> np.ndarray:
        """Segment the answer of :meth:`encode`: (Y, X) uint32, as :meth:`segment` returns.

        Raises :class:`EmbeddingsUnsupported` when another engine or model made the embedding.
        """
        ...


def build_engine(name: str, options: dict[str, Any] | None = None) -> Engine:
    """Load an engine by the name of its entry point, with the options that it describes.

    An engine of another distribution also describes that distribution, see
    :data:`samservice.contract.identity.DISTRIBUTION`, and its version among ``versions``. The
    engine's libraries are imported here and not earlier.

    Raises :class:`WrongParameter` for an unknown name or option, for an engine that cannot be
    imported, and for one that lacks a method or describes itself wrongly.
    """
    plugin, description = find_engine(name), describe_engine(name)
    options = options or {}
    given = {
        option: value
        for option, value in options.items()
        if value is not None or description.options.get(option, {}).get("default", "") is not None
    }
    for problem in parameter_problems(given, description.options, f"engine {name}: option"):
        raise WrongParameter(problem)
    try:
        make: Callable[..., Engine] = pkgutil.resolve_name(description.build)
    except ImportError as error:
        raise WrongParameter(
            f"engine {name!r} of {plugin.origin} cannot be imported ({error}), expected "
            f"{', '.join(description.requirements) or 'all packages it imports'} to be installed"
        ) from error
    engine = make(**options)
    check_engine(engine, name, plugin.origin)
    if plugin.distribution == OWN_DISTRIBUTION:
        return engine
    return cast(Engine, _WithDistribution(engine, plugin))


class _WithDistribution:
    """An engine whose description also names its distribution."""

    def __init__(self, engine: Engine, plugin: Plugin) -> None:
        self._engine = engine
        self._plugin = plugin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def describe(self) -> dict[str, Any]:
        """See :meth:`Engine.describe`."""
        description, plugin = self._engine.describe(), self._plugin
        versions = {**description["versions"], plugin.distribution: plugin.version}
        name = canonical_name(plugin.distribution)
        return description | {
            "versions": versions,
            DISTRIBUTION: {"name": name, "version": plugin.version},
        }
