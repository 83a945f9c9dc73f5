"""The work of one request: the stages of the loaded engine, around the checks of the service."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..contract.axes import mask_shape
from ..contract.channels import is_constant
from ..contract.errors import SegmentationFailed
from ..contract.image_reference import pixels_sha256
from ..contract.image_statistics import ImageStatistics
from ..contract.labels import count_objects
from ..contract.validation import pack_embedding, unpack_embedding, unpack_image
from ..contract.wire import MASK_CODEC, pack_array
from ..engines.base import Engine
from ..engines.stages import Prepared, has_stages, infers_embeddings
from .state_cache import StateCache, StateKey
from .work import Known, Work, alone

CONSTANT_IMAGE_NOTE = "the image is constant: the mask is empty, and the model did not run"

#: The largest pixel, in bytes: what a request may be unpacked to before it is looked at.
_MAX_ITEM_BYTES = 8
_LABEL_BYTES = np.dtype(np.uint32).itemsize


@dataclass(frozen=True)
class Segmented:
    """The labels of a request.

    Attributes:
        mask: A packed mask, or the uint32 labels for a request that was not packed.
        object_count: Number of objects, None for a request that was not packed.
        note: A remark for the caller, or None.
        state_kept: Whether the state of the image is kept for further requests.
    """

    mask: Any
    object_count: int | None
    note: str | None
    state_kept: bool = False


class EngineWork:
    """Makes the work of each kind of request for one engine.

    ``max_bytes`` and ``max_pixels`` bound an unpacked image or embedding. ``states`` keeps what
    the device gave.
    """

    def __init__(self, engine: Engine, max_bytes: int, max_pixels: int, states: StateCache) -> None:
        self._engine = engine
        self._states = states
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._stages = engine if has_stages(engine) else None
        self._embedding_stages = engine if infers_embeddings(engine) else None

    @property
    def is_staged(self) -> bool:
        """Whether the engine offers stages."""
        return self._stages is not None

    def image(
        self,
        caller: str | None,
        given: Any,
        shape: tuple[int, ...],
        axes: str,
        parameters: dict[str, Any],
        statistics: ImageStatistics | None,
        packed: bool,
        state_key: Callable[[str], StateKey] | None = None,
    ) -> Work[Segmented]:
        """Return the work of an image, packed or not, of ``shape`` and ``axes``.

        A constant image has no objects and does not need the engine. ``state_key`` returns the key
        under which to keep the state, from the digest of the image; None to keep none.
        """
        labels_shape = mask_shape(shape, axes)
        tile_arguments = () if statistics is None else (statistics,)
        pack = partial(_finished, packed=packed)
        working_bytes = math.prod(shape) * _MAX_ITEM_BYTES + math.prod(labels_shape) * _LABEL_BYTES

        # A constant tile is common and needs no note.
        note = CONSTANT_IMAGE_NOTE if statistics is None else None

        def unpack() -> np.ndarray:
            return unpack_image(given, axes, self._max_bytes, self._max_pixels)[0]

        def constant() -> Known:
            return Known(np.zeros(labels_shape, np.uint32), note)

        stages = self._stages
        if stages is None:

            def prepare_alone() -> Prepared | Known:
                image = unpack()
                return constant() if is_constant(image) else Prepared(image)

            def segment(prepared: Sequence[Prepared]) -> list[Any]:
                image = prepared[0].content
                return [self._engine.segment(image, axes, parameters, *tile_arguments)]

            return Work(
                caller,
                working_bytes,
                prepare_alone,
                segment,
                lambda state: pack(state, labels_shape),
                alone,
            )

        keys: list[StateKey] = []

        def prepare() -> Prepared | Known:
            image = unpack()
            if state_key is not None:
                keys.append(state_key(pixels_sha256(image, axes)))
            if is_constant(image):
                return constant()
            prepared = stages.prepare(image, axes, parameters, *tile_arguments)
            return prepared if isinstance(prepared, Prepared) else Known(prepared)

        def finish(state: Any) -> Segmented:
            is_kept = [self._states.keep(key, state) for key in keys] == [True]
            labels = state if isinstance(state, Known) else stages.finish(state, parameters)
            return replace(pack(labels, labels_shape), state_kept=is_kept)

        return Work(
            caller,
            max(stages.working_bytes(shape, axes), working_bytes),
            prepare,
            stages.infer,
            finish,
            stages.max_batch,
        )

    def kept(
        self,
        caller: str | None,
        key: StateKey,
        shape: tuple[int, ...],
        axes: str,
        parameters: dict[str, Any],
    ) -> Work[Segmented]:
        """Return the work of an image of ``shape`` whose state is kept; the labels are packed.

        Its ``finish`` raises StateNotKept when the state has gone meanwhile.
        """
        stages = self._stages
        assert stages is not None
        labels_shape = mask_shape(shape, axes)

        def finish(_: Any) -> Segmented:
            state = self._states.get(key)
            labels = state if isinstance(state, Known) else stages.finish(state, parameters)
            return replace(_finished(labels, labels_shape, packed=True), state_kept=True)

        working_bytes = math.prod(labels_shape) * _LABEL_BYTES
        return Work(
            caller,
            max(stages.working_bytes(shape, axes), working_bytes),
            None,
            stages.infer,
            finish,
        )

    def embedding(
        self, caller: str | None, given: Any, parameters: dict[str, Any], packed: bool
    ) -> Work[Segmented]:
        """Return the work of an embedding, packed or not."""
        engine, pack = self._engine, partial(_finished, packed=packed)

        def unpack() -> dict[str, Any]:
            return unpack_embedding(given, self._max_bytes, self._max_pixels)

        working_bytes = _embedding_bytes(given)
        stages, embedding_stages = self._stages, self._embedding_stages
        if stages is None or embedding_stages is None:
            return Work(
                caller,
                working_bytes,
                lambda: Prepared(unpack()),
                lambda prepared: [engine.segment_embedding(prepared[0].content, parameters)],
                pack,
                alone,
            )

        def prepare() -> Prepared | Known:
            prepared = embedding_stages.prepare_embedding(unpack(), parameters)
            return prepared if isinstance(prepared, Prepared) else Known(prepared)

        def finish(state: Any) -> Segmented:
            return pack(state if isinstance(state, Known) else stages.finish(state, parameters))

        return Work(caller, working_bytes, prepare, stages.infer, finish, stages.max_batch)

    def encoding(
        self,
        caller: str | None,
        given: Any,
        shape: tuple[int, ...],
        axes: str,
        parameters: dict[str, Any],
        packed: bool,
    ) -> Work[dict[str, Any]]:
        """Return the work that makes the embedding of an image, packed or not."""
        arguments = (parameters,) if parameters else ()

        def prepare() -> Prepared:
            return Prepared(unpack_image(given, axes, self._max_bytes, self._max_pixels)[0])

        return Work(
            caller,
            math.prod(shape) * _MAX_ITEM_BYTES,
            prepare,
            lambda prepared: [self._engine.encode(prepared[0].content, axes, *arguments)],
            pack_embedding if packed else lambda encoded: encoded,
            alone,
        )


def request_bytes(given: Any) -> int:
    """Return the bytes of a request's arrays, packed or not; 0 for anything else."""
    if isinstance(given, np.ndarray):
        return given.nbytes
    if isinstance(given, bytes):
        return len(given)
    if isinstance(given, dict):
        return sum(request_bytes(value) for value in given.values())
    return 0


def _embedding_bytes(given: Any) -> int:
    """Return the bytes of an embedding and its mask, as far as its header tells them."""
    size = given.get("original_size") if isinstance(given, dict) else None
    pixels = math.prod(size) if isinstance(size, list | tuple) else 0
    return 2 * request_bytes(given) + pixels * _LABEL_BYTES


def _finished(
    found: Any, expected_shape: tuple[int, ...] | None = None, *, packed: bool
) -> Segmented:
    """Check and pack the labels of an engine."""
    known = found if isinstance(found, Known) else Known(found)
    mask = _checked_labels(known.labels, expected_shape)
    if not packed:
        return Segmented(mask, None, known.note)
    return Segmented(pack_array(mask, MASK_CODEC), count_objects(mask), known.note)


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
