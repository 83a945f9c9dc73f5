"""A batch against a service in this process: what is written, what is called again, what stops."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import imagecodecs
import jsonschema
import numpy as np
import pytest
import tifffile

import samcourier.masks.omezarr
import samcourier.results.image_log
import samcourier.segmentation.finish
import samcourier.segmentation.image
from samcourier.connection import ConnectionManager, OnlyReplica
from samcourier.connection.flow import TRAVELLING
from samcourier.connection.time_limits import Policy
from samcourier.errors import (
    CourierError,
    Denied,
    InputError,
    Overloaded,
    RequestRefused,
    ServiceFailed,
    ServiceGone,
    ServiceUnfit,
    StorageFailed,
    TransportFailed,
)
from samcourier.evaluation.check import check_results
from samcourier.images.geometry import SheetSize
from samcourier.images.selection import Selection, parse_pick
from samcourier.masks.integrity import MaskContainer, read_provenance, stat_mask, zarr_files
from samcourier.masks.omezarr import delete, read_mask
from samcourier.results.connection_log import ConnectionJournal
from samcourier.results.image_log import ImageLog, read_image_log
from samcourier.results.layout import log_path, mask_path, output_path
from samcourier.results.manifest import Manifest
from samcourier.results.service_description import ServiceDescription
from samcourier.samples.sheet import Batch, ImageRow
from samcourier.segmentation.batch import (
    IMAGES_BESIDE_CALLS,
    SERVICE_FAILURES,
    BatchRun,
    batch_lock,
)
from samcourier.segmentation.embedding_cache import EmbeddingStore
from samcourier.testing.fake import FakeTransport, Scripted
from samservice.contract.errors import (
    ImageTooLarge,
    NotFinite,
    ServiceError,
    StageHung,
    WrongParameter,
)
from samservice.contract.wire import MASK_CODEC, pack_array
from samservice.server.app import SegmentationService

from .batch_settings import batch_settings

SCHEMA = json.loads(
    (Path(__file__).parents[3] / "workflow/schemas/image-log.schema.json").read_text()
)

#: Transports are looked at again at once and nobody waits.
IMPATIENT = Policy(overload_wait_s=0.0, open_timeout_s=1.0, first_backoff_s=0.0, outage_limit_s=0.0)

DESCRIPTION = {
    "engine": "scripted",
    "model": "threshold",
    "model_sha256": None,
    "segmentation_version": 1,
    "versions": {"scripted": "1"},
    "device": "cpu",
}


#: One is worked on, two travel, one is read and one written.
MOST_IMAGES = 1 + TRAVELLING + IMAGES_BESIDE_CALLS


def bright(image: np.ndarray) -> np.ndarray:
    """Label the brightest pixel 1 and the darkest 2."""
    mask = np.zeros(image.shape[-2:], np.uint32)
    mask.flat[image.argmax() % mask.size] = 1
    mask.flat[image.argmin() % mask.size] = 2
    return mask


class ScriptedEngine:
    """Labels two pixels; ``fails`` maps an image's largest value to what is raised for it."""

    def __init__(self) -> None:
        self.fails: dict[int, Exception] = {}
        self.version = 1
        self.accepted: dict[str, Any] | None = None
        self.labels: np.ndarray | None = None

    def describe(self) -> dict[str, Any]:
        return DESCRIPTION | {"segmentation_version": self.version, "parameters": self.accepted}

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        if unknown := set(parameters) - {"sigma"}:
            raise WrongParameter(f"{sorted(unknown)} unknown, expected sigma")

    def segment(self, image: np.ndarray, axes: str, parameters: dict[str, Any]) -> np.ndarray:
        if error := self.fails.get(int(image.max())):
            raise error
        return bright(image) if self.labels is None else self.labels

    def encode(self, image: np.ndarray, axes: str) -> dict[str, Any]:
        raise NotImplementedError

    def segment_embedding(
        self, embedding: dict[str, Any], parameters: dict[str, Any]
    ) -> np.ndarray:
        raise NotImplementedError


class RawService:
    """A service that knows ndarrays only: no describe, no packed images, no axes."""

    async def segment_all(self, image_or_embedding: Any, **parameters: Any) -> np.ndarray:
        assert isinstance(image_or_embedding, np.ndarray)
        assert "axes" not in parameters
        return bright(image_or_embedding)


