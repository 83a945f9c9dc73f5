"""The service's methods: segment_all, encode_image, describe, probe.

They check every argument and raise a :class:`~samservice.contract.errors.ServiceError` for a
refusal. :mod:`samservice.server.pipeline` runs the stages of each image in threads, so that the
event loop stays free.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from .. import __version__
from ..contract.axes import MASK_AXES, mask_shape
from ..contract.errors import StateNotKept, WrongParameter
from ..contract.identity import identity_of
from ..contract.image_reference import checked_reference, is_image_reference
from ..contract.image_statistics import ImageStatistics, checked_statistics
from ..contract.validation import (
    check_header,
    check_packed_embedding,
    check_shape,
    is_packed_embedding,
)
from ..contract.wire import CODECS, WIRE_VERSION, is_packed
from ..engines.base import Engine
from .access import AccessRules
from .admission import Admission
from .cores import finish_threads, usable_cores
from .engine_work import EngineWork, request_bytes
from .pipeline import Hang, Pipeline, PipelineLimits
from .stage_times import Workers, interval_s
from .state_cache import StateCache, StateKey, settings_sha256

#: ``describe`` reports the throughput of this number of recent images.
RECENT_IMAGES = 100

#: One thread prepares an image in less time than a device needs for it, also in batches.
MAX_PREPARE_THREADS = 4


@dataclass(frozen=True)
class Limits:
    """Limits of one request and of the queue, which ``describe`` reports.

    Attributes:
        max_pixels: Pixels of an image, all channels and planes counted.
        max_image_bytes: Bytes of an unpacked image or embedding.
        max_queue: Images in the queue, those in the pipeline included.
        max_probe_bytes: Bytes of a probe's payload and of its reply.
        max_queue_bytes: Bytes of the requests of all images in the queue.
        max_working_bytes: Bytes of the unpacked images and their states in the pipeline. A single
            image may need more; it then goes alone.
        finish_threads: Threads that turn states into labels and pack them; 0 for one for each
            usable core that the engine leaves free, at most 8.
        max_batch: Images that the engine infers together; 0 for as many as it accepts.
        max_stage_s: Seconds after which a stage of an image counts as hanging. It is below the time
            limit of a client's call, so that the client learns the reason.
        max_state_bytes: Bytes of the states of images that are kept for further requests, of all
            callers together; 0 to keep none.
    """

    max_pixels: int = 1 << 28
    max_image_bytes: int = 1 << 31
    max_queue: int = 32
    max_probe_bytes: int = 64 << 20
    max_queue_bytes: int = 2 << 30
    max_working_bytes: int = 4 << 30
    finish_threads: int = 0
    max_batch: int = 0
    max_stage_s: float = 480
    max_state_bytes: int = 1 << 30


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
        self._limits = limits = limits or Limits()
        self._description = engine.describe()
        self._states = StateCache(limits.max_state_bytes)
        self._work = EngineWork(engine, limits.max_image_bytes, limits.max_pixels, self._states)
        #: An engine that does not tell what a state depends on cannot have one used again.
        self._keeps_states = (
            self._work.is_staged
            and "inference_parameters" in self._description
            and limits.max_state_bytes > 0
        )
        self._admission = Admission(limits.max_queue, limits.max_queue_bytes)
        self._workers = _workers(self._description, limits, self._work.is_staged)
        self._pipeline = Pipeline(
            PipelineLimits(
                self._workers,
                max_ahead=self._workers.infer + self._workers.prepare - 1,
                max_working_bytes=limits.max_working_bytes,
                max_stage_s=limits.max_stage_s,
            ),
            self._work.is_staged,
        )
        #: (pixels of the mask, seconds between two such images) of each recent image.
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT_IMAGES)
        #: Part of each packed answer: another service may receive the next call for the same id.
        self._made_by = identity_of(self._description)

    @property
    def images_finished(self) -> int:
        """Number of images that the engine has finished, failed ones included."""
        return self._pipeline.images_finished

    def hang(self) -> Hang | None:
        """Return the stage that hangs, None if none does; then this process must be replaced.

        Call it regularly: it fails the image, and from then on the service accepts no more.
        """
        return self._pipeline.check_stages()

    async def drain(self, limit_s: float) -> None:
        """Accept no more images, and wait ``limit_s`` at most for those in the pipeline.

        Those that wait before it, or are left in it, get ServiceBusy.
        """
        await self._pipeline.drain(limit_s)

    def close(self) -> None:
        """Let the running stages end; the waiting images get ServiceBusy."""
        self._pipeline.close()

    async def segment_all(
        self,
        image_or_embedding: Any,
        embedding: bool = False,
        axes: str | None = None,
        image_statistics: dict[str, Any] | None = None,
        keep_state: bool = False,
        context: dict[str, Any] | None = None,
        **parameters: Any,
    ) -> Any:
        """Segment an image or a tile.

        Args:
            image_or_embedding: Image of ``axes``, or the answer of :meth:`encode_image`, or the
                :func:`~samservice.contract.image_reference.image_reference` of an image whose state
                is kept; it is answered like a packed image.
            embedding: True for an embedding.
            axes: YX, CYX, ZYX or CZYX; by default YX for two and CYX for three dimensions, where
                (Y, X, 3) and the like are refused.
            image_statistics: For a tile, the statistics that ``describe`` names, see
                :class:`~samservice.contract.image_statistics.ImageStatistics`.
            keep_state: Keep what the device gave, so that the same caller can have the same image
                segmented by its reference, with other parameters than the
                ``inference_parameters`` of ``describe``. The answer to a packed image has
                ``state_kept``: False for an engine without stages, for a state that is too large,
                and for a caller who is anonymous. A state may be dropped at any time.
            context: hypha-rpc's, with the caller's verified identity.
            **parameters: The engine's parameters, see ``describe``.

        Returns a uint32 instance mask with the image's axes without C; 0 is background.
        Raises a :class:`~samservice.contract.errors.ServiceError`, StateNotKept for a reference to
        an image whose state is not kept.
        """
        self.access.check("segment_all", context)
        received_unix_s, caller = time.time(), _caller(context)
        with self._admission.hold_slot(caller, request_bytes(image_or_embedding)):
            self._engine.check_parameters(parameters)
            if not isinstance(keep_state, bool):
                raise WrongParameter(f"keep_state {keep_state!r:.80}, expected true or false")
            pixels = None
            if embedding:
                if image_statistics is not None or keep_state:
                    name = "keep_state" if image_statistics is None else "image_statistics"
                    raise WrongParameter(f"{name} came with an embedding, expected none")
                packed = is_packed_embedding(image_or_embedding)
                check_packed_embedding(image_or_embedding, self._limits.max_image_bytes)
                work = self._work.embedding(caller, image_or_embedding, parameters, packed)
            elif is_image_reference(image_or_embedding):
                packed = True
                image_sha256, shape = checked_reference(image_or_embedding)
                shape, axes = check_shape(shape, axes, self._limits.max_pixels)
                statistics = self._checked_statistics(image_statistics, shape, axes)
                state_key = self._state_key(context, shape, axes, parameters, statistics)
                if state_key is None:
                    raise StateNotKept("this service keeps no states for this caller")
                self._states.check(key := state_key(image_sha256))
                work = self._work.kept(caller, key, shape, axes, parameters)
            else:
                packed = is_packed(image_or_embedding)
                shape, axes = self._check_header(image_or_embedding, axes)
                statistics = self._checked_statistics(image_statistics, shape, axes)
                state_key = None
                if keep_state:
                    state_key = self._state_key(context, shape, axes, parameters, statistics)
                work = self._work.image(
                    *(caller, image_or_embedding, shape, axes, parameters, statistics, packed),
                    state_key,
                )
                pixels = math.prod(mask_shape(shape, axes))
            seconds: dict[str, float] = {}
            segmented = await self._pipeline.run(work, seconds)
        if pixels is not None and "infer" in seconds:
            self._recent.append((pixels, interval_s(seconds, self._workers)))
        if not packed:
            return segmented.mask
        return {
            "mask": segmented.mask,
            "object_count": segmented.object_count,
            "note": segmented.note,
            **({"state_kept": segmented.state_kept} if keep_state else {}),
            **self._answer_of(seconds, received_unix_s, caller),
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
        received_unix_s, caller = time.time(), _caller(context)
        with self._admission.hold_slot(caller, request_bytes(image)):
            self._check_embedding_parameters(parameters)
            packed = is_packed(image)
            shape, axes = self._check_header(image, axes)
            seconds: dict[str, float] = {}
            encoded = await self._pipeline.run(
                self._work.encoding(caller, image, shape, axes, parameters, packed), seconds
            )
        return encoded | self._answer_of(seconds, received_unix_s, caller) if packed else encoded

    def _answer_of(
        self, seconds: dict[str, float], received_unix_s: float, caller: str | None
    ) -> dict[str, Any]:
        """Return the part of a packed answer that tells where and when it was made.

        ``caller_images`` are the other images of the caller, with those of its other jobs.
        """
        return {
            "made_by": self._made_by,
            "seconds": seconds,
            "pipeline_depth": self._pipeline.depth,
            "caller_images": self._admission.images_of(caller),
            **self._pipeline.times.throughput(),
            "received_unix_s": received_unix_s,
            "sent_unix_s": time.time(),
        }

    async def describe(self, context: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return engine, model and its hash, versions, parameters, capabilities and limits.

        ``states`` is True when ``keep_state`` has an effect.
        ``recent`` is the throughput of the last images; callers predict their own duration from it.
        ``pipeline`` has the median seconds of each stage, the device's busy share of the time and
        images/s (all of the recent images, None before), the threads, and ``depth``: how many
        images a caller should send so that no stage waits. It is also ``limits.in_parallel``.
        """
        self.access.check("describe", context)
        limits = asdict(self._limits)
        # The pipeline has the numbers that were chosen.
        del limits["finish_threads"], limits["max_batch"]
        return {
            **self._description,
            "service": "samservice",
            "service_version": __version__,
            "axes": sorted(MASK_AXES),
            "states": self._keeps_states,
            "wire": {"version": WIRE_VERSION, "codecs": list(CODECS)},
            "limits": limits | {"in_parallel": self._pipeline.depth},
            "pipeline": {
                **self._pipeline.times.describe(),
                "depth": self._pipeline.depth,
                "is_staged": self._work.is_staged,
                "prepare_threads": self._workers.prepare,
                "finish_threads": self._workers.finish,
                "max_batch": self._workers.infer,
            },
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
        the number of further images that the queue would accept from the caller, the number of
        images that would be served before a new one of the caller, the number of images of the
        caller and of callers with images, the depth of the pipeline, and ``device_busy`` and
        ``images_per_s`` as in :meth:`describe`.

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
            "images_finished": self._pipeline.images_finished,
            "places_left": self._admission.slots_left(caller) if self._pipeline.accepts else 0,
            "images_ahead": self._admission.images_ahead(caller),
            "caller_images": self._admission.images_of(caller),
            "callers": self._admission.callers(),
            "pipeline_depth": self._pipeline.depth,
            **self._pipeline.times.throughput(),
            "received_unix_s": received_unix_s,
            "sent_unix_s": time.time(),
        }

    def idle_s(self) -> float:
        """Return the seconds since the last image left the queue, 0 while the queue holds one."""
        return self._admission.idle_s()

    def _check_header(self, image: Any, axes: str | None) -> tuple[tuple[int, ...], str]:
        return check_header(image, axes, self._limits.max_image_bytes, self._limits.max_pixels)

    def _checked_statistics(
        self, image_statistics: dict[str, Any] | None, shape: tuple[int, ...], axes: str
    ) -> ImageStatistics | None:
        if image_statistics is None:
            return None
        wanted = self._description.get("image_statistics", ())
        return checked_statistics(image_statistics, wanted, shape, axes)

    def _state_key(
        self,
        context: dict[str, Any] | None,
        shape: tuple[int, ...],
        axes: str,
        parameters: dict[str, Any],
        statistics: ImageStatistics | None,
    ) -> Callable[[str], StateKey] | None:
        """Return what makes the key of a state from its image's digest; None where none is kept.

        Anonymous callers cannot be told apart.
        """
        caller = _caller(context)
        user = (context or {}).get("user") or {}
        if not self._keeps_states or caller is None or user.get("is_anonymous"):
            return None
        settings = settings_sha256(self._description, parameters, statistics)
        return lambda image_sha256: StateKey(caller, image_sha256, shape, axes, settings)

    def _check_embedding_parameters(self, parameters: dict[str, Any]) -> None:
        """Raise WrongParameter for one that decides no embedding or has a wrong value."""
        accepted = self._description.get("embedding_parameters", ())
        if unknown := sorted(set(parameters) - set(accepted)):
            raise WrongParameter(
                f"encode_image takes no parameter {', '.join(unknown)}, "
                f"expected {', '.join(accepted) or 'none'}"
            )
        self._engine.check_parameters(parameters)


def _caller(context: dict[str, Any] | None) -> str | None:
    """Return the caller's e-mail address or id as Hypha verified it, None for an unknown caller."""
    user = (context or {}).get("user") or {}
    name = user.get("email") or user.get("id")
    return None if name is None else str(name)


def _workers(description: dict[str, Any], limits: Limits, is_staged: bool) -> Workers:
    """Return the threads of each stage, and the largest batch of the engine."""
    cores = usable_cores()
    finish = limits.finish_threads or finish_threads(description.get("device_threads", 0), cores)
    if not is_staged:
        return Workers(prepare=1, infer=1, finish=finish)
    max_batch = description.get("max_batch", 1)
    if limits.max_batch:
        max_batch = min(max_batch, limits.max_batch)
    return Workers(prepare=min(cores, MAX_PREPARE_THREADS), infer=max_batch, finish=finish)
