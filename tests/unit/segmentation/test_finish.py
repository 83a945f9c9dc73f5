"""A mask and its outputs on the disk: what is replaced, what stays, and what the file is then."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import samcourier.segmentation.finish
from samcourier.errors import StorageFailed
from samcourier.masks.integrity import MaskContainer, is_complete, read_provenance
from samcourier.masks.omezarr import read_mask, write_mask
from samcourier.outputs.make import Outputs
from samcourier.outputs.parts import OutputsSource
from samcourier.results.image_log import OutputRecord
from samcourier.results.layout import mask_path, output_path
from samcourier.segmentation.events import Event, TimeSpent
from samcourier.segmentation.finish import Finished, make_outputs, write
from samcourier.segmentation.plane import Segmented
from samcourier.segmentation.prepared import Prepared
from samcourier.segmentation.settings import BatchSettings
from samcourier.tiling.cache import KeptTile, TileStore

from .batch_settings import batch_settings
from .one_image import prepared_image, write_image

LABELS = np.arange(120, dtype=np.uint32).reshape(10, 12)
SEGMENTED = Segmented(LABELS, 119, "a note")


@pytest.fixture
async def prepared(tmp_path: Path) -> AsyncIterator[Prepared]:
    async with prepared_image(write_image(tmp_path), batch_settings(tmp_path)) as prepared:
        yield prepared


def settings_for(tmp_path: Path, container: MaskContainer = "folder") -> BatchSettings:
    return batch_settings(tmp_path / "results", mask_container=container)


@pytest.mark.parametrize(("container", "other"), [("folder", "zip"), ("zip", "folder")])
async def test_a_mask_replaces_the_other_container_and_the_tiles(
    tmp_path: Path, prepared: Prepared, container: MaskContainer, other: MaskContainer
) -> None:
    settings, events = settings_for(tmp_path, container), list[Event]()
    replaced = mask_path(settings.dataset_dir, "cell", other)
    write_mask(replaced, LABELS, "YX", provenance={})
    store = TileStore(mask_path(settings.dataset_dir, "cell"), prepared.key)
    store.open()
    store.keep(0, 0, KeptTile(LABELS, None))
    finished = await write(prepared, SEGMENTED, settings, events.append)
    mask = mask_path(settings.dataset_dir, "cell", container)
    assert finished == Finished(mask, 119, "a note", prepared.file)
    np.testing.assert_array_equal(read_mask(mask), LABELS)
    provenance = read_provenance(mask) or {}
    assert provenance.items() >= prepared.provenance(119).items()
    assert [path.name for path in mask.parent.iterdir()] == [mask.name]
    assert [event.stage for event in events if isinstance(event, TimeSpent)] == ["write"]


async def test_a_mask_that_cannot_be_written_leaves_the_older_one(
    tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    settings, events = settings_for(tmp_path), list[Event]()
    zipped = mask_path(settings.dataset_dir, "cell", "zip")
    write_mask(zipped, LABELS, "YX", provenance={})
    monkeypatch.setattr(samcourier.segmentation.finish, "write_mask", full)
    with pytest.raises(StorageFailed, match=r"cell\.ome\.zarr: .*No space"):
        await write(prepared, SEGMENTED, settings, events.append)
    assert is_complete(zipped)
    assert len(events) == 1, "the time is recorded all the same"


async def complete(
    prepared: Prepared,
    settings: BatchSettings,
    *names: str,
    earlier: dict[str, OutputRecord] | None = None,
) -> Finished:
    events: list[Event] = []
    finished = await write(prepared, SEGMENTED, settings, events.append)
    source = OutputsSource(prepared.request.row, prepared.planes, prepared.key, prepared.geometry)
    outputs = Outputs(settings.dataset_dir, names, source)
    return await make_outputs(prepared, finished, outputs, earlier or {}, events.append)


async def test_outputs_of_an_earlier_run_that_hold_are_not_made_again(
    tmp_path: Path, prepared: Prepared
) -> None:
    settings = settings_for(tmp_path)
    first = await complete(prepared, settings, "preview", "tiff")
    assert list(first.outputs) == ["tiff", "preview"]
    assert (first.object_count, first.note, first.file) == (119, "a note", prepared.file)
    paths = [output_path(settings.dataset_dir, "cell", name) for name in ("preview", "tiff")]
    for path in paths:
        os.utime(path, (1, 1))
    paths[1].unlink()
    second = await complete(prepared, settings, "preview", "tiff", earlier=dict(first.outputs))
    assert paths[0].stat().st_mtime == 1
    assert paths[1].stat().st_mtime > 1
    assert second.outputs["preview"] == first.outputs["preview"]


@pytest.mark.parametrize(
    ("names", "changes_before", "has_changed"),
    [
        (("input_labels",), False, False),
        (("input_labels",), True, True),
        (("preview",), True, True),
        (("preview",), False, False),
    ],
)
async def test_labels_in_the_input_are_no_change_of_the_image(
    tmp_path: Path, names: tuple[str, ...], changes_before: bool, has_changed: bool
) -> None:
    path = tmp_path / "cell.zarr"
    write_mask(path, LABELS, "YX", provenance={})
    shutil.rmtree(path / "labels", ignore_errors=True)
    settings = settings_for(tmp_path)
    async with prepared_image(path, settings) as prepared:
        if changes_before:
            (path / "somebody's").mkdir()
        finished = await complete(prepared, settings, *names)
    assert (path / "labels").exists() == ("input_labels" in names)
    assert finished.outputs[names[0]].refused is None
    assert finished.file.has_changed == has_changed
