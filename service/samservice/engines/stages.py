"""The stages that an engine may offer, so that the device works while the CPU does the rest.

The service runs ``prepare`` and ``finish`` of several images at the same time in threads, and
``infer`` in one thread for the device, with all waiting images that fit together. An engine without
these stages is called by :meth:`samservice.engines.base.Engine.segment`, one image at a time.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np

from ..contract.image_statistics import ImageStatistics
from .base import Engine
from .checked_engine import STAGE_METHODS


@dataclass(frozen=True)
class Prepared:
    """An image that is ready for the device.

    Attributes:
        content: What ``infer`` needs, in the engine's own form.
        batch_key: ``infer`` may receive images of equal keys together. None: only alone.
    """

    content: Any
    batch_key: Hashable = None


class Stages(Protocol):
    """The stages of an engine. For one image they give exactly the labels of ``segment``.

    ``describe`` of such an engine also has ``inference_parameters``, the names of the parameters
    that ``prepare`` and ``infer`` depend on: with other values of the remaining ones, ``finish``
    can use the same state again. It may have ``max_batch``, the largest batch of any key (1 if
    absent), and ``device_threads``, the number of threads of the CPU that ``infer`` uses.
    """

    def prepare(
        self,
        image: np.ndarray,
        axes: str,
        parameters: dict[str, Any],
        statistics: ImageStatistics | None = None,
    ) -> Prepared | np.ndarray:
        """Convert a checked image for the device; the arguments are those of ``segment``.

        Returns the labels instead where they are known without the device. Several threads call it
        at the same time; it uses the CPU only.
        """
        ...

    def infer(self, prepared: Sequence[Prepared]) -> Sequence[Any]:
        """Return the state of each image, in the same order. Only the device's thread calls it.

        The states are independent of each other and in the memory of the CPU.
        Raises MemoryError when the device's memory does not suffice for all of them together.
        """
        ...

    def finish(self, state: Any, parameters: dict[str, Any]) -> np.ndarray:
        """Return the labels of one state, as ``segment`` returns them.

        Several threads call it at the same time, also with the same state, which it does not
        change. It uses the CPU only.
        """
        ...

    def max_batch(self, batch_key: Hashable) -> int:
        """Return how many images of this key ``infer`` accepts at once: 1 or more.

        1 where the labels of an image depend on the others in its batch.
        """
        ...

    def working_bytes(self, shape: tuple[int, ...], axes: str) -> int:
        """Return the bytes that an image holds from ``prepare`` to the end of ``finish``.

        They decide how many images the service works on at the same time.
        """
        ...


class StagedEngine(Engine, Stages, Protocol):
    """An engine that offers the stages."""


class EmbeddingStages(Protocol):
    """A further stage of an engine with embeddings."""

    def prepare_embedding(
        self, embedding: dict[str, Any], parameters: dict[str, Any]
    ) -> Prepared | np.ndarray:
        """Check an embedding, and convert it for ``infer``; the arguments and errors are those of
        ``segment_embedding``, the rest as in :meth:`Stages.prepare`.
        """
        ...


def has_stages(engine: Engine) -> TypeGuard[StagedEngine]:
    """Tell whether an engine offers all stages."""
    # Not isinstance: from Python 3.12 on, it does not see what __getattr__ passes on.
    return all(callable(getattr(engine, name, None)) for name in STAGE_METHODS)


def infers_embeddings(engine: Any) -> TypeGuard[EmbeddingStages]:
    """Tell whether an engine with stages also takes embeddings through them."""
    return callable(getattr(engine, "prepare_embedding", None))


def segment_in_stages(
    stages: Stages,
    image: np.ndarray,
    axes: str,
    parameters: dict[str, Any],
    statistics: ImageStatistics | None = None,
) -> np.ndarray:
    """Segment one image by the stages, for an engine's own ``segment``; see :class:`Stages`."""
    prepared = stages.prepare(image, axes, parameters, statistics)
    if isinstance(prepared, np.ndarray):
        return prepared
    (state,) = stages.infer([prepared])
    return stages.finish(state, parameters)
