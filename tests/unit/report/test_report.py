from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from msgspec.structs import replace

from samcourier.failure import Failure
from samcourier.formatting import plain
from samcourier.images.label_image import read_label_image
from samcourier.masks.omezarr import write_mask
from samcourier.report import Report, build_report, render_page, write_report
from samcourier.report.figures import summary_figures
from samcourier.report.table import COLUMNS
from samcourier.report.transport_summary import (
    TransportUse,
    describe_services,
    summarise_transports,
    wall_time_s,
)
from samcourier.results.connection_log import ConnectionJournal
from samcourier.results.image_log import (
    Attempt,
    CallBytes,
    CallSeconds,
    ImageLog,
    ImageSeconds,
    OutputRecord,
    read_image_log,
    write_image_log,
)
from samcourier.samples.sheet import make_batches, read_sheet

from ..conftest import squares

HOSTILE = '<script>alert("1")</script> & \u202e\ud800\x1b[31m\x00 =1+1\n\tend'


class Page(HTMLParser):
    """The parsed page: its tags, attributes, cells (``rows``) and its whole ``text``.

    ``data`` is the data block for the scripts of the page; ``code`` has the scripts and styles.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.code: list[tuple[str, str]] = []
        self.data: dict[str, Any] = {}
        self._is_in_cell = False
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        self._is_in_cell = tag in ("th", "td")

    def handle_endtag(self, tag: str) -> None:
        self._is_in_cell = self._is_in_cell and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:
            self.text += f" {data}"
        elif ("type", "application/json") in self.attributes[-2:]:
            self.data = json.loads(data)
            self.attributes.append(("", None))
        else:
            self.code.append((self.cdata_elem, data))
        if self._is_in_cell:
            self.rows[-1][-1] += data

    def image(self, image: str) -> dict[str, Any]:
        """Return the values of an image by column, as in the page's data block."""
        columns = {each["name"]: each for each in self.data["columns"]}
        texts = self.data["texts"]
        at = [texts[number] for number in columns["image"]["values"]].index(image)
        return {
            name: texts[each["values"][at]] if each["decimals"] is None else each["values"][at]
            for name, each in columns.items()
        }


def build(root: Path, only: set[str] | None = None) -> Report:
    rows = read_sheet(root / "images.tsv")
    return build_report(rows, make_batches(rows, 2), root / "results" / "demo", only)


def write(root: Path, only: set[str] | None = None) -> list[str]:
    out = root / "results" / "demo"
    report = build(root, only)
    return write_report(report, out / "report.html", out / "report.tsv", out / "complete.json")


def outcomes(root: Path) -> dict[str, tuple[str, str | None]]:
    return {each.image: (each.status, each.remark) for each in build(root).outcomes}


def change_log(root: Path, image: str, **changes: Any) -> None:
    path = root / "results" / "demo" / "logs" / f"{image}.json"
    log = read_image_log(path)
    assert log is not None
    write_image_log(path, replace(log, **changes))


def tsv(root: Path) -> dict[str, dict[str, str]]:
    with (root / "results" / "demo" / "report.tsv").open(encoding="utf-8", newline="") as stream:
        return {row["image"]: row for row in csv.DictReader(stream, delimiter="\t")}


def test_each_image_has_its_outcome_and_remark(finished_run: Path) -> None:
    assert outcomes(finished_run) == {
        "near": ("done", None),
        "far": ("done", None),
        "kept": ("done", "mask reused"),
        "torn": ("failed", "image failure: data/torn.tif: not a TIFF"),
        "empty": ("done", None),
    }


def test_the_accuracy_is_computed_from_truth_and_mask(finished_run: Path) -> None:
    found = {each.image: each.accuracy for each in build(finished_run).outcomes}
    precisions = {name: each and each.at_50.average_precision for name, each in found.items()}
    assert precisions == {
        "near": 1.0,
        "far": pytest.approx(2 / 3),
        "kept": None,
        "torn": None,
        "empty": None,
    }


def _as_png(path: Path) -> None:
    path.write_bytes(imagecodecs.png_encode(squares(2).astype(np.uint16)))


