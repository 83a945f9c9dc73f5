"""A connected service that segments arrays, for asynchronous and for ordinary code."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..connection import ConnectionManager
from ..errors import CourierError, ImageUnfit
from ..images.planes import Plane
from ..results.image_log import Attempt
from ..results.service_description import ServiceDescription
from ..segmentation.events import Event, TimeSpent
from ..segmentation.plane import PlaneCaller

T = TypeVar("T")

#: The axes that a service knows, in the order in which it takes them.
AXES = "CZYX"

#: Besides the images in the service, this many are packed or unpacked.
_BESIDE_CALLS = 2


@dataclass(frozen=True)
class CallLog:
    """How an image travelled.

    Attributes:
        attempts: Each call that was made for the image, with its transport, seconds and bytes.
        seconds: Seconds of the client's own work: ``pack`` and ``unpack``.
    """

    attempts: tuple[Attempt, ...]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class SegmentedImage:
    """The result of one image.

    Attributes:
        labels: uint32, the axes of the image without C, 0 is background; None after a failure.
        object_count: Number of objects, None after a failure.
        note: A remark of the service, e.g. that the image is constant.
        error: Why the image has no labels, in one line; None for an image with labels.
        log: How the image travelled.
    """

    labels: npt.NDArray[np.uint32] | None
    object_count: int | None
    note: str | None
    error: str | None
    log: CallLog


class AsyncService:
    """A connected service. :func:`samcourier.connect` makes it, in ``async with``."""

    def __init__(self, manager: ConnectionManager, description: ServiceDescription) -> None:
        #: What the service tells about itself: engine, model, parameters, limits.
        self.description = description
        self._manager = manager
        self._caller = PlaneCaller(manager, description)

    async def segment(
        self, image: npt.ArrayLike, axes: str | None = None, **parameters: Any
    ) -> npt.NDArray[np.uint32]:
        """Segment one image.

        Args:
            image: Integers or floats, (Y, X), or with channels and depths as ``axes`` says.
            axes: The axes of ``image`` in their order, some of C, Z, Y and X. By default YX for
                two and CYX for three dimensions.
            **parameters: Parameters of the engine, see ``description.parameters``.

        Returns uint32 labels with the axes of the image without C, in the order Z, Y, X.

        Raises :class:`samcourier.errors.CourierError`: ImageUnfit for an image that cannot be
        segmented, RequestRefused for a wrong parameter, ServiceGone when the service is lost.
        """
        segmented = await self._segmented(image, axes, parameters, _Log())
        assert segmented.labels is not None
        return segmented.labels

    async def segment_many(
        self,
        images: Iterable[npt.ArrayLike],
        axes: str | None = None,
        **parameters: Any,
    ) -> AsyncIterator[SegmentedImage]:
        """Segment images, as many at once as keep the service busy, and yield them in order.

        ``images`` is read in a thread, a few images ahead, so that it may read files. The
        arguments are those of :meth:`segment`. An image that fails is yielded with its ``error``,
        and the others go on; an error of the service or of the parameters ends the iteration.
        """
        waiting = iter(images)
        tasks: deque[asyncio.Task[SegmentedImage]] = deque()
        end = object()
        try:
            is_more = True
            while is_more or tasks:
                while is_more and len(tasks) < self._manager.capacity + _BESIDE_CALLS:
                    image: Any = await asyncio.to_thread(next, waiting, end)
                    if image is end:
                        is_more = False
                        break
                    self._manager.expect(1)
                    tasks.append(asyncio.ensure_future(self._result(image, axes, parameters)))
                if tasks:
                    yield await tasks.popleft()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _result(
        self, image: npt.ArrayLike, axes: str | None, parameters: Mapping[str, Any]
    ) -> SegmentedImage:
        log = _Log()
        try:
            return await self._segmented(image, axes, parameters, log)
        except CourierError as error:
            if error.kind != "image":
                raise
            return SegmentedImage(None, None, None, str(error), log.taken())

    async def _segmented(
        self, image: npt.ArrayLike, axes: str | None, parameters: Mapping[str, Any], log: _Log
    ) -> SegmentedImage:
        plane = plane_of(image, axes)
        found = await self._caller.segment(plane, parameters, log)
        labels = np.asarray(found.mask)
        return SegmentedImage(labels, found.object_count, found.note, None, log.taken())


class _Log:
    """Collects the events of one image."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self._events.append(event)

    def taken(self) -> CallLog:
        seconds: dict[str, float] = {}
        for event in self._events:
            if isinstance(event, TimeSpent):
                seconds[event.stage] = seconds.get(event.stage, 0.0) + event.seconds
        attempts = tuple(event for event in self._events if isinstance(event, Attempt))
        return CallLog(attempts, seconds)


