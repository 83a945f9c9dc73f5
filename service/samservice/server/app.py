"""The service's methods: segment_all, encode_image, describe, probe.

They check every argument and raise a :class:`~samservice.contract.errors.ServiceError` for a
refusal. The engine runs in one thread, packing and unpacking in others, so that the event loop
stays free.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import __version__
from ..contract.axes import MASK_AXES, mask_shape
from ..contract.channels import is_constant
from ..contract.errors import SegmentationFailed, WrongParameter
from ..contract.identity import SERVICE_IDENTITY
from ..contract.image_statistics import ImageStatistics, checked_statistics
from ..contract.labels import count_objects
from ..contract.validation import (
    check_header,
    check_packed_embedding,
    is_packed_embedding,
    pack_embedding,
    unpack_embedding,
    unpack_image,
)
from ..contract.wire import CODECS, MASK_CODEC, WIRE_VERSION, is_packed, pack_array
from ..engines.base import Engine
from .access import AccessRules
from .queue import EngineQueue, Stopwatch

#: ``describe`` reports the throughput of this number of recent images.
RECENT_IMAGES = 100

CONSTANT_IMAGE_NOTE = "the image is constant: the mask is empty, and the model did not run"


@dataclass(frozen=True)
class Limits:
    """Limits of one request and of the queue, which ``describe`` reports.

    Attributes:
        max_pixels: Pixels of an image, all channels and planes counted.
        max_image_bytes: Bytes of an unpacked image or embedding.
        max_queue: Images in the queue, the running one included.
        max_probe_bytes: Bytes of a probe's payload and of its reply.
    """

    max_pixels: int = 1 << 28
    max_image_bytes: int = 1 << 31
    max_queue: int = 32
    max_probe_bytes: int = 64 << 20


class SegmentationService:
    """The methods that every transport calls, with one loaded engine.

    Images are packed (see :mod:`samservice.contract.wire`) or plain ndarrays, and the answer has
    the form of the request: for a packed image a dict with the packed mask, seconds per stage and
    the object count, for an ndarray the uint32 mask alone.
    """

    def __init__(
        self, engine: Engine, limits: Limits | None = None, access: AccessRules | None = None
    ) -> None:
        """Without ``access``, everyone whom the Hypha server lets through may call."""
        #: Assign new rules here when they change.
        self.access = access or AccessRules.for_users(())
        self._engine = engine
        self._limits = limits or Limits()
        self._queue = EngineQueue(self._limits.max_queue)
        #: (pixels of the mask, seconds in the engine) of each recent image.
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT_IMAGES)
        self._description = engine.describe()
        #: Part of each packed answer: another service may receive the next call for the same id.
        self._made_by = {name: self._description.get(name) for name in SERVICE_IDENTITY}

    def close(self) -> None:
        """Let the running image finish and cancel the waiting ones."""
        self._queue.close()

    async def segment_all(
        self,
        image_or_embedding: Any,
        embedding: bool = False,
        axes: str | None = None,
        image_statistics: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        **parameters: Any,
    ) -> Any:
        """Segment an image or a tile.

        Args:
            image_or_embedding: Image of ``axes``, or the answer of :meth:`encode_image`.
            embedding: True for an embedding.
            axes: YX, CYX, ZYX or CZYX; by default YX for two and CYX for three dimensions, where
                (Y, X, 3) and the like are refused.
            image_statistics: For a tile, the statistics that ``describe`` names, see
                :class:`~samservice.contract.image_statistics.ImageStatistics`.
            context: hypha-rpc's, with the caller's verified identity.
            **parameters: The engine's parameters, see ``describe``.

        Returns a uint32 instance mask with the image's axes without C; 0 is background.
        Raises a :class:`~samservice.contract.errors.ServiceError`.
        """
        self.access.check("segment_all", context)
        received_unix_s = time.time()
        async with self._queue.hold_slot(_caller(context)):
            stopwatch = Stopwatch()
            self._engine.check_parameters(parameters)
            shape: tuple[int, ...] = ()
            prepare: Callable[[], Callable[[], np.ndarray] | None]
            if embedding:
                if image_statistics is not None:
                    raise WrongParameter("image_statistics came with an embedding, expected none")
                packed = is_packed_embedding(image_or_embedding)
                check_packed_embedding(image_or_embedding, self._limits.max_image_bytes)
                prepare = partial(self._prepare_embedding, image_or_embedding, parameters)
            else:
                packed = is_packed(image_or_embedding)
                shape, axes = self._check_header(image_or_embedding, axes)
                statistics = None
                if image_statistics is not None:
                    wanted = self._description.get("image_statistics", ())
                    statistics = checked_statistics(image_statistics, wanted, shape, axes)
                shape = mask_shape(shape, axes)
                prepare = partial(
                    self._prepare_image, image_or_embedding, axes, shape, parameters, statistics
                )
            labels = await self._queue.run(stopwatch, prepare)
            mask = np.zeros(shape, np.uint32) if labels is None else labels
            # A constant tile is common and needs no note.
            is_constant_image = labels is None and image_statistics is None
            note = CONSTANT_IMAGE_NOTE if is_constant_image else None
            stopwatch.lap("segment")
            if labels is not None and not embedding:
                self._recent.append((mask.size, stopwatch.seconds["segment"]))
            if not packed:
                return mask
            packed_mask, object_count = await asyncio.to_thread(_pack_mask, mask)
            stopwatch.lap("pack")
            return {
                "mask": packed_mask,
                "object_count": object_count,
                "note": note,
                "made_by": self._made_by,
                "seconds": stopwatch.seconds,
                "received_unix_s": received_unix_s,
                "sent_unix_s": time.time(),
            }

    async def encode_image(
        self,
        image: Any,
        axes: str | None = None,
        context: dict[str, Any] | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Return the embedding of a (Y, X) or (C, Y, X) image for ``segment_all``.

        ``parameters`` are those that ``describe`` names in ``embedding_parameters``.
        For a packed image its arrays are packed, and the answer also has ``made_by``, ``seconds``
        and the times, as in :meth:`segment_all`.
        Raises :class:`~samservice.contract.errors.EmbeddingsUnsupported` when the engine has none.
        """
        self.access.check("encode_image", context)
        received_unix_s = time.time()
        async with self._queue.hold_slot(_caller(context)):
            stopwatch = Stopwatch()
            self._check_embedding_parameters(parameters)
            packed = is_packed(image)
            _, axes = self._check_header(image, axes)
            encoded = await self._queue.run(
                stopwatch, partial(self._prepare_encoding, image, axes, parameters)
            )
            assert encoded is not None
            stopwatch.lap("encode")
            if not packed:
                return encoded
            answer = await asyncio.to_thread(pack_embedding, encoded)
            stopwatch.lap("pack")
            return answer | {
                "made_by": self._made_by,
                "seconds": stopwatch.seconds,
                "received_unix_s": received_unix_s,
                "sent_unix_s": time.time(),
            }

    async def describe(self, context: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return engine, model and its hash, versions, parameters, capabilities and limits.

        ``recent`` is the throughput of the last images; callers predict their own duration from it.
        """
        self.access.check("describe", context)
        return {
            **self._description,
            "service": "samservice",
            "service_version": __version__,
            "axes": sorted(MASK_AXES),
            "wire": {"version": WIRE_VERSION, "codecs": list(CODECS)},
            "limits": asdict(self._limits) | {"in_parallel": 1},
            "recent": {
                "images": len(self._recent),
                "pixels": sum(pixels for pixels, _ in self._recent),
                "seconds": sum(seconds for _, seconds in self._recent),
            },
        }

    async def probe(
        self, payload: bytes, reply_bytes: int = 0, context: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Answer with ``reply_bytes`` incompressible bytes, to measure a transport both ways.

        The answer also has the number of received bytes, the times of receiving and sending (this
        machine's clock), the verified caller, the number of images that the engine has finished,
        and the number of further images that the queue would accept from the caller.

        Raises :class:`WrongParameter` above ``Limits.max_probe_bytes`` and for wrong types.
        """
        self.access.check("probe", context)
        received_unix_s = time.time()
        if not isinstance(payload, bytes) or len(payload) > self._limits.max_probe_bytes:
            raise WrongParameter(
                f"payload must be at most {self._limits.max_probe_bytes} bytes, "
                f"got {type(payload).__name__}"
            )
        if not isinstance(reply_bytes, int) or not 0 <= reply_bytes <= self._limits.max_probe_bytes:
            raise WrongParameter(
                f"reply_bytes must lie in 0..{self._limits.max_probe_bytes}, got {reply_bytes!r}"
            )
        caller = _caller(context)
        return {
            "data": os.urandom(reply_bytes),
            "received_bytes": len(payload),
            "caller": caller,
            "images_finished": self._queue.images_finished,
            "places_left": self._queue.slots_left(caller),
            "received_unix_s": received_unix_s,
            "sent_unix_s": time.time(),
        }

    def idle_s(self) -> float:
        """Return the seconds since the last image left the queue, 0 while the queue holds one."""
        return self._queue.idle_s()

    def _check_header(self, image: Any, axes: str | None) -> tuple[tuple[int, ...], str]:
        return check_header(image, axes, self._limits.max_image_bytes, self._limits.max_pixels)

    def _unpack_image(self, image: Any, axes: str) -> np.ndarray:
        limits = self._limits
        return unpack_image(image, axes, limits.max_image_bytes, limits.max_pixels)[0]

    def _prepare_image(
        self,
        given: Any,
        axes: str,
        expected_shape: tuple[int, ...],
        parameters: dict[str, Any],
        statistics: ImageStatistics | None,
    ) -> Callable[[], np.ndarray] | None:
        """Return a call of the engine, or None for a constant image, which has no objects."""
        image = self._unpack_image(given, axes)
        if is_constant(image):
            return None
        tile_arguments = () if statistics is None else (statistics,)
        return lambda: _checked_labels(
            self._engine.segment(image, axes, parameters, *tile_arguments), expected_shape
        )

    def _prepare_embedding(
        self, given: Any, parameters: dict[str, Any]
    ) -> Callable[[], np.ndarray]:
        limits = self._limits
        embedding = unpack_embedding(given, limits.max_image_bytes, limits.max_pixels)
        return lambda: _checked_labels(self._engine.segment_embedding(embedding, parameters))

    def _check_embedding_parameters(self, parameters: dict[str, Any]) -> None:
        """Raise WrongParameter for one that decides no embedding or has a wrong value."""
        accepted = self._description.get("embedding_parameters", ())
        if unknown := sorted(set(parameters) - set(accepted)):
            raise WrongParameter(
                f"encode_image takes no parameter {', '.join(unknown)}, "
                f"expected {', '.join(accepted) or 'none'}"
            )
        self._engine.check_parameters(parameters)

    def _prepare_encoding(
        self, given: Any, axes: str, parameters: dict[str, Any]
    ) -> Callable[[], dict[str, Any]]:
        arguments = (parameters,) if parameters else ()
        return partial(self._engine.encode, self._unpack_image(given, axes), axes, *arguments)


def _caller(context: dict[str, Any] | None) -> str | None:
    """Return the caller's e-mail address or id as Hypha verified it, None for an unknown caller."""
    user = (context or {}).get("user") or {}
    name = user.get("email") or user.get("id")
    return None if name is None else str(name)


def _checked_labels(mask: Any, expected_shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return the engine's mask as uint32; raise SegmentationFailed unless it is a label image."""
    if not isinstance(mask, np.ndarray):
        raise SegmentationFailed(f"the engine returned {type(mask).__name__}, expected labels")
    if mask.shape != (expected_shape or mask.shape) or mask.dtype.kind not in "ui":
        raise SegmentationFailed(
            f"the engine returned {mask.dtype} {mask.shape}, "
            f"expected labels {expected_shape or '(Y, X)'}"
        )
    return mask.astype(np.uint32, copy=False)


def _pack_mask(mask: np.ndarray) -> tuple[dict[str, Any], int]:
    return pack_array(mask, MASK_CODEC), count_objects(mask)
