"""The tests that every transport must pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from samservice.contract.engine_description import DEFAULT_ENGINE
from samservice.contract.wire import pack_array, unpack_array
from samservice.engines.base import build_engine
from samservice.server.app import SegmentationService

from ..errors import CourierError, TransportFailed
from ..transports.base import Transport

OPEN_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 120.0
_SQUARE = np.zeros((16, 16), np.uint16)


def blobs(shape: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    """Return an image of ``shape``, (..., Y, X), with a bright square every 64 px."""
    image = np.full(shape, 100, np.uint16)
    for y in range(16, shape[-2] - 32, 64):
        for x in range(16, shape[-1] - 32, 64):
            image[..., y : y + 24, x : x + 24] = 2000
    return image


async def segment(transport: Transport, image: Any, **others: Any) -> Any:
    """Call the service's ``segment_all``."""
    arguments = {"image_or_embedding": image, **others}
    return await transport.call("segment_all", arguments, CALL_TIMEOUT_S)


@pytest.mark.asyncio
class TransportTests:
    """Subclass it as ``TestMyTransport`` and override the fixture ``unopened``.

    The fixture returns a :class:`samcourier.transports.base.Transport` that is not open yet. It
    leads to a service with the default engine, e.g. the fixture ``service``. An
    asynchronous fixture must be a ``pytest_asyncio.fixture``, unless pytest-asyncio's mode is
    ``auto``.
    """

    @pytest.fixture
    def service(self) -> Iterator[SegmentationService]:
        """A service in this process that the transport can lead to."""
        service = SegmentationService(build_engine(DEFAULT_ENGINE))
        yield service
        service.close()

    @pytest.fixture
    def unopened(self) -> Transport:
        """The transport to test, not open yet."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def transport(self, unopened: Transport) -> AsyncIterator[Transport]:
        """The open transport, which is closed after the test."""
        await unopened.open(OPEN_TIMEOUT_S)
        yield unopened
        await unopened.close()

    async def test_name_state_and_progress_have_the_required_types(
        self, transport: Transport
    ) -> None:
        assert isinstance(transport.name, str) and transport.name
        assert isinstance(transport.state(), str) and transport.state()
        before = transport.progress()
        await transport.call("probe", {"payload": bytes(1000), "reply_bytes": 0}, CALL_TIMEOUT_S)
        assert transport.progress() >= before >= 0

    async def test_calls_overlap_and_each_gets_its_own_answer(self, transport: Transport) -> None:
        async def received(count: int) -> int:
            arguments = {"payload": bytes(count), "reply_bytes": count}
            answer = await transport.call("probe", arguments, CALL_TIMEOUT_S)
            assert len(answer["data"]) == count
            return int(answer["received_bytes"])

        sizes = [0, 1, 70_000, 700_000]
        assert await asyncio.gather(*map(received, sizes)) == sizes

    async def test_describe_returns_the_description_of_the_service(
        self, transport: Transport
    ) -> None:
        description = await transport.call("describe", {}, CALL_TIMEOUT_S)
        assert description["engine"] == DEFAULT_ENGINE
        assert description["wire"]["version"] == 1
        assert description["limits"]["max_queue"] > 0

    @pytest.mark.parametrize(("up", "down"), [(0, 0), (10, 3_000_000), (3_000_000, 10)])
    async def test_a_probe_transfers_its_bytes_in_both_directions(
        self, transport: Transport, up: int, down: int
    ) -> None:
        answer = await transport.call(
            "probe", {"payload": b"\x5a" * up, "reply_bytes": down}, CALL_TIMEOUT_S
        )
        assert (answer["received_bytes"], len(answer["data"])) == (up, down)

    @pytest.mark.parametrize(
        ("shape", "axes", "mask_shape"),
        [
            ((128, 192), None, (128, 192)),
            ((2, 128, 192), None, (128, 192)),
            ((3, 128, 192), "ZYX", (3, 128, 192)),
            ((2, 3, 128, 192), "CZYX", (3, 128, 192)),
        ],
    )
    async def test_packed_and_plain_images_get_equal_masks(
        self,
        transport: Transport,
        shape: tuple[int, ...],
        axes: str | None,
        mask_shape: tuple[int, ...],
    ) -> None:
        image = blobs(shape)
        given = {} if axes is None else {"axes": axes}
        plain = await segment(transport, image, **given)
        answer = await segment(transport, pack_array(image, "blosc-lz4"), **given)
        packed = unpack_array(answer["mask"], 1 << 30)
        assert plain.dtype == packed.dtype == np.uint32
        assert plain.shape == packed.shape == mask_shape
        np.testing.assert_array_equal(plain, packed)
        assert answer["object_count"] == plain.max() > 0

    async def test_a_constant_image_gives_an_empty_mask_and_a_note(
        self, transport: Transport
    ) -> None:
        answer = await segment(transport, pack_array(np.full((64, 64), 7, np.uint8), "raw"))
        assert answer["object_count"] == 0
        assert "constant" in answer["note"]

    @pytest.mark.parametrize(
        ("image", "others", "kind", "name"),
        [
            (_SQUARE, {"axes": "XY"}, "image", "WrongAxes"),
            (_SQUARE, {"axes": "ZYX"}, "image", "WrongAxes"),
            (np.zeros((2, 2, 2, 2), np.uint8), {}, "image", "WrongAxes"),
            (np.zeros((0, 16), np.uint16), {}, "image", "WrongShape"),
            (np.zeros((16, 16), np.complex64), {}, "image", "WrongDtype"),
            ("a string", {}, "image", "WrongDtype"),
            (np.full((16, 16), np.nan, np.float32), {}, "image", "NotFinite"),
            (np.array([[1.0, np.inf]], np.float32), {}, "image", "NotFinite"),
            (pack_array(_SQUARE, "raw") | {"shape": [16, 17]}, {}, "image", "WrongShape"),
            (
                pack_array(_SQUARE, "raw") | {"shape": [1 << 20, 1 << 20]},
                {},
                "image",
                "WrongShape",
            ),
            (_SQUARE, {"sigmma_px": 1.0}, "request", "WrongParameter"),
            ({}, {"embedding": True}, "request", "EmbeddingsUnsupported"),
        ],
    )
    async def test_a_wrong_request_raises_the_services_error_by_name(
        self, transport: Transport, image: Any, others: dict[str, Any], kind: str, name: str
    ) -> None:
        with pytest.raises(CourierError) as caught:
            await segment(transport, image, **others)
        assert (caught.value.kind, caught.value.name) == (kind, name)
        assert "Traceback" not in str(caught.value)

    async def test_an_engine_without_embeddings_refuses_encode_image_by_name(
        self, transport: Transport
    ) -> None:
        with pytest.raises(CourierError) as caught:
            await transport.call("encode_image", {"image": blobs((64, 64))}, CALL_TIMEOUT_S)
        assert caught.value.name == "EmbeddingsUnsupported"

    async def test_a_call_of_an_unknown_method_raises_no_such_method(
        self, transport: Transport
    ) -> None:
        with pytest.raises(CourierError) as caught:
            await transport.call("segment_some", {}, CALL_TIMEOUT_S)
        assert (caught.value.kind, caught.value.name) == ("request", "NoSuchMethod")

    async def test_a_call_that_exceeds_its_timeout_raises_transport_failed(
        self, transport: Transport
    ) -> None:
        with pytest.raises(TransportFailed):
            await transport.call("segment_all", {"image_or_embedding": blobs((1024, 1024))}, 0.01)

    async def test_a_closed_transport_refuses_calls_and_can_be_opened_again(
        self, transport: Transport
    ) -> None:
        await transport.close()
        await transport.close()
        with pytest.raises(TransportFailed):
            await transport.call("describe", {}, CALL_TIMEOUT_S)
        await transport.open(OPEN_TIMEOUT_S)
        assert (await transport.call("describe", {}, CALL_TIMEOUT_S))["engine"] == DEFAULT_ENGINE