class LyingService(RawService):
    """Answers with whatever it was told to."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer

    async def segment_all(self, image_or_embedding: Any, **parameters: Any) -> Any:
        return self.answer(image_or_embedding)


def image_of(number: int) -> np.ndarray:
    """Return an image, (10, 12) uint16, whose largest value is 1000 + ``number``."""
    image = np.arange(120, dtype=np.uint16).reshape(10, 12)
    image[number % 10, 3] = 1000 + number
    return image


class Bench:
    """A folder with images, and runs of one batch over a fresh connection each."""

    def __init__(self, root: Path, count: int = 3) -> None:
        self.root = root
        self.dataset_dir = root / "results"
        self.engine = ScriptedEngine()
        self.history: list[str] = []
        self.images = [f"cell{number}" for number in range(count)]
        self.pixel_size_um: SheetSize | None = None
        self.cells: dict[str, Any] = {}
        self.cells_of: dict[str, dict[str, Any]] = {}
        for number, image in enumerate(self.images):
            tifffile.imwrite(self.path(image), image_of(number))

    def path(self, image: str) -> Path:
        return self.root / f"{image}.tif"

    def mask(self, image: str) -> Path:
        return mask_path(self.dataset_dir, image)

    def log(self, image: str) -> ImageLog:
        log = read_image_log(log_path(self.dataset_dir, image))
        assert log is not None
        return log

    @property
    def call_count(self) -> int:
        """How often the last run called for a mask."""
        return self.history.count("segment_all")

    async def run(
        self,
        service: object | None = None,
        calls: list[Scripted] | None = None,
        on_image: Callable[[ImageLog], None] | None = None,
        identity: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Manifest:
        """Run the batch; ``calls`` script what comes before each call for a mask."""
        made = SegmentationService(self.engine) if service is None else None
        transport = FakeTransport(made or service, calls=calls or [])
        self.history = transport.history
        rows = tuple(
            ImageRow(
                image,
                self.path(image),
                pixel_size_um=self.pixel_size_um,
                **{**self.cells, **self.cells_of.get(image, {})},
            )
            for image in self.images
        )
        with ConnectionJournal(self.root / "journal.jsonl") as journal:
            manager = ConnectionManager(OnlyReplica([transport]), journal, IMPATIENT)
            try:
                description = await manager.start(len(rows))
                if description.is_empty:
                    description = ServiceDescription(**(identity or DESCRIPTION))
                run = BatchRun(
                    batch_settings(self.dataset_dir, **settings), manager, description, on_image
                )
                return await run.run(Batch("0001", rows))
            finally:
                self.calls_left = manager.calls_left
                await manager.close()
                if made:
                    made.close()

    def mtimes(self) -> dict[str, dict[str, int]]:
        return {
            image: {entry.path: entry.stat().st_mtime_ns for entry in zarr_files(self.mask(image))}
            for image in self.images
        }

    def statuses(self, manifest: Manifest) -> list[str]:
        return [entry.failure_kind or entry.status for entry in manifest.images.values()]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    # Whatever happened, what was written is a log by the schema.
    for path in (bench.dataset_dir / "logs").glob("*.json"):
        jsonschema.validate(json.loads(path.read_text()), SCHEMA)


def failing(error: CourierError) -> Scripted:
    return Scripted(error=error)


# What a batch leaves behind.


async def test_a_batch_writes_masks_logs_and_a_manifest(bench: Bench) -> None:
    reported: list[str] = []
    manifest = await bench.run(on_image=lambda log: reported.append(log.image))
    assert manifest.batch == "0001"
    assert list(manifest.images) == bench.images
    assert sorted(reported) == bench.images
    for number, image in enumerate(bench.images):
        np.testing.assert_array_equal(read_mask(bench.mask(image)), bright(image_of(number)))
        entry, log = manifest.images[image], bench.log(image)
        files = list(zarr_files(bench.mask(image)))
        assert (entry.status, entry.object_count, entry.key) == ("done", 2, log.key)
        assert entry.mask_files == len(files)
        assert entry.mask_bytes == sum(file.stat().st_size for file in files)
        assert (log.shape, log.dtype, log.axes) == ((10, 12), "uint16", "YX")
        assert [attempt.outcome for attempt in log.attempts] == ["ok"]
        assert log.attempts[0].bytes.up > 0 and log.attempts[0].bytes.down > 0
        assert None not in (log.seconds.read, log.seconds.pack, log.seconds.write)


async def test_each_image_is_logged_with_its_result(
    bench: Bench, log: pytest.LogCaptureFixture
) -> None:
    bench.path("cell1").write_bytes(b"no image")
    await bench.run()
    found = {record.image: record for record in log.records}
    assert sorted(found) == bench.images
    assert found["cell0"].getMessage() == "cell0: 2 objects, fake"
    assert (found["cell0"].levelno, found["cell0"].transport) == (logging.INFO, "fake")
    assert found["cell0"].seconds > 0
    assert found["cell1"].getMessage().startswith("cell1: failed (image): ImageUnfit: ")
    assert (found["cell1"].levelno, found["cell1"].transport) == (logging.WARNING, None)


async def test_a_service_that_takes_only_ndarrays_works(bench: Bench) -> None:
    manifest = await bench.run(RawService())
    assert bench.statuses(manifest) == ["done"] * 3
    for number, image in enumerate(bench.images):
        np.testing.assert_array_equal(read_mask(bench.mask(image)), bright(image_of(number)))
        (attempt,) = bench.log(image).attempts
        assert attempt.bytes.up == image_of(number).nbytes


@pytest.mark.parametrize("description", [{}, {"engine": "theirs"}])
async def test_masks_of_a_service_without_describe_have_keys(
    bench: Bench, description: dict[str, Any]
) -> None:
    manifest = await bench.run(RawService(), identity=description)
    assert bench.statuses(manifest) == ["done"] * 3
    assert len({entry.key for entry in manifest.images.values()}) == 3


async def test_no_more_images_are_in_flight_than_there_is_room_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, count=2 * MOST_IMAGES + 1)
    at_once, most_at_once = 0, 0

    class Watched(RawService):
        async def segment_all(self, image_or_embedding: Any, **parameters: Any) -> np.ndarray:
            nonlocal at_once, most_at_once
            at_once += 1
            most_at_once = max(most_at_once, at_once)
            await asyncio.sleep(0.005)
            at_once -= 1
            return bright(image_or_embedding)

    await bench.run(Watched())
    assert 1 < most_at_once <= MOST_IMAGES


# Stacks.

MOVIE = Selection(t=parse_pick("all", volume=False))


async def test_a_stack_is_segmented_plane_by_plane_into_one_mask(bench: Bench) -> None:
    bench.images = bench.images[:1]
    written = np.stack([image_of(number) for number in range(7)])
    tifffile.imwrite(bench.path("cell0"), written, imagej=True, metadata={"axes": "TYX"})
    bench.cells = {"selection": MOVIE}
    first = await bench.run()
    assert (bench.statuses(first), bench.call_count, bench.calls_left) == (["done"], 7, 0)
    mask = read_mask(bench.mask("cell0"))
    np.testing.assert_array_equal(mask, np.stack([bright(plane) for plane in written]))
    log = bench.log("cell0")
    assert (log.axes, log.shape, log.planes, log.object_count) == ("TYX", (7, 10, 12), 7, 14)
    assert sorted(attempt.plane for attempt in log.attempts) == list(range(7))
    assert await bench.run() == first
    assert (bench.call_count, bench.calls_left) == (0, 0)
    written[5, 0, 0] = 5000
    tifffile.imwrite(bench.path("cell0"), written, imagej=True, metadata={"axes": "TYX"})
    assert (await bench.run()).images["cell0"].key != first.images["cell0"].key


@pytest.mark.parametrize(
    ("channel", "sent", "axes"),
    [(1, (4, 10, 12), "TZYX"), (None, (2, 4, 10, 12), "TCZYX")],
)
async def test_time_points_of_volumes_are_one_call_each_and_the_mask_has_no_channel(
    bench: Bench, channel: int | None, sent: tuple[int, ...], axes: str
) -> None:
    seen: list[tuple[int, ...]] = []

    class Volumes:
        async def segment_all(self, image_or_embedding: Any, **parameters: Any) -> np.ndarray:
            seen.append(image_or_embedding.shape)
            return np.full(image_or_embedding.shape[-3:], image_or_embedding.flat[0], np.uint32)

    bench.images = bench.images[:1]
    written = np.zeros((3, 4, 2, 10, 12), np.uint16)
    written[:] = np.arange(1, 4)[:, np.newaxis, np.newaxis, np.newaxis, np.newaxis]
    tifffile.imwrite(bench.path("cell0"), written, imagej=True, metadata={"axes": "TZCYX"})
    picks = {axis: parse_pick(cell, volume=True) for axis, cell in (("t", "all"), ("z", "volume"))}
    bench.cells = {"selection": Selection(channel=channel, **picks)}
    assert bench.statuses(await bench.run(Volumes())) == ["done"]
    assert seen == [sent] * 3
    np.testing.assert_array_equal(read_mask(bench.mask("cell0")), written[:, :, 0])
    multiscales = json.loads((bench.mask("cell0") / ".zattrs").read_text())["multiscales"]
    assert [axis["name"] for axis in multiscales[0]["axes"]] == ["t", "z", "y", "x"]
    assert bench.log("cell0").axes == axes


@pytest.mark.parametrize(
    ("z", "of_the_sheet_um", "scale"),
    [
        ("volume", None, [60.0, 1.5, 0.5, 0.5]),
        ("all", None, [60.0, 1.5, 0.5, 0.5]),
        ("all", 0.25, [60.0, 1.5, 0.25, 0.25]),
        ("all", (0.5, 0.25), [60.0, 1.5, 0.5, 0.25]),
        ("all", (3.0, 0.5, 0.25), [60.0, 3.0, 0.5, 0.25]),
        ("max", 0.25, [60.0, 0.25, 0.25]),
    ],
)
async def test_the_z_spacing_of_the_file_holds_beside_a_pixel_size_of_the_sheet(
    bench: Bench, z: str, of_the_sheet_um: SheetSize | None, scale: list[float]
) -> None:
    class Volumes:
        async def segment_all(self, image_or_embedding: Any, **parameters: Any) -> np.ndarray:
            return np.ones(image_or_embedding.shape, np.uint32)

    bench.images, bench.pixel_size_um = bench.images[:1], of_the_sheet_um
    metadata = {"axes": "TZYX", "unit": "um", "spacing": 1.5, "finterval": 60.0}
    written = np.ones((3, 4, 10, 12), np.uint16)
    tifffile.imwrite(
        bench.path("cell0"), written, imagej=True, resolution=(2, 2), metadata=metadata
    )
    picks = {axis: parse_pick(cell, volume=True) for axis, cell in (("t", "all"), ("z", z))}
    bench.cells = {"selection": Selection(**picks)}
    assert bench.statuses(await bench.run(Volumes())) == ["done"]
    (multiscale,) = json.loads((bench.mask("cell0") / ".zattrs").read_text())["multiscales"]
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == scale
    units = {axis["name"]: axis.get("unit") for axis in multiscale["axes"]}
    assert units.pop("t") == "second"
    assert set(units.values()) == {"micrometer"}


async def test_a_failed_plane_fails_its_image_only(
    bench: Bench,
) -> None:
    written = np.stack([image_of(number) for number in range(3)])
    tifffile.imwrite(bench.path("cell1"), written, imagej=True, metadata={"axes": "TYX"})
    bench.cells = {"selection": MOVIE}
    bench.engine.fails[1002] = NotFinite("holds NaN")
    assert bench.statuses(await bench.run()) == ["done", "image", "image"]
    assert "holds NaN" in bench.log("cell1").failure.message
    assert not bench.mask("cell1").exists()


async def test_no_more_planes_are_in_flight_than_there_is_room_for(bench: Bench) -> None:
    at_once, most_at_once = 0, 0

    class Watched(RawService):
        async def segment_all(self, image_or_embedding: Any, **parameters: Any) -> np.ndarray:
            nonlocal at_once, most_at_once
            at_once += 1
            most_at_once = max(most_at_once, at_once)
            await asyncio.sleep(0.002)
            at_once -= 1
            return bright(image_or_embedding)

    written = np.stack([image_of(number) for number in range(20)])
    for image in bench.images:
        tifffile.imwrite(bench.path(image), written, imagej=True, metadata={"axes": "TYX"})
    bench.cells = {"selection": MOVIE}
    assert bench.statuses(await bench.run(Watched())) == ["done"] * 3
    assert 1 < most_at_once <= MOST_IMAGES


async def test_parameters_of_the_sheet_are_those_of_their_image(bench: Bench) -> None:
    await bench.run(parameters={"sigma": 1.0})
    bench.cells = {"parameters": {"sigma": 2.0}}
    await bench.run(parameters={"sigma": 1.0})
    assert bench.call_count == 3
    assert bench.log("cell0").parameters == {"sigma": 2.0}
    bench.cells = {"parameters": {"radius": 1}}
    manifest = await bench.run()
    assert bench.statuses(manifest) == ["image"] * 3
    assert manifest.images["cell2"].failure.startswith("WrongParameter: the sheet's parameters: ")


PARAMETERS = {"sigma": {"type": "number", "minimum": 0, "maximum": 20}}


async def test_a_wrong_parameter_of_the_run_ends_the_batch_before_any_image(bench: Bench) -> None:
    bench.engine.accepted = PARAMETERS
    with pytest.raises(RequestRefused, match=r"config\.parameters .*did you mean 'sigma'"):
        await bench.run(parameters={"sigmas": 1.0})
    assert bench.call_count == 0
    assert not (bench.dataset_dir / "logs").exists()


async def test_a_text_is_sent_as_the_number_that_the_service_describes(bench: Bench) -> None:
    bench.engine.accepted = PARAMETERS
    bench.cells_of = {"cell1": {"parameters": {"sigma": "2"}}}
    await bench.run(parameters={"sigma": "1.5"})
    assert [bench.log(f"cell{number}").parameters for number in range(3)] == [
        {"sigma": 1.5},
        {"sigma": 2},
        {"sigma": 1.5},
    ]
    assert bench.call_count == 3
    bench.cells_of = {"cell1": {"parameters": {"sigma": 2}}}
    await bench.run(parameters={"sigma": 1.5})
    # The masks have the keys of the numbers.
    assert bench.call_count == 0


async def test_a_wrong_parameter_of_a_row_fails_that_row_before_a_call(
    bench: Bench,
) -> None:
    bench.engine.accepted = PARAMETERS
    bench.cells_of = {"cell1": {"parameters": {"sigma": "two"}}}
    manifest = await bench.run()
    assert bench.statuses(manifest) == ["done", "image", "done"]
    assert bench.call_count == 2
    assert bench.log("cell1").failure.message == (
        "sheet, image cell1, column parameters: parameter 'sigma' is 'two', expected number"
        " from 0 to 20"
    )


# Foregrounds.


def foreground_of(bench: Bench, pixels: np.ndarray) -> Path:
    path = bench.root / "foreground.png"
    path.write_bytes(imagecodecs.png_encode(pixels))
    bench.cells = {"foreground": path}
    return path


async def test_objects_are_cut_at_the_edge_of_the_foreground(tmp_path: Path) -> None:
    bench = Bench(tmp_path, count=1)
    inside = np.zeros((10, 12), np.uint8)
    inside[:, 3:10] = 7
    foreground_of(bench, inside)
    stripes = 1 + np.arange(12, dtype=np.uint32) // 5
    bench.engine.labels = np.tile(stripes, (10, 1))
    manifest = await bench.run()
    mask = read_mask(bench.mask("cell0"))
    np.testing.assert_array_equal(mask, np.tile([0, 0, 0, 1, 1, *[2] * 5, 0, 0], (10, 1)))
    assert manifest.images["cell0"].object_count == 2


async def test_another_foreground_makes_its_masks_again(bench: Bench) -> None:
    plain = await bench.run()
    inside = np.ones((10, 12), np.uint8)
    foreground_of(bench, inside)
    first = await bench.run()
    assert (bench.call_count, first.images["cell0"].key) != (0, plain.images["cell0"].key)
    foreground_of(bench, inside * 255)
    assert await bench.run() == first
    assert bench.call_count == 0
    inside[0, 3] = 0
    foreground_of(bench, inside)
    second = await bench.run()
    assert (bench.call_count, second.images["cell0"].object_count) == (3, 1)


@pytest.mark.parametrize("per_plane", [False, True])
async def test_a_stack_has_one_foreground_or_one_of_each_plane(
    bench: Bench, per_plane: bool
) -> None:
    bench.images = bench.images[:1]
    written = np.stack([image_of(number) for number in range(3)])
    tifffile.imwrite(bench.path("cell0"), written, imagej=True, metadata={"axes": "TYX"})
    inside = np.ones((3, 10, 12) if per_plane else (10, 12), np.uint8)
    inside[..., 1, 3] = 0
    path = bench.root / "inside.tif"
    tifffile.imwrite(path, inside, photometric="minisblack")
    bench.cells = {"selection": MOVIE, "foreground": path}
    manifest = await bench.run()
    expected = np.stack([bright(plane) for plane in written]) * inside
    np.testing.assert_array_equal(read_mask(bench.mask("cell0")), expected)
    assert manifest.images["cell0"].object_count == 5


async def test_a_foreground_that_does_not_fit_fails_its_image_in_one_line_unsent(
    bench: Bench,
) -> None:
    path = foreground_of(bench, np.ones((12, 10), np.uint8))
    bench.cells_of = {"cell0": {"foreground": None}, "cell2": {"foreground": path / "gone"}}
    assert bench.statuses(await bench.run()) == ["done", "image", "image"]
    assert bench.call_count == 1
    assert bench.log("cell1").failure.message == (
        f"{path}: foreground of shape (12, 10), expected the image's (10, 12)"
    )
    assert str(path / "gone") in bench.log("cell2").failure.message


# Embeddings.


class EncodingEngine(ScriptedEngine):
    """Its embedding is the image itself, so that the way over it gives the same labels."""

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"embeddings": True, "embedding_bytes": 240}

    def encode(self, image: np.ndarray, axes: str) -> dict[str, Any]:
        return {"features": image, "original_size": list(image.shape[-2:]), "constant": False}

    def segment_embedding(
        self, embedding: dict[str, Any], parameters: dict[str, Any]
    ) -> np.ndarray:
        return bright(embedding["features"])


class EncodingBench(Bench):
    def __init__(self, root: Path, count: int = 3) -> None:
        super().__init__(root, count)
        self.engine = EncodingEngine()

    def store(self, max_bytes: int = 1 << 20) -> EmbeddingStore:
        return EmbeddingStore(self.dataset_dir / "embeddings", max_bytes)

    def calls(self) -> tuple[int, int]:
        """Return how often the last run called for an embedding and for a mask."""
        return self.history.count("encode_image"), self.call_count


async def test_a_second_segmentation_skips_the_encoder(tmp_path: Path) -> None:
    bench = EncodingBench(tmp_path)
    first = await bench.run(embeddings=bench.store())
    assert (bench.statuses(first), bench.calls()) == (["done"] * 3, (3, 3))
    methods = [attempt.method for attempt in bench.log("cell0").attempts]
    assert methods == ["encode_image", "segment_all"]
    assert all(attempt.bytes.down > 0 for attempt in bench.log("cell0").attempts)
    await bench.run(embeddings=bench.store(), parameters={"sigma": 2})
    assert bench.calls() == (0, 3)
    for number, image in enumerate(bench.images):
        np.testing.assert_array_equal(read_mask(bench.mask(image)), bright(image_of(number)))
    assert check_results(bench.dataset_dir) == []


async def test_masks_are_the_same_with_embeddings_and_without(tmp_path: Path) -> None:
    bench = EncodingBench(tmp_path)
    direct = await bench.run()
    assert bench.calls() == (0, 3)
    assert await bench.run(embeddings=bench.store()) == direct
    assert bench.calls() == (0, 0)


async def test_other_pixels_or_another_model_are_encoded_again(tmp_path: Path) -> None:
    bench = EncodingBench(tmp_path)
    await bench.run(embeddings=bench.store())
    tifffile.imwrite(bench.path("cell1"), image_of(5))
    await bench.run(embeddings=bench.store())
    assert bench.calls() == (1, 1)
    bench.engine.version = 2
    await bench.run(embeddings=bench.store(), replace=True)
    assert bench.calls() == (3, 3)


class ScalingEngine(EncodingEngine):
    """Its embedding depends on ``sigma``, which a test accepts, and remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded_with: list[dict[str, Any]] = []

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"embedding_parameters": ["sigma"]}

    def encode(
        self, image: np.ndarray, axes: str, parameters: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        self.encoded_with.append(parameters or {})
        return super().encode(image, axes)


async def test_an_embedding_is_kept_for_the_parameters_that_it_depends_on(tmp_path: Path) -> None:
    bench = EncodingBench(tmp_path, count=1)
    bench.engine = engine = ScalingEngine()
    runs: list[dict[str, Any]] = [{}, {"sigma": 2}, {"sigma": 3}, {"sigma": 2}]
    for parameters in runs:
        await bench.run(embeddings=bench.store(), parameters=parameters)
    assert engine.encoded_with == [{}, {"sigma": 2}, {"sigma": 3}]


async def test_each_plane_of_a_stack_has_an_embedding_and_a_volume_has_none(
    tmp_path: Path,
) -> None:
    bench = EncodingBench(tmp_path, count=1)
    written = np.stack([image_of(number) for number in range(4)])
    tifffile.imwrite(bench.path("cell0"), written, imagej=True, metadata={"axes": "TYX"})
    bench.cells = {"selection": MOVIE}
    await bench.run(embeddings=bench.store())
    assert (bench.calls(), bench.calls_left) == ((4, 4), 0)
    assert check_results(bench.dataset_dir) == []
    tifffile.imwrite(bench.path("cell0"), written, imagej=True, metadata={"axes": "ZYX"})
    bench.cells = {"selection": Selection(z=parse_pick("volume", volume=True))}
    bench.engine.labels = np.ones((4, 10, 12), np.uint32)
    await bench.run(embeddings=bench.store())
    assert bench.calls() == (0, 1)


async def test_with_a_full_store_only_the_encoder_runs_again(tmp_path: Path) -> None:
    bench = EncodingBench(tmp_path)
    store = bench.store(max_bytes=1)
    assert bench.statuses(await bench.run(embeddings=store)) == ["done"] * 3
    assert store.not_kept_count == 3
    await bench.run(embeddings=bench.store(1), parameters={"sigma": 2})
    assert bench.calls() == (3, 3)


async def test_embeddings_of_a_service_without_them_are_refused_before_any_image(
    bench: Bench, tmp_path: Path
) -> None:
    with pytest.raises(RequestRefused, match=r"config\.embeddings .*'keep', but the service"):
        await bench.run(embeddings=EmbeddingStore(tmp_path / "embeddings", 1 << 20))
    assert bench.call_count == 0


# Running again.


async def test_a_second_run_makes_no_call_and_changes_no_mask(bench: Bench) -> None:
    first = await bench.run()
    before = bench.mtimes()
    second = await bench.run()
    assert bench.call_count == 0
    assert bench.mtimes() == before
    assert second == first


async def test_a_second_run_renews_the_time_of_each_log_and_no_word_of_it(bench: Bench) -> None:
    torn = bench.path(bench.images[0])
    torn.write_bytes(b"torn")
    logs = [bench.dataset_dir / "logs" / f"{image}.json" for image in bench.images]
    await bench.run()
    for log in logs:
        os.utime(log, (0, 0))
    before = [log.read_bytes() for log in logs[1:]]
    await bench.run()
    assert [log.read_bytes() for log in logs[1:]] == before
    assert all(log.stat().st_mtime > 0 for log in logs)


async def test_a_mask_without_its_log_is_reused_and_said_so(bench: Bench) -> None:
    first = await bench.run()
    before = bench.mtimes()
    shutil.rmtree(bench.dataset_dir / "logs")
    assert await bench.run() == first
    assert bench.call_count == 0
    assert bench.mtimes() == before
    assert all(bench.log(image).reused for image in bench.images)
    assert all(bench.log(image).object_count == 2 for image in bench.images)


def damage_chunk(mask: Path) -> None:
    chunk = mask / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        shutil.rmtree,
        damage_chunk,
        lambda mask: (mask / "0" / "0" / "0").unlink(),
        lambda mask: (mask / ".zattrs").write_text("{}"),
    ],
    ids=["deleted", "a bit flipped", "a chunk missing", "provenance lost"],
)
async def test_a_damaged_mask_is_made_again_and_no_other(
    bench: Bench, damage: Callable[[Path], None]
) -> None:
    await bench.run()
    before = bench.mtimes()
    damage(bench.mask("cell1"))
    await bench.run()
    assert bench.call_count == 1
    np.testing.assert_array_equal(read_mask(bench.mask("cell1")), bright(image_of(1)))
    after = bench.mtimes()
    assert [image for image in bench.images if after[image] != before[image]] == ["cell1"]