def _as_ome_zarr(path: Path) -> None:
    write_mask(path, squares(2), "YX", provenance={})


def _as_ome_tiff(path: Path) -> None:
    tifffile.imwrite(path, squares(2)[None, None], ome=True, metadata={"axes": "TCYX"})


@pytest.mark.parametrize(
    ("name", "write_truth"),
    [("near.png", _as_png), ("near.ome.zarr", _as_ome_zarr), ("near.ome.tif", _as_ome_tiff)],
)
def test_a_ground_truth_can_have_any_image_format(
    finished_run: Path, name: str, write_truth: Callable[[Path], None]
) -> None:
    truth = finished_run / "truth" / name
    write_truth(truth)
    sheet = finished_run / "images.tsv"
    sheet.write_text(sheet.read_text().replace(str(truth.with_name("near.tif")), str(truth)))
    near = build(finished_run).outcomes[0]
    assert (near.remark, near.accuracy and near.accuracy.at_50.average_precision) == (None, 1.0)


def test_a_ground_truth_with_another_order_of_axes_is_transposed(tmp_path: Path) -> None:
    stack = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(2, 3, 4, 5)
    path = tmp_path / "truth.tif"
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "ZTYX"})
    np.testing.assert_array_equal(read_label_image(path, "TZYX"), stack.transpose(1, 0, 2, 3))


def test_a_ground_truth_of_the_wrong_shape_gives_a_remark_and_the_report_is_written(
    finished_run: Path,
) -> None:
    path = finished_run / "truth" / "near.tif"
    tifffile.imwrite(path, squares(2)[:, :30])
    write(finished_run)
    remark = f"no accuracy: {path}: truth: shape (32, 30), expected the mask's shape (32, 32)"
    assert tsv(finished_run)["near"]["remark"] == remark
    assert tsv(finished_run)["far"]["ap50"] == "0.666667"


@pytest.mark.parametrize(
    ("damage", "status", "remark"),
    [
        ("masks/near.ome.zarr", "missing", "its log says done, but the mask is absent or damaged"),
        (
            "masks/near.ome.zarr/0/0/0",
            "missing",
            "its log says done, but the mask is absent or damaged",
        ),
        ("logs/near.json", "done", "its log is missing or damaged"),
    ],
)
def test_a_deleted_mask_or_log_changes_the_outcome(
    finished_run: Path, damage: str, status: str, remark: str
) -> None:
    path = finished_run / "results" / "demo" / damage
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert outcomes(finished_run)["near"] == (status, remark)


def test_a_mask_with_one_changed_byte_is_missing(finished_run: Path) -> None:
    chunk = finished_run / "results" / "demo" / "masks" / "near.ome.zarr" / "0" / "0" / "0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert outcomes(finished_run)["near"][0] == "missing"


def test_a_mask_with_another_key_than_its_log_is_missing(finished_run: Path) -> None:
    change_log(finished_run, "near", key="newer")
    assert outcomes(finished_run)["near"] == (
        "missing",
        "the mask does not have the key in its log",
    )


@pytest.mark.parametrize(
    ("manifest", "remark"),
    [
        (None, "batch 0003 did not finish"),
        ({"status": "not_asked"}, "batch 0003 ran without it: it is not in the subset"),
        ({"status": "failed", "failure": "no transport left"}, "no transport left"),
        ({"status": "done"}, "its log and mask are missing"),
    ],
)
def test_an_image_without_log_and_mask_has_a_reason(
    finished_run: Path, manifest: dict[str, Any] | None, remark: str
) -> None:
    dataset_dir = finished_run / "results" / "demo"
    (dataset_dir / "logs" / "empty.json").unlink()
    shutil.rmtree(dataset_dir / "masks" / "empty.ome.zarr")
    path = dataset_dir / "batches" / "0003.json"
    if manifest is None:
        path.unlink()
    else:
        content = json.loads(path.read_text())
        content["images"]["empty"] |= {"failure": None} | manifest
        path.write_text(json.dumps(content))
    assert outcomes(finished_run)["empty"] == ("missing", remark)


