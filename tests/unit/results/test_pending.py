from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samcourier.masks.integrity import stat_mask, zarr_files
from samcourier.results.layout import log_path, manifest_path, mask_path
from samcourier.results.pending import (
    batches_to_redo,
    has_failures,
    images_to_segment,
    read_manifest_values,
    remove_stale_manifests,
)
from samcourier.samples.sheet import Batch, ImageRow, make_batches

BATCHES = [
    Batch("0001", (ImageRow("a", Path("a.tif")), ImageRow("b", Path("b.tif")))),
    Batch("0002", (ImageRow("c", Path("c.tif")),)),
]


def done(dataset: Path, image: str) -> dict[str, Any]:
    """Make a folder that looks like a mask; return its manifest entry."""
    store = mask_path(dataset, image)
    (store / "0" / "0").mkdir(parents=True)
    for name, size in {".zattrs": 30, "0/.zarray": 20, "0/0/0": 100}.items():
        (store / name).write_bytes(b"x" * size)
    return {"status": "done", "mask_files": 3, "mask_bytes": 150, "failure_kind": None}


def failed(kind: str | None) -> dict[str, Any]:
    return {"status": "failed", "mask_files": None, "mask_bytes": None, "failure_kind": kind}


NOT_ASKED = {"status": "not_asked", "mask_files": None, "mask_bytes": None, "failure_kind": None}


def write_manifest(dataset: Path, batch_id: str, images: dict[str, Any]) -> None:
    path = manifest_path(dataset, batch_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"batch": batch_id, "images": images}))
    (dataset / "logs").mkdir(exist_ok=True)
    for image in images:
        log_path(dataset, image).touch()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_manifest(tmp_path, "0001", {image: done(tmp_path, image) for image in "ab"})
    write_manifest(tmp_path, "0002", {"c": done(tmp_path, "c")})
    return tmp_path


def replace_entry(**entry: Any) -> Callable[[Path], None]:
    def change(dataset: Path) -> None:
        images = json.loads(manifest_path(dataset, "0001").read_text())["images"]
        write_manifest(dataset, "0001", {"a": images["a"], "b": images["b"] | entry})

    return change


def manifest_text(text: str) -> Callable[[Path], None]:
    def change(dataset: Path) -> None:
        manifest_path(dataset, "0001").write_text(text)

    return change


UNCHANGED: Callable[[Path], None] = lambda dataset: None  # noqa: E731


def outputs(**records: Any) -> Callable[[Path], None]:
    """Give image a these records, and a table of 3 bytes."""

    def change(dataset: Path) -> None:
        (dataset / "objects").mkdir()
        (dataset / "objects" / "a.csv").write_text("id\n")
        images = json.loads(manifest_path(dataset, "0001").read_text())["images"]
        write_manifest(dataset, "0001", images | {"a": images["a"] | {"outputs": records}})

    return change


@pytest.mark.parametrize(
    ("change", "is_redone"),
    [
        (outputs(objects_csv={"files": 1, "bytes": 3}), False),
        (outputs(objects_csv={"files": 1, "bytes": 3}, preview={"files": 1, "bytes": 9}), False),
        (outputs(objects_csv={"files": 1, "bytes": 4}), True),
        (outputs(preview={"files": 1, "bytes": 3}), True),
        (outputs(objects_csv={"refused": "why"}), False),
        (outputs(objects_csv=3), True),
        (outputs(), True),
        (lambda dataset: None, True),
    ],
)
def test_a_batch_is_redone_when_an_output_asked_for_is_not_there(
    dataset: Path, change: Callable[[Path], None], is_redone: bool
) -> None:
    change(dataset)
    batch = [Batch("0001", tuple(ImageRow(image, Path(f"{image}.tif")) for image in "ab"))]
    assert bool(batches_to_redo(dataset, batch, ["a"], ["objects_csv"])) is is_redone
    assert batches_to_redo(dataset, batch, ["a"]) == set()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (UNCHANGED, False),
        (manifest_text("{"), False),
        (replace_entry(status="failed", failure_kind="image"), True),
        (replace_entry(**NOT_ASKED), False),
        (outputs(objects_csv={"files": 1, "bytes": 3, "refused": None}), False),
        (outputs(objects_csv={"refused": "why"}), True),
        (outputs(objects_csv=None), False),
        (replace_entry(outputs=None), False),
        (replace_entry(outputs=[3]), False),
    ],
)
def test_failures_are_found_in_any_manifest(
    dataset: Path, change: Callable[[Path], None], expected: bool
) -> None:
    change(dataset)
    assert has_failures(dataset, "0001") is expected
    assert not has_failures(dataset, "0002")


