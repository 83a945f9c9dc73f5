"""The examples of docs/extending.md do what the page says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from samcourier.errors import ImageUnfit, TransportFailed
from samcourier.images.planes import open_planes
from samcourier.images.readers import open as readers
from samcourier.images.selection import Selection
from samservice.contract.errors import EmbeddingsUnsupported, WrongParameter
from samservice.contract.wire import pack_array, unpack_array
from samservice.server.app import SegmentationService

Documented = Callable[[str], ModuleType]

#: Two bright squares, (C, Y, X) uint16.
IMAGE = np.full((2, 16, 16), 100, np.uint16)
IMAGE[:, 2:6, 2:6] = IMAGE[:, 9:14, 9:14] = 900


async def test_the_engine_segments_behind_the_service(documented: Documented) -> None:
    service = SegmentationService(documented("An engine").ThresholdEngine())
    try:
        answer = await service.segment_all(pack_array(IMAGE, "raw"), axes="CYX", level=0.3)
        mask = unpack_array(answer["mask"], 1 << 20)
        assert answer["object_count"] == 2
        assert (mask[3, 3], mask[10, 10], mask[0, 0]) == (1, 2, 0)
        assert (await service.segment_all(IMAGE, axes="ZYX")).shape == IMAGE.shape
        with pytest.raises(WrongParameter, match="level"):
            await service.segment_all(IMAGE, axes="CYX", level=2)
        with pytest.raises(EmbeddingsUnsupported):
            await service.encode_image(IMAGE[0])
        described = await service.describe()
        assert described["parameters"].keys() == {"level"}
    finally:
        service.close()


def test_the_reader_gives_the_planes_asked_for(
    documented: Documented, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = documented("An image format")
    monkeypatch.setattr(readers, "_READERS", ((example.NPY_MAGIC, example.open_npy),))
    path = tmp_path / "cells.npy"
    np.save(path, IMAGE)
    with open_planes(path, Selection(axes="CYX", channel=1)) as planes:
        np.testing.assert_array_equal(planes.read(0).pixels, IMAGE[1])
    with pytest.raises(ImageUnfit, match="write the axes into the sheet"), open_planes(path):
        pass
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageUnfit, match="damaged"), open_planes(path):
        pass


async def test_the_transport_carries_an_image(documented: Documented, tmp_path: Path) -> None:
    """The suite of all transports is in tests/contract."""
    example = documented("A transport")
    service = SegmentationService(documented("An engine").ThresholdEngine())
    server = await example.serve(service, tmp_path / "socket")
    transport = example.SocketTransport(tmp_path / "socket")
    try:
        await transport.open(5)
        arguments = {"image_or_embedding": IMAGE, "axes": "CYX"}
        mask = await transport.call("segment_all", arguments, 5)
        assert mask.max() == 2
        assert transport.progress() > IMAGE.nbytes
    finally:
        await transport.close()
        server.close()
        await server.wait_closed()
        service.close()
    with pytest.raises(TransportFailed):
        await transport.open(5)