@pytest.mark.parametrize("truth", [b"", b"II*\x00\xff\xff\xff\xff", None])
def test_an_unreadable_ground_truth_leaves_only_the_accuracy_out(
    finished_run: Path, truth: bytes | None
) -> None:
    path = finished_run / "truth" / "near.tif"
    path.unlink()
    if truth is not None:
        path.write_bytes(truth)
    status, remark = outcomes(finished_run)["near"]
    assert status == "done"
    assert remark is not None
    assert remark.startswith(f"no accuracy: {path}: ")


def test_images_without_a_mask_are_returned_and_complete_json_is_deleted(
    finished_run: Path,
) -> None:
    complete = finished_run / "results" / "demo" / "complete.json"
    complete.write_text("{}")
    assert write(finished_run) == ["torn"]
    assert not complete.exists()


def test_complete_json_is_written_if_every_image_of_the_subset_has_a_mask(
    finished_run: Path,
) -> None:
    assert write(finished_run, only={"near", "empty"}) == []
    complete = json.loads((finished_run / "results" / "demo" / "complete.json").read_text())
    assert complete == {
        "image_count": 2,
        "keys": {image: hashlib.sha256(image.encode()).hexdigest() for image in ("near", "empty")},
        "report_digest": None,
    }
    assert list(tsv(finished_run)) == ["near", "empty"]
    assert "3 more are not in the subset" in render_page(build(finished_run, {"near", "empty"}))


def test_building_a_report_writes_nothing(finished_run: Path) -> None:
    before = sorted(finished_run.rglob("*"))
    build(finished_run)
    assert sorted(finished_run.rglob("*")) == before


def test_a_refused_output_gives_a_remark(finished_run: Path) -> None:
    path = finished_run / "results" / "demo" / "logs" / "far.json"
    log = read_image_log(path)
    assert log is not None
    refused = OutputRecord("0" * 16, refused="far.tif is no OME-Zarr folder")
    write_image_log(path, replace(log, outputs={"input_labels": refused}))
    assert outcomes(finished_run)["far"] == (
        "done",
        "no input_labels: far.tif is no OME-Zarr folder",
    )


@pytest.mark.parametrize(
    ("versions", "verified", "older", "current"),
    [
        ({"near": 1, "far": 3}, None, {"near"}, 3),
        ({"near": 1, "far": 3}, 4, {"near", "far"}, 4),
        ({"near": 3, "far": 3}, 3, set(), None),
        ({"near": 3, "far": 3}, 2, set(), None),
        ({"near": 3, "far": None}, None, set(), None),
    ],
)
def test_masks_of_an_older_version_of_the_engine_are_named(
    finished_run: Path,
    versions: dict[str, int | None],
    verified: int | None,
    older: set[str],
    current: int | None,
) -> None:
    service = {"engine": "watershed", "model": "m", "model_sha256": None}
    for image, version in versions.items():
        change_log(finished_run, image, service=service | {"segmentation_version": version})
    if verified is not None:
        description = service | {"segmentation_version": verified}
        verdict = json.dumps({"description": description})
        (finished_run / "results/demo/service.json").write_text(verdict)
    report = build(finished_run, set(versions))
    assert {each.image for each in report.outcomes if each.is_older_version} == older
    for outcome in report.outcomes:
        remark = f"made by version {versions[outcome.image]} of the engine, now {current}:"
        assert (remark in (outcome.remark or "")) == (outcome.image in older)
    figures = {each.label: each.value for each in summary_figures(report)}
    shown = {"Masks of an older engine version": str(len(older))} if older else {}
    assert {name: figures[name] for name in figures if "older" in name} == shown