async def test_changed_pixels_are_segmented_again_alone(bench: Bench) -> None:
    await bench.run()
    tifffile.imwrite(bench.path("cell2"), image_of(5))
    await bench.run()
    assert bench.call_count == 1
    np.testing.assert_array_equal(read_mask(bench.mask("cell2")), bright(image_of(5)))


async def test_changed_parameters_or_labels_of_the_service_make_all_again(bench: Bench) -> None:
    await bench.run()
    await bench.run(parameters={"sigma": 2})
    assert bench.call_count == 3
    assert bench.log("cell0").parameters == {"sigma": 2}
    bench.engine.version = 2
    await bench.run(parameters={"sigma": 2}, replace=True)
    assert bench.call_count == 3


@pytest.mark.parametrize("is_large", [False, True], ids=["in memory", "by the part"])
async def test_another_pixel_size_or_format_is_written_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr(samcourier.masks.omezarr, "_BLOCK_BYTES", 16)
    await bench.run()
    bench.pixel_size_um = 0.5
    manifest = await bench.run()
    assert bench.statuses(manifest) == ["done"] * 3
    provenance = read_provenance(bench.mask("cell0"))
    assert provenance is not None
    assert provenance["form"] == {"ome_zarr": "0.4", "pixel_size_um": 0.5}
    assert bench.call_count == 0, "the labels were at hand"
    before = bench.mtimes()
    await bench.run(ome_zarr="0.5")
    assert (bench.mask("cell0") / "zarr.json").is_file()
    assert not (bench.mask("cell0") / ".zattrs").exists()
    assert bench.mtimes() != before
    for number, image in enumerate(bench.images):
        np.testing.assert_array_equal(read_mask(bench.mask(image)), bright(image_of(number)))
    after = bench.mtimes()
    await bench.run(ome_zarr="0.5")
    assert (bench.call_count, bench.mtimes()) == (0, after)


