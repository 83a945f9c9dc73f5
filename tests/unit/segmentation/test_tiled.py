"""Large images through a batch: tiles there and back, kept on the way, and one mask of them."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from samcourier.connection import ConnectionManager, OnlyReplica
from samcourier.connection.time_limits import Policy
from samcourier.evaluation.check import check_results
from samcourier.images.selection import Selection, parse_pick
from samcourier.masks.integrity import read_provenance
from samcourier.masks.omezarr import read_mask
from samcourier.results.connection_log import ConnectionJournal
from samcourier.results.image_log import ImageLog, read_image_log
from samcourier.results.layout import log_path, mask_path
from samcourier.samples.sheet import Batch, ImageRow
from samcourier.segmentation.batch import BatchRun
from samcourier.segmentation.settings import BatchSettings
from samcourier.settings.run_settings import RunSettings, TileSettings
from samcourier.testing.fake import FakeTransport
from samservice.contract.channels import to_gray
from samservice.contract.errors import NotFinite, ServiceError
from samservice.server.app import Limits, SegmentationService

SCHEMA = json.loads(
    (Path(__file__).parents[3] / "workflow/schemas/image-log.schema.json").read_text()
)
TILES = TileSettings(edge_px=100, halo_px=24, above_px=20_000)
WHOLE = TileSettings()
PATIENCE = Policy(overload_wait_s=0.0, first_backoff_s=0.0, outage_limit_s=0.0)
TILE_COUNT = 9


class Components:
    """Labels what is brighter than the middle of the image's range. ``fail_at`` counts calls.

    ``id_step`` lies between two ids.
    """

    def __init__(self) -> None:
        self.call_count = 0
        self.fail_at: dict[int, Exception] = {}
        self.takes_statistics = True
        self.id_step = 1

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            "engine": "components",
            "model": "middle",
            "model_sha256": None,
            "segmentation_version": 1,
            "versions": {},
            "device": "cpu",
            "parameters": {},
        }
        if self.takes_statistics:
            described["image_statistics"] = ["intensity_range"]
        return described

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        pass

    def segment(
        self, image: np.ndarray, axes: str, parameters: dict[str, Any], statistics: Any = None
    ) -> np.ndarray:
        self.call_count += 1
        if error := self.fail_at.get(self.call_count):
            raise error
        gray = to_gray(image, axes, statistics.intensity_range if statistics else None)
        return np.asarray(ndimage.label(gray > 0.5)[0], np.uint32) * np.uint32(self.id_step)

    def encode(self, image: np.ndarray, axes: str) -> dict[str, Any]:
        raise NotImplementedError

    segment_embedding = encode  # type: ignore[assignment]


class Dawdling(SegmentationService):
    """Answers in any order."""

    async def segment_all(self, *arguments: Any, **named: Any) -> Any:
        answer = await super().segment_all(*arguments, **named)
        await asyncio.sleep(random.random() * 0.02)
        return answer


class Slow(SegmentationService):
    """Takes a while for each tile, so that there is time to be killed."""

    async def segment_all(self, *arguments: Any, **named: Any) -> Any:
        answer = await super().segment_all(*arguments, **named)
        await asyncio.sleep(0.5)
        return answer


def slide(seed: int = 0, shape: tuple[int, int] = (250, 230)) -> np.ndarray:
    """Return squares that do not touch on a little noise, uint16; the middle is blank."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 110, shape).astype(np.uint16)
    for y in range(3, shape[0] - 12, 17):
        for x in range(3, shape[1] - 12, 17):
            side = rng.integers(3, 13)
            image[y : y + side, x : x + side] = rng.integers(800, 1000)
    image[70:180, 70:180] = rng.integers(90, 110, (110, 110))
    return image


