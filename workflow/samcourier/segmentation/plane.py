"""Segment one plane or volume: pack it, call the service, unpack and check the mask."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec.structs import replace

from samservice.contract.errors import StateNotKept
from samservice.contract.image_statistics import ImageStatistics
from samservice.contract.labels import count_objects
from samservice.contract.validation import is_packed_embedding, packed_embedding_nbytes
from samservice.contract.wire import WireError, is_packed, pack_array, packed_nbytes, unpack_array

from ..connection import ConnectionManager
from ..connection.call import Answer, Call, CallFailed
from ..connection.description import RunIdentity
from ..connection.ranking import image_codec
from ..connection.throughput import Payload
from ..errors import RequestRefused, ServiceFailed
from ..formatting import plain
from ..images.planes import Plane
from ..masks.omezarr import MaskPixels, check_mask
from ..outputs.parts import PlaneParts
from ..results.image_log import Attempt
from ..results.service_description import ServiceDescription
from .embedding_cache import EmbeddingStore
from .events import Record, timed
from .key import image_key, service_identity

#: Masks compress far better than images; only the first image's prediction needs a guess.
FIRST_GUESS_DOWN_BYTES_PER_PIXEL = 0.06

#: Axes of planes that have an embedding. A volume has none, nor has a tile, which is only a part
#: of its image.
EMBEDDED_AXES = ("YX", "CYX")

#: Fields of an embedding's answer that describe the call. They are not kept.
OF_THE_CALL = ("made_by", "seconds", "received_unix_s", "sent_unix_s")

T = TypeVar("T")


@dataclass(frozen=True)
class Segmented:
    """A checked mask (uint32, shape of its plane), its object count and the service's note.

    ``parts`` is what the outputs need from each plane, if it was computed.
    """

    mask: MaskPixels
    object_count: int
    note: str | None
    parts: tuple[PlaneParts, ...] = ()


@dataclass(frozen=True)
class KeptState:
    """The state of a plane that a service keeps, and the name of the replica that holds it."""

    replica: str | None


class PlaneCaller:
    """Calls ``segment_all`` in the form that the service's ``describe()`` states."""

    def __init__(
        self,
        manager: ConnectionManager,
        description: ServiceDescription,
        embeddings: EmbeddingStore | None = None,
    ) -> None:
        """With ``embeddings``, each plane's embedding is requested once, kept, and segmented."""
        self.description = description
        self._manager = manager
        self._identity = service_identity(description)
        self._maker = RunIdentity()
        self._maker.settle(description.identity)
        self._packs = description.wire is not None
        self._embeddings = embeddings
        self._embedding_parameters = description.embedding_parameters
        self._embedding_bytes = description.embedding_bytes or 0
        self._down_bytes_per_pixel = FIRST_GUESS_DOWN_BYTES_PER_PIXEL

    @property
    def capacity(self) -> int:
        """How many calls the service accepts at once from this client."""
        return self._manager.capacity

    def expect(self, more_calls: int) -> None:
        """Add ``more_calls`` (may be negative) to the one call that the connection expects."""
        self._manager.expect(more_calls)

    async def segment(
        self,
        plane: Plane,
        parameters: Mapping[str, Any],
        record: Record,
        number: int | None = None,
        tile: int | None = None,
        statistics: ImageStatistics | None = None,
    ) -> Segmented:
        """Return the plane's mask; report seconds and attempts to ``record``, even on failure.

        ``number`` is the plane's index in an image of several planes. ``tile`` and ``statistics``
        are a tile's number and the statistics of its plane. Raises the error that ended the call.
        """
        is_embedded = plane.axes in EMBEDDED_AXES and statistics is None
        if self._embeddings is not None and is_embedded:
            embedding = await self._embedding(self._embeddings, plane, parameters, record, number)
            arguments = {"image_or_embedding": embedding, "embedding": True, **parameters}
            up_bytes = packed_embedding_nbytes(embedding)
        else:
            image, up_bytes = await self._packed(plane, record)
            arguments = {"image_or_embedding": image, **parameters}
            if self._packs:
                arguments["axes"] = plane.axes
        segmented, _ = await self._segment_all(
            arguments, up_bytes, plane, record, number, tile, statistics
        )
        return segmented

    async def segment_keeping(
        self,
        plane: Plane,
        image: dict[str, Any],
        parameters: Mapping[str, Any],
        record: Record,
        number: int | None = None,
        statistics: ImageStatistics | None = None,
    ) -> tuple[Segmented, KeptState | None]:
        """Segment the plane, and let the service keep its state; None if it does not.

        ``image`` is the answer of :meth:`packed`; the other arguments are those of :meth:`segment`.
        """
        arguments = {
            **{"image_or_embedding": image, "axes": plane.axes, "keep_state": True},
            **parameters,
        }
        up_bytes = packed_nbytes(image)
        return await self._segment_all(
            arguments, up_bytes, plane, record, number, statistics=statistics
        )

    async def segment_kept(
        self,
        plane: Plane,
        reference: dict[str, Any],
        kept: KeptState,
        parameters: Mapping[str, Any],
        record: Record,
        number: int | None = None,
        statistics: ImageStatistics | None = None,
    ) -> Segmented | None:
        """Segment the plane from its state; None if the service does not hold it any more.

        ``reference`` is the plane's :func:`samservice.contract.image_reference.image_reference`;
        the other arguments are those of :meth:`segment`.
        """
        arguments = {"image_or_embedding": reference, "axes": plane.axes, **parameters}
        try:
            segmented, _ = await self._segment_all(
                arguments, 0, plane, record, number, statistics=statistics, replica=kept.replica
            )
        except RequestRefused as refused:
            if refused.name != StateNotKept.__name__:
                raise
            return None
        return segmented

    async def _segment_all(
        self,
        arguments: dict[str, Any],
        up_bytes: int,
        plane: Plane,
        record: Record,
        number: int | None,
        tile: int | None = None,
        statistics: ImageStatistics | None = None,
        replica: str | None = None,
    ) -> tuple[Segmented, KeptState | None]:
        """Call ``segment_all``, of ``replica`` unless it is None; unpack and check the answer."""
        if statistics is not None:
            arguments["image_statistics"] = statistics.to_wire()

        async def accept(value: Any) -> tuple[Segmented, bool]:
            self._check_maker(value)
            with timed("unpack", record):
                segmented = await asyncio.to_thread(self._received, value, plane)
            return segmented, isinstance(value, Mapping) and value.get("state_kept") is True

        payload = Payload(up_bytes, int(self._down_bytes_per_pixel * plane.pixels.size))
        call = Call("segment_all", arguments, payload, accept, replica)
        answer = await self._call(call, record, number, tile)
        last = answer.attempts[-1]
        self._down_bytes_per_pixel = last.bytes.down / plane.pixels.size
        segmented, is_kept = answer.value
        return segmented, KeptState(last.replica) if is_kept else None

    async def packed(self, plane: Plane, record: Record) -> dict[str, Any]:
        """Return the plane as packed for the present upload rate."""
        with timed("pack", record):
            codec = image_codec(self._manager.up_bytes_per_s)
            return await asyncio.to_thread(pack_array, plane.pixels, codec)

    async def _packed(self, plane: Plane, record: Record) -> tuple[Any, int]:
        """Return the image in the form that the service takes, and its size in bytes as sent."""
        if not self._packs:
            return plane.pixels, plane.pixels.nbytes
        packed = await self.packed(plane, record)
        return packed, packed_nbytes(packed)

    async def _embedding(
        self,
        store: EmbeddingStore,
        plane: Plane,
        parameters: Mapping[str, Any],
        record: Record,
        number: int | None,
    ) -> dict[str, Any]:
        """Return the plane's packed embedding: the kept one, or a new one that is then kept."""
        used = {name: parameters[name] for name in self._embedding_parameters if name in parameters}
        key = image_key(plane.pixels_sha256, used, self._identity)
        kept_embedding = await asyncio.to_thread(store.get, key)
        if kept_embedding is not None:
            return kept_embedding
        self.expect(1)
        image, up_bytes = await self._packed(plane, record)

        async def accept(value: Any) -> dict[str, Any]:
            self._check_maker(value)
            if not is_packed_embedding(value):
                raise ServiceFailed(
                    f"encode_image answered with {type(value).__name__}, expected an embedding"
                    " with packed arrays"
                )
            return {name: each for name, each in value.items() if name not in OF_THE_CALL}

        arguments = {"image": image, "axes": plane.axes, **used}
        payload = Payload(up_bytes, self._embedding_bytes)
        call = Call("encode_image", arguments, payload, accept)
        embedding = (await self._call(call, record, number)).value
        self._embedding_bytes = packed_embedding_nbytes(embedding)
        await asyncio.to_thread(store.keep, key, embedding)
        return embedding

    async def _call(
        self, call: Call[T], record: Record, number: int | None, tile: int | None = None
    ) -> Answer[T]:
        """Make a call and record its attempts, whether it succeeds or fails."""
        try:
            answer = await self._manager.call(call)
        except CallFailed as failed:
            attempts = failed.attempts
            # A state that was dropped is no failure: the image is sent instead.
            if failed.cause.name == StateNotKept.__name__:
                attempts = attempts[:-1]
            _record_attempts(attempts, record, call, number, tile)
            raise failed.cause from failed
        _record_attempts(answer.attempts, record, call, number, tile)
        return answer

    def _check_maker(self, answer: Any) -> None:
        """Raise ServiceGone if another service than at the batch's start gave the answer.

        Another service may start under the same id between two HTTP requests.
        """
        maker = answer.get("made_by") if isinstance(answer, Mapping) else None
        if isinstance(maker, Mapping):
            self._maker.check(maker)

    def _received(self, value: Any, plane: Plane) -> Segmented:
        """Unpack an answer. Raises ServiceFailed if the mask does not fit its image."""
        note, mask = None, value
        if isinstance(value, dict) and is_packed(value.get("mask")):
            note = value.get("note")
            try:
                mask = unpack_array(value["mask"], _largest_mask_bytes(plane))
            except WireError as error:
                raise ServiceFailed(f"the mask cannot be unpacked: {error}") from error
        mask = check_mask(mask, plane.pixels.shape, plane.axes)
        return Segmented(mask, count_objects(mask), None if note is None else plain(str(note)))


def _record_attempts(
    attempts: Sequence[Attempt],
    record: Record,
    call: Call[Any],
    plane: int | None,
    tile: int | None,
) -> None:
    for attempt in attempts:
        record(replace(attempt, plane=plane, tile=tile, method=call.method))


def _largest_mask_bytes(plane: Plane) -> int:
    """Return the bytes of 64-bit labels: the limit must not come from the service itself."""
    sizes = zip(plane.pixels.shape, plane.axes, strict=True)
    return math.prod([8, *(size for size, axis in sizes if axis != "C")])