@pytest.mark.parametrize("container", ["zip", "folder"])
async def test_a_mask_moves_between_folder_and_zip_without_a_call(
    bench: Bench, container: MaskContainer
) -> None:
    other: MaskContainer = "folder" if container == "zip" else "zip"
    await bench.run(mask_container=other)
    manifest = await bench.run(mask_container=container)
    assert (bench.call_count, bench.statuses(manifest)) == (0, ["done"] * 3)
    for number, image in enumerate(bench.images):
        mask = mask_path(bench.dataset_dir, image, container)
        np.testing.assert_array_equal(read_mask(mask), bright(image_of(number)))
        entry = manifest.images[image]
        assert stat_mask(mask) == (entry.mask_files, entry.mask_bytes)
        assert bench.log(image).mask == str(mask)
        assert not mask_path(bench.dataset_dir, image, other).exists()
    assert await bench.run(mask_container=container) == manifest
    assert bench.call_count == 0


@pytest.mark.parametrize("container", ["zip", "folder"])
async def test_a_mask_of_the_other_format_after_a_killed_move_is_deleted(
    bench: Bench, container: MaskContainer
) -> None:
    other: MaskContainer = "folder" if container == "zip" else "zip"
    manifest = await bench.run(mask_container=container)
    twin = mask_path(bench.dataset_dir, "cell0", other)
    (twin / "0").mkdir(parents=True)
    (twin / ".zattrs").write_text("{}")
    assert await bench.run(mask_container=container) == manifest
    assert not twin.exists()
    assert bench.call_count == 0