def test_the_table_has_all_values_of_an_image(finished_run: Path) -> None:
    write(finished_run)
    far = tsv(finished_run)["far"]
    assert far == {
        "image": "far",
        "batch": "0001",
        "status": "done",
        "object_count": "3",
        "ap50": "0.666667",
        "ap75": "0.666667",
        "mean_matched_iou": "1.0",
        "missed": "0",
        "split": "0",
        "merged": "0",
        "transport": "webrtc failed, websocket",
        "why": "predicted 0.9 s, the least",
        "attempts": "2",
        "predicted_s": "0.9",
        "read_s": "0.1",
        "pack_s": "0.05",
        "send_s": "0.2",
        "queue_s": "0.25",
        "service_s": "0.5",
        "receive_s": "0.05",
        "unpack_s": "0.01",
        "write_s": "0.2",
        "total_s": "2.0",
        "up_bytes": "4000000",
        "down_bytes": "500000",
        "remark": "",
    }
    torn = tsv(finished_run)["torn"]
    assert {name: value for name, value in torn.items() if value} == {
        "image": "torn",
        "batch": "0002",
        "status": "failed",
        "attempts": "0",
        "total_s": "0.1",
        "remark": "image failure: data/torn.tif: not a TIFF",
    }
    assert tsv(finished_run)["empty"]["object_count"] == "0"


def test_the_page_has_the_same_columns_as_the_table(finished_run: Path) -> None:
    page = Page(render_page(build(finished_run)))
    assert [each["name"] for each in page.data["columns"]] == [each.name for each in COLUMNS]
    assert list(page.image("far").values()) == [
        *("far", "0001", "done", 3, 0.667, 0.667, 1.0, 0, 0, 0),
        *("webrtc failed, websocket", "predicted 0.9 s, the least", 2, 0.9),
        *(0.1, 0.05, 0.2, 0.25, 0.5, 0.05, 0.01, 0.2, 2.0),
        *(4.0, 0.5, ""),
    ]
    assert page.image("torn")["object_count"] is None


def test_the_page_shows_the_figures_of_the_run(finished_run: Path) -> None:
    text = Page(render_page(build(finished_run))).text
    for words in [
        "Segmentation of demo",
        "Images done 4 of 5",
        "Failed 1 Missing 0",
        "Objects 10",
        "Mean AP50 0.833 of 2 with truth; 0.800 over all objects",
        "Mean IoU of matched objects 1.000 mean of 2 images",
        "Missed 0 of 4 in truth",
        "Wall time 6.0 s until 2026-03-01 10:00 UTC",
        "Segmented by watershed, model none, segmentation version 1",
        "Images without a mask: 1 1 × image: ImageUnfit",
        "torn – image failure: data/torn.tif: not a TIFF",
    ]:
        assert words in text


def test_the_page_shows_why_the_connection_changed(finished_run: Path) -> None:
    page = Page(render_page(build(finished_run)))
    changes = [row[1:] for row in page.rows if row and row[0].startswith("20")]
    assert changes == [
        ["0001", "left", "channel closed", "transport webrtc, kind transport"],
        ["0001", "switch", "the only one left", "from_transport webrtc, to websocket"],
    ]


def test_the_page_shows_the_first_connection_events_and_the_number_of_all(
    finished_run: Path,
) -> None:
    journal_path = finished_run / "results" / "demo" / "logs" / "connection" / "0002.jsonl"
    with ConnectionJournal(journal_path) as journal:
        for _ in range(300):
            journal.record("switch", reason="measured faster")
    text = Page(render_page(build(finished_run))).text
    assert text.count("measured faster") == 198
    assert "The first 200 of 302 events; logs/connection.jsonl has all." in text


def test_the_connection_journals_are_merged_into_one_file(finished_run: Path) -> None:
    write(finished_run)
    merged = finished_run / "results" / "demo" / "logs" / "connection.jsonl"
    events = [json.loads(line)["event"] for line in merged.read_text().splitlines()]
    assert events == ["open", "left", "switch"]