def test_labels_in_an_input_are_looked_for_where_they_were_written(tmp_path: Path) -> None:
    label = tmp_path / "input.ome.zarr" / "labels" / "run_a"
    (label / "0").mkdir(parents=True)
    (label / ".zattrs").write_text("{}")
    (label / "0" / "0").write_text("chunk")
    entry = done(tmp_path, "a")
    record = {"files": 2, "bytes": 7, "path": str(label)}
    write_manifest(tmp_path, "0001", {"a": entry | {"outputs": {"input_labels": record}}})
    batch = [Batch("0001", (ImageRow("a", Path("a.tif")),))]
    assert batches_to_redo(tmp_path, batch, None, ["input_labels"]) == set()
    shutil.rmtree(label)
    assert batches_to_redo(tmp_path, batch, None, ["input_labels"]) == {"0001"}


@pytest.mark.parametrize(
    ("change", "is_redone"),
    [
        (UNCHANGED, False),
        (lambda d: manifest_path(d, "0001").unlink(), False),
        (manifest_text(""), True),
        (manifest_text("[]"), True),
        (manifest_text("[" * 100_000), True),
        (manifest_text('{"images": []}'), True),
        (manifest_text('{"images": {"a": 1, "b": 2}}'), True),
        (lambda d: write_manifest(d, "0001", {"a": failed("image")}), True),
        (lambda d: write_manifest(d, "0001", {i: failed("image") for i in "abc"}), True),
        (lambda d: write_manifest(d, "0001", {i: failed("image") for i in "ba"}), False),
        (lambda d: shutil.rmtree(mask_path(d, "b")), True),
        (lambda d: (mask_path(d, "b") / "0/0/0").unlink(), True),
        (lambda d: (mask_path(d, "b") / "0/0/0").write_bytes(b"x" * 99), True),
        (lambda d: (mask_path(d, "b") / "0/0/1").write_bytes(b""), True),
        (lambda d: log_path(d, "b").unlink(), True),
        (lambda d: (mask_path(d, "b") / ".DS_Store").write_bytes(b"x"), False),
        (replace_entry(mask_files=None, mask_bytes=None), True),
        (replace_entry(status="failed", failure_kind="image"), False),
        (replace_entry(status="failed", failure_kind="missing"), False),
        (replace_entry(status="failed", failure_kind="unread"), True),
        (replace_entry(status="failed", failure_kind="transport"), True),
        (replace_entry(status="failed", failure_kind="overload"), True),
        (replace_entry(status="failed", failure_kind="service"), True),
        (replace_entry(status="failed", failure_kind=None), True),
        (replace_entry(**NOT_ASKED), True),
        (replace_entry(status="odd"), True),
    ],
)
def test_a_batch_is_redone_when_its_manifest_is_not_true_any_more(
    dataset: Path, change: Callable[[Path], Any], is_redone: bool
) -> None:
    change(dataset)
    assert batches_to_redo(dataset, BATCHES) == ({"0001"} if is_redone else set())


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (UNCHANGED, []),
        (lambda d: shutil.rmtree(mask_path(d, "b")), ["b"]),
        (lambda d: (mask_path(d, "b") / "0/0/0").write_bytes(b"x" * 99), ["b"]),
        (lambda d: manifest_path(d, "0001").unlink(), ["a", "b"]),
        (manifest_text("{"), ["a", "b"]),
        (replace_entry(**failed("image")), ["b"]),
        (replace_entry(**NOT_ASKED), ["b"]),
        (outputs(preview={"files": 1, "bytes": 3}), []),
    ],
)
def test_an_image_is_left_unless_a_manifest_and_the_mask_agree_that_it_is_done(
    dataset: Path, change: Callable[[Path], Any], left: list[str]
) -> None:
    change(dataset)
    assert images_to_segment(dataset, BATCHES) == left
    assert images_to_segment(dataset, BATCHES, {"a", "c"}) == [
        image for image in left if image == "a"
    ]