async def test_temporary_files_of_a_killed_writer_are_deleted_by_the_next_run(
    bench: Bench,
) -> None:
    await bench.run()
    mine = bench.mask("cell0").with_name(".cell0.ome.zarr.0123abcd.part")
    other = mine.with_name(".other.ome.zarr.0123abcd.part")
    for left in (mine, other):
        left.mkdir()
    await bench.run()
    assert (mine.exists(), other.exists()) == (False, True)


OUTPUTS = ("tiff", "objects_csv", "polygons", "preview")


async def test_outputs_are_made_and_logged_beside_the_masks(bench: Bench) -> None:
    manifest = await bench.run(outputs=OUTPUTS)
    for image in bench.images:
        log, entry = bench.log(image), manifest.images[image]
        assert tuple(log.outputs) == OUTPUTS
        assert entry.outputs == log.outputs
        assert log.seconds.outputs is not None
        for name in OUTPUTS:
            assert output_path(bench.dataset_dir, image, name).is_file()
    assert await bench.run(outputs=OUTPUTS) == manifest


async def test_an_output_is_added_or_brought_back_without_a_call(bench: Bench) -> None:
    first = await bench.run(outputs=["objects_csv"])
    before = bench.mtimes()
    table = output_path(bench.dataset_dir, "cell1", "objects_csv")
    content = table.read_bytes()
    table.unlink()
    second = await bench.run(outputs=["objects_csv", "preview"])
    assert (bench.call_count, bench.mtimes()) == (0, before)
    assert table.read_bytes() == content
    assert output_path(bench.dataset_dir, "cell2", "preview").is_file()
    for image, entry in second.images.items():
        assert entry.outputs["objects_csv"] == first.images[image].outputs["objects_csv"]
        assert len(bench.log(image).attempts) == 1