def test_the_page_needs_no_network_and_runs_only_its_own_scripts(
    finished_run: Path,
) -> None:
    html = render_page(build(finished_run))
    page = Page(html)
    assert not {"link", "img", "iframe", "object", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "style") or name[:2] == "on"]
    links = [value or "" for name, value in page.attributes if name == "href"]
    assert not [link for link in links if ":" in link or link.startswith("/")]
    (policy,) = (value or "" for _, value in page.attributes if value and "default-src" in value)
    assert "unsafe" not in policy
    assert "http" not in policy
    for _, code in page.code:
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
        assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|innerHTML|eval\(", code)


def make_hostile(root: Path) -> None:
    failure = Failure(HOSTILE, HOSTILE, HOSTILE)
    change_log(root, "torn", failure=failure)
    change_log(root, "near", note=HOSTILE, service={"engine": HOSTILE, "model_sha256": HOSTILE})
    log = read_image_log(root / "results" / "demo" / "logs" / "far.json")
    assert log is not None
    attempts = [replace(each, reason=HOSTILE) for each in log.attempts]
    change_log(root, "far", attempts=tuple(attempts))
    connections = root / "results" / "demo" / "logs" / "connection"
    with ConnectionJournal(connections / f"{HOSTILE[8:15]}.jsonl") as journal:
        journal.record(HOSTILE, reason=HOSTILE, **{HOSTILE: [HOSTILE, {"a": HOSTILE}]})


def test_hostile_text_is_shown_and_not_executed(finished_run: Path) -> None:
    make_hostile(finished_run)
    write(finished_run)
    html = (finished_run / "results" / "demo" / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    harmless = Page(render_page(build(finished_run, {"empty"})))
    assert page.tags.count("script") == harmless.tags.count("script")
    assert [code for _, code in page.code] == [code for _, code in harmless.code]
    assert not [name for name, _ in page.attributes if name in ("src", "style") or name[:2] == "on"]
    shown = page.text + "\n".join(page.data["texts"])
    assert shown.count('<script>alert("1")</script> & ') >= 6
    assert not set("\u202e\ud800\x1b\x00") & set(html)


def test_hostile_text_stays_within_its_cell_of_the_table(finished_run: Path) -> None:
    make_hostile(finished_run)
    change_log(finished_run, "empty", note='=HYPERLINK("x")')
    change_log(finished_run, "kept", note="mask reused\r\n\tby\x0bme")
    write(finished_run)
    table = tsv(finished_run)
    assert list(table) == ["near", "far", "kept", "torn", "empty"]
    assert all(None not in row and None not in row.values() for row in table.values())
    assert table["empty"]["remark"] == '\'=HYPERLINK("x")'
    assert table["kept"]["remark"] == "mask reused by me"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("as it is, µm – 細胞", "as it is, µm – 細胞"),
        (" two\n\nlines\t", "two lines"),
        ("\x1b[2J\x00", "\ufffd[2J\ufffd"),
        ("a\u202eb\ud800c", "a\ufffdb\ufffdc"),
        ("x" * 400 + "y" * 101, "x" * 297 + " … " + "x" * 99 + "y" * 101),
        ("x" * 500, "x" * 500),
        ("", ""),
    ],
)
def test_plain_text_is_one_printable_line(text: str, expected: str) -> None:
    assert plain(text) == expected


def attempt(transport: Any, outcome: Any, up: int, down: int, **seconds: float) -> Attempt:
    error = None if outcome == "ok" else Failure("transport", "TransportFailed", "channel closed")
    return Attempt(
        transport=transport,
        reason="",
        started_at="2026-03-01T10:00:00Z",
        outcome=outcome,
        error=error,
        seconds=CallSeconds(**{"total": 10.0, **seconds}),
        bytes=CallBytes(up, down),
    )


def log(finished_at: str = "2026-03-01T10:00:00Z", total: float = 1.0, **fields: Any) -> ImageLog:
    return ImageLog(
        image="a",
        path="a.tif",
        status="done",
        finished_at=finished_at,
        seconds=ImageSeconds(total),
        **fields,
    )


MEGA = 1_000_000