class Service:
    """A connected service for ordinary code. :func:`samcourier.connect` makes it, in ``with``.

    ``run`` runs a coroutine in the event loop of the connection and returns its result.
    """

    def __init__(
        self, service: AsyncService, run: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self._service = service
        self._run = run

    @property
    def description(self) -> ServiceDescription:
        """What the service tells about itself: engine, model, parameters, limits."""
        return self._service.description

    def segment(
        self, image: npt.ArrayLike, axes: str | None = None, **parameters: Any
    ) -> npt.NDArray[np.uint32]:
        """Segment one image; see :meth:`AsyncService.segment`."""
        labels: npt.NDArray[np.uint32] = self._run(self._service.segment(image, axes, **parameters))
        return labels

    def segment_many(
        self,
        images: Iterable[npt.ArrayLike],
        axes: str | None = None,
        **parameters: Any,
    ) -> Iterator[SegmentedImage]:
        """Segment images and yield them in order; see :meth:`AsyncService.segment_many`.

        The service goes on while the caller handles an image.
        """
        results = self._service.segment_many(images, axes, **parameters)
        try:
            while True:
                try:
                    yield self._run(_next(results))
                except StopAsyncIteration:
                    return
        finally:
            self._run(_close(results))


async def _next(results: AsyncIterator[T]) -> T:
    return await anext(results)


async def _close(results: Any) -> None:
    await results.aclose()


def plane_of(image: npt.ArrayLike, axes: str | None) -> Plane:
    """Return an array as the plane or volume that a service takes.

    Raises ImageUnfit for axes that do not fit the array and for values that are no numbers.
    """
    try:
        pixels = np.asarray(image)
    except ValueError as error:
        raise ImageUnfit(f"no array: {error}") from None
    named = axes if axes is not None else {2: "YX", 3: "CYX"}.get(pixels.ndim, "")
    letters = named.upper()
    is_known = set("YX") <= set(letters) <= set(AXES) and len(set(letters)) == len(letters)
    if not is_known or len(letters) != pixels.ndim:
        said = "without axes" if axes is None else f"with the axes {axes!r}"
        raise ImageUnfit(
            f"an array of shape {pixels.shape} {said}, expected one letter of {AXES} for each"
            " dimension, Y and X among them, e.g. axes='CYX'"
        )
    if pixels.dtype.kind not in "buif":
        raise ImageUnfit(f"an array of {pixels.dtype}, expected integers or floats")
    if axes is None and pixels.ndim == 3 and pixels.shape[-1] <= 4 < min(pixels.shape[:2]):
        raise ImageUnfit(
            f"an array of shape {pixels.shape} looks like (Y, X, channel), expected"
            " axes='YXC', or (channel, Y, X)"
        )
    order = [letters.index(letter) for letter in AXES if letter in letters]
    if pixels.dtype.kind == "b":
        pixels = pixels.view(np.uint8)
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False).transpose(order)
    # The digest names pixels in a results folder, which an array has none of.
    return Plane(np.ascontiguousarray(native), "".join(letters[at] for at in order), "")