async def test_outputs_whose_log_is_lost_are_made_again(bench: Bench) -> None:
    first = await bench.run(outputs=["objects_csv"])
    log_path(bench.dataset_dir, "cell0").unlink()
    second = await bench.run(outputs=["objects_csv"])
    assert (bench.call_count, second) == (0, first)


async def test_outputs_of_a_stack_are_made_as_its_planes_pass(bench: Bench) -> None:
    bench.images = bench.images[:1]
    written = np.stack([image_of(number) for number in range(7)])
    tifffile.imwrite(bench.path("cell0"), written, imagej=True, metadata={"axes": "TYX"})
    bench.cells = {"selection": MOVIE}
    await bench.run(outputs=["objects_csv"])
    text = output_path(bench.dataset_dir, "cell0", "objects_csv").read_text()
    assert len(text.splitlines()) == 1 + bench.log("cell0").object_count


async def test_another_mask_gives_other_outputs(bench: Bench) -> None:
    first = await bench.run(outputs=["objects_csv"])
    bench.engine.version = 2
    second = await bench.run(outputs=["objects_csv"], replace=True)
    for image in bench.images:
        was, now = (each.images[image].outputs["objects_csv"] for each in (first, second))
        assert was.made_from != now.made_from


async def test_a_damaged_zip_is_computed_anew(bench: Bench) -> None:
    await bench.run(mask_container="zip")
    mask = mask_path(bench.dataset_dir, "cell1", "zip")
    mask.write_bytes(mask.read_bytes()[:-1])
    await bench.run(mask_container="zip")
    assert bench.call_count == 1
    np.testing.assert_array_equal(read_mask(mask), bright(image_of(1)))


async def test_only_the_images_asked_for_are_touched(bench: Bench) -> None:
    manifest = await bench.run(only=["cell1"])
    assert bench.statuses(manifest) == ["not_asked", "done", "not_asked"]
    assert list(manifest.images) == bench.images
    assert bench.call_count == 1
    assert [bench.mask(image).exists() for image in bench.images] == [False, True, False]


async def test_an_output_that_was_not_requested_is_not_done(bench: Bench) -> None:
    await bench.run()
    subset = await bench.run(only=["cell1"], parameters={"sigma": 1})
    assert bench.statuses(subset) == ["not_asked", "done", "not_asked"]
    await bench.run(parameters={"sigma": 1})
    assert bench.call_count == 2