class Lab:
    """One image, runs over it, and what they leave.

    ``called`` is how many masks the last run asked for, ``calls_left`` how many more it expected.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dataset_dir = root / "results"
        self.path = root / "slide.tif"
        self.engine = Components()
        self.selection = Selection()
        self.limits = Limits()
        self.write(slide())

    def write(self, pixels: np.ndarray, axes: str = "YX") -> None:
        form = {"photometric": "minisblack", "tile": (64, 64)}
        tifffile.imwrite(self.path, pixels, metadata={"axes": axes}, **form)

    async def run(
        self,
        tiles: TileSettings = TILES,
        service: Callable[..., SegmentationService] = SegmentationService,
    ) -> ImageLog:
        """Run the batch of this one image."""
        self.engine.call_count = 0
        made = service(self.engine, self.limits)
        transport = FakeTransport(made)
        row = ImageRow("slide", self.path, self.selection)
        with ConnectionJournal(self.root / "journal.jsonl") as journal:
            manager = ConnectionManager(OnlyReplica([transport]), journal, PATIENCE)
            try:
                description = await manager.start(1)
                settings = BatchSettings(
                    self.dataset_dir, RunSettings(dataset="cells", tiles=tiles)
                )
                await BatchRun(settings, manager, description).run(Batch("0001", (row,)))
            finally:
                self.calls_left = manager.calls_left
                await manager.close()
                made.close()
        self.called = transport.history.count("segment_all")
        path = log_path(self.dataset_dir, "slide")
        jsonschema.validate(json.loads(path.read_text()), SCHEMA)
        log = read_image_log(path)
        assert log is not None
        return log

    @property
    def mask(self) -> np.ndarray:
        return read_mask(mask_path(self.dataset_dir, "slide"))

    @property
    def kept(self) -> list[Path]:
        """The tiles that wait for the next run."""
        return sorted((self.dataset_dir / "masks").glob(".*.tiles/*/*"))

    @property
    def digest(self) -> str:
        return str((read_provenance(mask_path(self.dataset_dir, "slide")) or {})["content_sha256"])


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def assert_same_objects(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found > 0, expected > 0)
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == expected.max() + 1 == found.max() + 1


async def test_tiles_give_the_mask_of_the_whole_image(lab: Lab) -> None:
    whole_log = await lab.run(WHOLE)
    whole = lab.mask
    assert (whole_log.tiles, lab.called) == (1, 1)
    log = await lab.run()
    assert_same_objects(lab.mask, whole)
    assert (log.tiles, log.tiles_kept, log.planes, lab.called) == (TILE_COUNT, 0, 1, TILE_COUNT)
    assert lab.calls_left == 0
    assert sorted(each.tile for each in log.attempts) == list(range(TILE_COUNT))
    assert {each.plane for each in log.attempts} == {None}
    assert (log.note, log.object_count) == (None, whole.max())
    assert log.pixels_sha256 == whole_log.pixels_sha256
    assert log.key != whole_log.key
    provenance = read_provenance(mask_path(lab.dataset_dir, "slide"))
    assert provenance is not None and provenance["tiles"] == {"edge_px": 100, "halo_px": 24}
    assert lab.kept == []
    assert check_results(lab.dataset_dir) == []
    assert (await lab.run()).finished_at == log.finished_at
    assert lab.called == 0


async def test_ids_of_any_size_take_no_more_memory_and_give_the_same_mask(lab: Lab) -> None:
    await lab.run()
    digest = lab.digest
    mask_path(lab.dataset_dir, "slide").rename(lab.root / "gone")
    lab.engine.id_step = 40_000_000
    log = await lab.run()
    assert (log.status, lab.digest) == ("done", digest)


async def test_the_order_of_arrival_does_not_matter(lab: Lab) -> None:
    await lab.run()
    digests = {lab.digest}
    for _ in range(3):
        mask_path(lab.dataset_dir, "slide").rename(lab.root / "gone")
        await lab.run(service=Dawdling)
        digests.add(lab.digest)
        (lab.root / "gone").rename(lab.root / f"gone{len(list(lab.root.iterdir()))}")
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("changed", "is_same"),
    [
        (TileSettings(100, 24, 30_000), True),
        (TileSettings(100, 25, 20_000), False),
        (TileSettings(101, 24, 20_000), False),
    ],
)
async def test_how_an_image_is_cut_is_part_of_its_key(
    lab: Lab, changed: TileSettings, is_same: bool
) -> None:
    key = (await lab.run()).key
    assert ((await lab.run(changed)).key == key) == is_same


async def test_an_image_that_was_cut_off_is_continued_with_the_tiles_that_are_missing(
    lab: Lab,
) -> None:
    await lab.run()
    clean = lab.digest
    mask_path(lab.dataset_dir, "slide").rename(lab.root / "clean")
    lab.engine.fail_at = {6: NotFinite("holds NaN")}
    failed = await lab.run()
    assert failed.status == "failed"
    kept = len(lab.kept)
    assert 0 < kept < TILE_COUNT
    assert check_results(lab.dataset_dir) == []
    lab.engine.fail_at = {}
    log_path(lab.dataset_dir, "slide").unlink()
    log = await lab.run()
    assert (lab.called, lab.calls_left) == (TILE_COUNT - kept, 0)
    assert (log.tiles_kept, lab.digest) == (kept, clean)
    assert (lab.kept, check_results(lab.dataset_dir)) == ([], [])


async def test_after_kill_9_only_the_missing_tiles_are_called_for(lab: Lab) -> None:
    await lab.run()
    clean = lab.digest
    mask_path(lab.dataset_dir, "slide").rename(lab.root / "clean")
    log_path(lab.dataset_dir, "slide").unlink()
    child = subprocess.Popen([sys.executable, __file__, str(lab.root)])
    while len([tile for tile in lab.kept if not tile.suffix]) < 3:
        assert child.poll() is None, "the child finished before it was killed"
        await asyncio.sleep(0.01)
    child.kill()
    child.wait()
    kept = len([tile for tile in lab.kept if not tile.suffix])
    log = await lab.run()
    assert 3 <= kept == log.tiles_kept < TILE_COUNT
    assert (lab.called, lab.digest) == (TILE_COUNT - kept, clean)
    assert (lab.kept, check_results(lab.dataset_dir)) == ([], [])


def cut_short(tile: Path) -> None:
    tile.write_bytes(tile.read_bytes()[:-1])


def flip_a_bit(tile: Path) -> None:
    content = bytearray(tile.read_bytes())
    content[-1] ^= 1
    tile.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [Path.unlink, cut_short, flip_a_bit, lambda tile: tile.write_bytes(b"")]
)
async def test_a_damaged_tile_is_called_for_again(lab: Lab, damage: Callable[[Path], Any]) -> None:
    lab.engine.fail_at = {9: NotFinite("holds NaN")}
    await lab.run()
    assert (kept := len(lab.kept)) > 1
    damage(lab.kept[0])
    log_path(lab.dataset_dir, "slide").unlink()
    await lab.run()
    assert lab.called == TILE_COUNT - kept + 1
    assert lab.mask.max() > 50


async def test_tiles_of_other_pixels_are_not_taken(lab: Lab) -> None:
    lab.engine.fail_at = {9: NotFinite("holds NaN")}
    await lab.run()
    assert lab.kept
    lab.write(slide(1))
    lab.engine.fail_at = {}
    log = await lab.run()
    assert (lab.called, log.tiles_kept, lab.kept) == (TILE_COUNT, 0, [])


async def test_tiles_beside_a_complete_mask_are_deleted(lab: Lab) -> None:
    await lab.run()
    leftover = lab.dataset_dir / "masks" / ".slide.ome.zarr.tiles" / "key"
    leftover.mkdir(parents=True)
    (finding,) = check_results(lab.dataset_dir)
    assert finding.where == "masks/.slide.ome.zarr.tiles"
    await lab.run()
    assert check_results(lab.dataset_dir) == []


async def test_a_cell_larger_than_the_halo_is_reported(lab: Lab) -> None:
    image = slide()
    image[60:63, 10:220] = 900
    lab.write(image)
    log = await lab.run()
    assert log.note is not None and "1 objects reach across the whole halo" in log.note
    mask = lab.mask
    await lab.run(WHOLE)
    assert_same_objects(mask, lab.mask)


async def test_a_stack_of_large_planes_is_cut_plane_by_plane(lab: Lab) -> None:
    stack = np.stack([slide(seed) for seed in range(3)])
    lab.write(stack, "ZYX")
    lab.selection = Selection(z=parse_pick("all", volume=True))
    await lab.run(WHOLE)
    whole = lab.mask
    log = await lab.run()
    assert (log.planes, log.tiles, lab.called) == (3, TILE_COUNT, 3 * TILE_COUNT)
    assert {(each.plane, each.tile) for each in log.attempts} == {
        (plane, tile) for plane in range(3) for tile in range(TILE_COUNT)
    }
    for found, expected in zip(lab.mask, whole, strict=True):
        assert_same_objects(found, expected)
    assert check_results(lab.dataset_dir) == []


async def test_a_volume_above_the_service_s_limit_is_refused_in_words(lab: Lab) -> None:
    lab.write(np.stack([slide(seed) for seed in range(3)]), "ZYX")
    lab.selection = Selection(z=parse_pick("volume", volume=True))
    lab.limits = Limits(max_pixels=100_000)
    log = await lab.run()
    assert log.failure is not None and log.failure.kind == "image"
    assert "as one volume has 172500 values, and the service takes at most" in log.failure.message


async def test_without_image_statistics_an_image_is_never_tiled(lab: Lab) -> None:
    lab.engine.takes_statistics = False
    assert ((await lab.run()).tiles, lab.called) == (1, 1)
    lab.limits = Limits(max_pixels=30_000)
    lab.write(slide(2))
    log = await lab.run()
    assert log.failure is not None and "takes no image_statistics" in log.failure.message
    assert lab.called == 0


async def test_a_failing_service_keeps_the_finished_tiles(lab: Lab) -> None:
    class Broken(ServiceError):
        pass

    lab.engine.fail_at = dict.fromkeys(range(6, 40), Broken("out of memory"))
    log = await lab.run()
    assert (log.status, log.failure and log.failure.kind) == ("failed", "service")
    assert lab.kept


if __name__ == "__main__":
    asyncio.run(Lab(Path(sys.argv[1])).run(service=Slow))