def test_masks_of_other_settings_are_left_to_make(dataset: Path) -> None:
    path = manifest_path(dataset, "0001")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"made_for": "now"}))
    assert images_to_segment(dataset, BATCHES, settings_digest=lambda batch: "now") == ["c"]
    assert images_to_segment(dataset, BATCHES, settings_digest=lambda batch: "new") == [
        "a",
        "b",
        "c",
    ]
    assert images_to_segment(dataset, BATCHES, {"b"}, lambda batch: "new") == ["b"]


def test_an_image_is_done_whichever_batch_it_was_made_in(dataset: Path) -> None:
    batches = make_batches([row for batch in BATCHES for row in batch.rows], 1)
    assert images_to_segment(dataset, batches) == []


def test_an_image_that_was_missing_is_tried_once_it_is_there(dataset: Path) -> None:
    replace_entry(**failed("missing"))(dataset)
    path = dataset / "b.tif"
    batches = [Batch("0001", (BATCHES[0].rows[0], ImageRow("b", path)))]
    assert batches_to_redo(dataset, batches) == set()
    path.touch()
    assert batches_to_redo(dataset, batches) == {"0001"}


def test_a_manifest_of_other_settings_is_not_true_whatever_snakemake_knows(dataset: Path) -> None:
    path = manifest_path(dataset, "0001")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"made_for": "now"}))
    assert batches_to_redo(dataset, BATCHES[:1], settings_digest=lambda batch: "now") == set()
    assert batches_to_redo(dataset, BATCHES, settings_digest=lambda batch: "now") == {"0002"}
    assert batches_to_redo(dataset, BATCHES, settings_digest=lambda batch: "new") == {
        "0001",
        "0002",
    }


@pytest.mark.parametrize(
    ("only", "is_redone"), [(None, True), (["b"], True), (["a", "b"], True), (["a"], False)]
)
@pytest.mark.parametrize("entry", [NOT_ASKED, failed("transport"), {"mask_bytes": 1}])
def test_an_image_that_is_not_asked_for_is_left_alone(
    dataset: Path, only: list[str] | None, is_redone: bool, entry: dict[str, Any]
) -> None:
    replace_entry(**entry)(dataset)
    assert batches_to_redo(dataset, BATCHES, only) == ({"0001"} if is_redone else set())


def test_a_fresh_dataset_has_nothing_to_redo(tmp_path: Path) -> None:
    assert batches_to_redo(tmp_path / "absent", BATCHES) == set()


def test_looking_changes_nothing(dataset: Path) -> None:
    (mask_path(dataset, "b") / "0/0/0").unlink()
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    batches_to_redo(dataset, BATCHES)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def test_only_files_of_the_format_count(tmp_path: Path) -> None:
    counted = ["zarr.json", "0/zarr.json", "0/c/0/0", "0/c/0/12"]
    for name in [*counted, ".DS_Store", "0/c/0/._0", "0/c/0/.nfs0123", "0/c/0/0.part"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"xx")
    found = {Path(entry.path).relative_to(tmp_path).as_posix() for entry in zarr_files(tmp_path)}
    assert found == set(counted)
    assert stat_mask(tmp_path) == (4, 8)


def test_a_sound_manifest_is_read_and_no_other(dataset: Path) -> None:
    manifest = read_manifest_values(manifest_path(dataset, "0002"))
    assert manifest is not None
    assert manifest["batch"] == "0002"
    assert read_manifest_values(dataset / "absent.json") is None


def test_manifests_of_batches_that_are_no_more_are_removed(tmp_path: Path) -> None:
    rows = [ImageRow(f"i{number}", Path("x.tif")) for number in range(4)]
    folder = tmp_path / "batches"
    folder.mkdir()
    for name in ("0001.json", "0002.json", "0003.json", ".0001.lock"):
        (folder / name).touch()
    remove_stale_manifests(tmp_path, make_batches(rows, 2))
    assert {path.name for path in folder.iterdir()} == {"0001.json", "0002.json", ".0001.lock"}