# One image's own fault.


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no image"),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
    ],
    ids=["missing", "empty", "no image", "cut"],
)
async def test_an_unreadable_image_is_recorded_while_others_go_on(
    bench: Bench, spoil: Callable[[Path], None]
) -> None:
    spoil(bench.path("cell0"))
    manifest = await bench.run()
    kind = "image" if bench.path("cell0").exists() else "missing"
    assert bench.statuses(manifest) == [kind, "done", "done"]
    assert bench.call_count == 2
    log = bench.log("cell0")
    assert (log.status, log.key, log.attempts) == ("failed", None, ())
    assert str(bench.path("cell0")) in (manifest.images["cell0"].failure or "")


async def test_a_refused_image_is_asked_about_again_only_on_request(bench: Bench) -> None:
    bench.engine.fails[1001] = ImageTooLarge("exceeds the limit")
    first = await bench.run()
    assert bench.statuses(first) == ["done", "image", "done"]
    assert (first.images["cell1"].failure or "").startswith("ImageTooLarge: exceeds")
    assert len(bench.log("cell1").attempts) == 1
    again = await bench.run()
    assert bench.call_count == 0
    assert again == first
    assert bench.statuses(await bench.run(retry_failed=True)) == ["done", "image", "done"]
    assert bench.call_count == 1
    tifffile.imwrite(bench.path("cell1"), image_of(2))
    assert bench.statuses(await bench.run()) == ["done"] * 3
    assert bench.call_count == 1


async def test_a_failed_image_leaves_the_older_mask_to_tell_it_is_old(bench: Bench) -> None:
    await bench.run()
    bench.engine.fails[1001] = NotFinite("as if")
    manifest = await bench.run(parameters={"sigma": 3})
    assert bench.statuses(manifest) == ["done", "image", "done"]
    provenance = read_provenance(bench.mask("cell1"))
    assert provenance is not None
    assert provenance["key"] != manifest.images["cell1"].key


# The service's and the way's fault.


async def test_a_failure_of_the_service_is_tried_again_on_the_next_run(bench: Bench) -> None:
    bench.engine.fails[1001] = RuntimeError("CUDA out of memory")
    manifest = await bench.run()
    assert bench.statuses(manifest) == ["done", "service", "done"]
    log = bench.log("cell1")
    assert [attempt.outcome for attempt in log.attempts] == ["failed", "failed"]
    assert log.failure is not None
    assert (log.failure.name, log.failure.message) == (
        "SegmentationFailed",
        "RuntimeError: CUDA out of memory",
    )
    bench.engine.fails.clear()
    assert bench.statuses(await bench.run()) == ["done"] * 3
    assert bench.call_count == 1


async def test_an_image_that_failed_by_its_transport_is_tried_again_on_the_next_run(
    bench: Bench,
) -> None:
    with pytest.raises(ServiceGone):
        await bench.run(calls=[failing(TransportFailed("the channel closed"))])
    failed = [
        log.image
        for image in bench.images
        if (log := read_image_log(log_path(bench.dataset_dir, image))) and log.failure
    ]
    assert len(failed) == 1
    (attempt,) = bench.log(failed[0]).attempts
    assert attempt.error is not None
    assert (attempt.error.kind, attempt.error.message) == ("transport", "the channel closed")
    assert bench.statuses(await bench.run()) == ["done"] * 3


FIT = np.zeros((10, 12), np.uint32)


def cut(packed: dict[str, Any]) -> dict[str, Any]:
    return {"mask": packed | {"data": packed["data"][:-3]}, "note": None}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (FIT.T, "shape (12, 10), expected (10, 12)"),
        (FIT[np.newaxis], "shape (1, 10, 12)"),
        (FIT.astype(np.float32), "float32, expected integer labels"),
        (np.full((10, 12), np.nan), "float64 with NaN"),
        (FIT.astype(bool), "bool, expected integer labels"),
        (FIT.astype(np.int32) - 1, "holds -1"),
        (FIT.astype(np.uint64) + 2**40, "within uint32"),
        (None, "NoneType"),
        ("a mask", "str"),
        ([[0, 1]], "list"),
        ({"masks": FIT}, "dict"),
        (cut(pack_array(FIT, MASK_CODEC)), "cannot be unpacked"),
        (cut(pack_array(FIT, "raw")), "cannot be unpacked"),
        ({"mask": {"wire": 1}}, "cannot be unpacked"),
        ({"mask": pack_array(FIT.T, MASK_CODEC)}, "shape (12, 10)"),
        ({"received_unix_s": "soon", "sent_unix_s": 0}, "times"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_mask_that_does_not_fit_is_the_services_failure(
    bench: Bench, answer: Any, message: str
) -> None:
    bench.images = bench.images[:1]
    manifest = await bench.run(LyingService(lambda _: answer))
    assert bench.statuses(manifest) == ["service"]
    assert message in (manifest.images["cell0"].failure or "")
    log = bench.log("cell0")
    assert [attempt.outcome for attempt in log.attempts] == ["failed", "failed"]
    assert not bench.mask("cell0").exists()


async def test_a_mask_of_another_service_under_the_same_id_is_none_of_this_batch(
    bench: Bench,
) -> None:
    bench.images = bench.images[:1]
    mask = pack_array(FIT, MASK_CODEC)
    other = {"engine": "scripted", "model": "other", "segmentation_version": 1}
    with pytest.raises(ServiceGone):
        await bench.run(LyingService(lambda _: {"mask": mask, "made_by": other}))
    attempts = bench.log("cell0").attempts
    assert attempts[0].error is not None
    assert "it is another service: {'engine': 'scripted', 'model': 'other'" in (
        attempts[0].error.message
    )
    assert not bench.mask("cell0").exists()


async def test_an_empty_mask_is_a_result(bench: Bench) -> None:
    manifest = await bench.run(LyingService(lambda image: np.zeros_like(image)))
    assert bench.statuses(manifest) == ["done"] * 3
    assert {entry.object_count for entry in manifest.images.values()} == {0}


# What ends the batch.


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (Denied("the token has expired"), Denied),
        (RequestRefused("sigma=-1"), RequestRefused),
        (ServiceGone("undeployed"), ServiceGone),
    ],
)
async def test_an_error_of_every_image_stops_the_batch(
    tmp_path: Path, error: CourierError, raised: type[CourierError]
) -> None:
    bench = Bench(tmp_path, count=8)
    with pytest.raises(raised) as caught:
        await bench.run(calls=[failing(error)] * 20)
    assert str(error) in str(caught.value)
    assert 1 <= bench.call_count <= MOST_IMAGES
    logs = list((bench.dataset_dir / "logs").glob("*.json"))
    assert 1 <= len(logs) <= MOST_IMAGES
    assert not any(bench.mask(image).exists() for image in bench.images)