@pytest.mark.parametrize(
    ("attempts", "median_mb_s"),
    [
        ([attempt("http", "ok", 3 * MEGA, MEGA, send=1.5, receive=0.5)], 2.0),
        ([attempt("http", "ok", 3 * MEGA, MEGA, service=8.0)], 2.0),
        ([attempt("http", "ok", 3 * MEGA, MEGA)], None),
        ([attempt("http", "ok", 3 * MEGA, MEGA, service=10.0)], None),
        ([attempt("http", "failed", 3 * MEGA, 0, send=1.0, receive=0.0)], None),
        (
            [attempt("http", "ok", size * MEGA, 0, send=1.0, receive=0.0) for size in (1, 2, 9)],
            2.0,
        ),
    ],
)
def test_the_throughput_is_computed_from_the_transfer_time(
    attempts: list[Attempt], median_mb_s: float | None
) -> None:
    (use,) = summarise_transports(log(attempts=(each,)) for each in attempts)
    assert use.median_mb_s == median_mb_s


def test_transports_are_sorted_by_the_images_whose_masks_they_returned() -> None:
    logs = [
        log(attempts=(attempt("webrtc", "failed", 5, 0), attempt("http", "ok", 5, 2))),
        log(attempts=(attempt("http", "ok", 5, 2),)),
        log(),
    ]
    http, webrtc = summarise_transports(logs)
    assert http == TransportUse("http", 2, 2, 0, up_bytes=10, down_bytes=4, median_mb_s=None)
    assert webrtc == TransportUse("webrtc", 0, 1, 1, up_bytes=5, down_bytes=0, median_mb_s=None)


@pytest.mark.parametrize(
    ("spans", "expected_s"),
    [
        ([], 0),
        ([("10:00:05", 5)], 5),
        ([("10:00:05", 5), ("10:00:15", 5)], 10),
        ([("10:00:05", 5), ("10:00:08", 5)], 8),
        ([("10:00:30", 30), ("10:00:08", 5)], 30),
        ([("10:00:08", 5), ("10:00:05", 5), ("10:00:08", 1)], 8),
        ([("10:00:05", 5), ("22:00:05", 5)], 10),
    ],
    ids=["none", "one", "apart", "overlapping", "inside", "unsorted", "resumed later"],
)
def test_the_wall_time_counts_only_periods_in_which_images_were_processed(
    spans: list[tuple[str, float]], expected_s: float
) -> None:
    logs = [log(f"2026-03-01T{clock}Z", total) for clock, total in spans]
    assert wall_time_s(logs) == expected_s


def test_each_version_of_the_service_has_its_own_line() -> None:
    old, new = ({"engine": "e", "model": "m", "segmentation_version": each} for each in (1, 2))
    assert describe_services([log(service=each) for each in (old, new, new)] + [log()]) == [
        "e, model m, segmentation version 2 (2 images)",
        "e, model m, segmentation version 1 (1 images)",
    ]


def test_masks_of_an_older_distribution_are_named_and_the_lines_tell_the_distributions(
    finished_run: Path,
) -> None:
    service = {"engine": "e", "model": "m", "model_sha256": None, "segmentation_version": 1}
    versions = {"near": "1.9", "far": "1.10"}
    for image, version in versions.items():
        distribution = {"name": "cells", "version": version}
        change_log(finished_run, image, service=service | {"distribution": distribution})
    report = build(finished_run, set(versions))
    assert {each.image: each.remark for each in report.outcomes} == {
        "near": "made by version 1 (cells 1.9) of the engine, now 1 (cells 1.10):"
        " replace: true makes it again",
        "far": None,
    }
    assert describe_services(report.logs) == [
        "e of cells 1.9, model m, segmentation version 1 (1 images)",
        "e of cells 1.10, model m, segmentation version 1 (1 images)",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59.96, "60.0 s"), (100.4, "1 min 40 s"), (3599.8, "1 h 00 min"), (90_000, "25 h 00 min")],
)
def test_the_wall_time_is_shown_in_readable_units(
    finished_run: Path, seconds: float, text: str
) -> None:
    change_log(finished_run, "near", seconds=ImageSeconds(seconds))
    for image in ("far", "kept", "torn", "empty"):
        change_log(finished_run, image, finished_at="2026-03-01T10:00:02Z")
    assert f"Wall time {text}" in Page(render_page(build(finished_run))).text