async def test_a_wrong_parameter_is_the_requests_fault(bench: Bench) -> None:
    with pytest.raises(RequestRefused, match="simga"):
        await bench.run(parameters={"simga": 3})
    assert bench.call_count <= MOST_IMAGES


async def test_a_full_disk_stops_the_batch_in_words(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(samcourier.segmentation.finish, "write_mask", full)
        with pytest.raises(StorageFailed, match=r"\.ome\.zarr: .*No space left on device"):
            await bench.run()
    assert bench.call_count <= MOST_IMAGES
    assert bench.statuses(await bench.run()) == ["done"] * 3


async def test_a_log_that_cannot_be_written_stops_the_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(samcourier.results.image_log, "write_image_log", read_only)
    with pytest.raises(StorageFailed, match=r"logs/cell\d\.json: .*Read-only"):
        await bench.run()


async def test_a_service_that_fails_for_image_after_image_stops_the_batch(tmp_path: Path) -> None:
    # What is under way as the last of them fails may fail as well, and is then logged.
    bench = Bench(tmp_path, count=2 * SERVICE_FAILURES + 2)
    bench.engine.fails = {1000 + n: RuntimeError("no GPU") for n in range(len(bench.images))}
    with pytest.raises(ServiceUnfit, match=r"6 images and made no mask, last: .*no GPU") as caught:
        await bench.run()
    assert caught.value.name == "SegmentationFailed"
    logs = list((bench.dataset_dir / "logs").glob("*.json"))
    assert len(bench.images) / 2 <= len(logs) < len(bench.images)


async def test_a_service_that_hangs_with_image_after_image_stops_the_batch(tmp_path: Path) -> None:
    bench = Bench(tmp_path, count=SERVICE_FAILURES)
    bench.engine.fails = {1000 + n: StageHung("infer") for n in range(len(bench.images))}
    with pytest.raises(ServiceUnfit, match="made no mask, last: infer") as caught:
        await bench.run()
    assert caught.value.name == "StageHung"
    # The next run does not send them again, so they show nothing about its service.
    bench.engine.fails = {}
    logged = len(list((bench.dataset_dir / "logs").glob("*.json")))
    assert bench.statuses(await bench.run()).count("image") == logged >= SERVICE_FAILURES - 1


async def test_an_image_whose_stage_hung_is_sent_once(bench: Bench) -> None:
    bench.engine.fails = {1001: StageHung("the stage infer did not end within 480 s")}
    assert bench.statuses(await bench.run()) == ["done", "image", "done"]
    assert len(bench.log("cell1").attempts) == 1


@pytest.mark.parametrize("place", ["first", "amid", "last"])
async def test_odd_images_side_by_side_do_not_stop_the_batch(tmp_path: Path, place: str) -> None:
    bench = Bench(tmp_path, count=2 * SERVICE_FAILURES + 2)
    begin = {"first": 0, "amid": 3, "last": SERVICE_FAILURES + 2}[place]
    odd = range(begin, begin + SERVICE_FAILURES)
    bench.engine.fails = {1000 + n: RuntimeError("odd") for n in odd}
    manifest = await bench.run()
    assert bench.statuses(manifest) == [
        "service" if n in odd else "done" for n in range(len(bench.images))
    ]


async def test_unreadable_images_do_not_stop_a_batch_with_masks(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, count=2 * SERVICE_FAILURES + 2)
    await bench.run()
    odd = range(SERVICE_FAILURES)
    for number in odd:
        delete(bench.mask(bench.images[number]))
    bench.engine.fails = {1000 + n: RuntimeError("odd") for n in odd}
    manifest = await bench.run()
    assert bench.statuses(manifest) == [
        "service" if n in odd else "done" for n in range(len(bench.images))
    ]


async def test_an_unexpected_error_fails_its_image_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, *_: Any) -> Any:
        if path == bench.path("cell1"):
            raise MemoryError("no 33 GB")
        return opened(path, *_)

    opened = samcourier.segmentation.image.opened_planes
    monkeypatch.setattr(samcourier.segmentation.image, "opened_planes", read)
    assert bench.statuses(await bench.run()) == ["done", "unexpected", "done"]
    failure = bench.log("cell1").failure
    assert failure is not None
    assert (failure.name, failure.message) == ("MemoryError", "no 33 GB")


@pytest.mark.parametrize("kind", [NotFinite("as if"), None])
async def test_unfit_images_never_stop_the_batch(tmp_path: Path, kind: ServiceError | None) -> None:
    bench = Bench(tmp_path, count=8)
    for number, image in enumerate(bench.images):
        if kind is None:
            bench.path(image).unlink()
        else:
            bench.engine.fails[1000 + number] = kind
    assert bench.statuses(await bench.run()) == ["image" if kind else "missing"] * 8


@pytest.mark.parametrize(
    ("ending", "is_made_again"),
    [
        (None, True),
        (KeyboardInterrupt(), True),
        (ServiceGone("no transport reaches the service"), True),
        (TransportFailed("websocket: refused"), True),
        (Overloaded("HTTP 429"), True),
        (ServiceFailed("the worker could not be asked"), True),
        (Denied("the token has expired"), False),
        (RequestRefused("sigma=-1"), False),
        (InputError("service.target existing needs service.service_id"), False),
        (StorageFailed("no space left"), False),
        (ServiceUnfit("it failed for 5 images and made no mask"), False),
    ],
)
def test_a_second_submission_is_for_a_job_that_was_lost(
    tmp_path: Path, ending: BaseException | None, is_made_again: bool
) -> None:
    if ending is None:
        # Killed: the lock's file is there and says nothing.
        with batch_lock(tmp_path, "0001"):
            pass
    else:
        with pytest.raises(type(ending)), batch_lock(tmp_path, "0001"):
            raise ending
    made = []
    try:
        with batch_lock(tmp_path, "0001", submission=2):
            made.append("0001")
    except CourierError as error:
        assert str(error) == str(ending)
    assert bool(made) == is_made_again
    with batch_lock(tmp_path, "0001", submission=1):
        pass
