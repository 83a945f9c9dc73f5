from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from msgspec.structs import replace

from samcourier.errors import ImageUnfit, TransportFailed
from samcourier.failure import Failure
from samcourier.results.connection_log import ConnectionJournal, connection_events
from samcourier.results.image_log import (
    NOTE_REUSED,
    Attempt,
    CallBytes,
    CallSeconds,
    ImageLog,
    ImageSeconds,
    OutputRecord,
    read_image_log,
    write_image_log,
)
from samcourier.results.image_log_schema import image_log_schema_text
from samcourier.results.manifest import Manifest, ManifestEntry, read_manifest, write_manifest

HERE = Path(__file__).parent
SCHEMA_PATH = HERE.parents[2] / "workflow/schemas/image-log.schema.json"

FAILED_ATTEMPT = Attempt(
    transport="webrtc",
    reason="predicted 0.8 s, the least",
    started_at="2026-03-01T10:00:00.000+00:00",
    outcome="failed",
    error=Failure.of(TransportFailed("channel closed")),
    seconds=CallSeconds(total=0.4, send=0.4),
    bytes=CallBytes(up=1000, down=0),
)
OK_ATTEMPT = replace(
    FAILED_ATTEMPT,
    transport="websocket",
    outcome="ok",
    error=None,
    seconds=CallSeconds(total=1.0, send=0.3, service=0.5, receive=0.1),
    bytes=CallBytes(up=1000, down=120),
)
DONE = ImageLog(
    image="cells-01",
    path="data/cells-01.tif",
    status="done",
    finished_at="2026-03-01T10:00:02.500+00:00",
    seconds=ImageSeconds(total=2.5, read=0.2, pack=0.1, unpack=0.1, write=0.3),
    key="k" * 64,
    pixels_sha256="0" * 64,
    object_count=0,
    shape=(2, 64, 64),
    dtype="uint16",
    axes="CYX",
    mask="masks/cells-01.ome.zarr",
    outputs={
        "tiff": OutputRecord("0" * 16, 1, 900, "0" * 64),
        "polygons": OutputRecord("0" * 16, refused="no object has an outline"),
    },
    attempts=(FAILED_ATTEMPT, OK_ATTEMPT),
    service={"engine": "watershed", "segmentation_version": 1, "versions": {"scipy": "1.15"}},
    parameters={"sigma": 1.5},
    versions={"samcourier": "0.1.0"},
)
FAILED = ImageLog(
    image="torn",
    path="data/torn.tif",
    status="failed",
    finished_at="2026-03-01T10:00:02Z",
    seconds=ImageSeconds(total=0.01),
    failure=Failure.of(ImageUnfit("data/torn.tif: not a TIFF")),
)
REUSED = replace(DONE, attempts=(), note=f"{NOTE_REUSED}: same key")

LOGS = pytest.mark.parametrize("log", [DONE, FAILED, REUSED], ids=["done", "failed", "reused"])


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(SCHEMA_PATH.read_text())
    return loaded


def is_valid(log: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(schema()).is_valid(log)


def written(path: Path, log: ImageLog) -> dict[str, Any]:
    write_image_log(path, log)
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def changed(document: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """Return a deep copy with the dotted key ``where`` set, or removed for ``...``."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    *parents, last = where.split(".")
    inner: Any = copy
    for parent in parents:
        inner = inner[int(parent)] if parent.isdigit() else inner[parent]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copy


@LOGS
def test_a_log_is_read_back_as_it_was_written(tmp_path: Path, log: ImageLog) -> None:
    write_image_log(tmp_path / "logs/a.json", log)
    assert read_image_log(tmp_path / "logs/a.json") == log


@LOGS
def test_a_written_log_follows_the_schema(tmp_path: Path, log: ImageLog) -> None:
    jsonschema.validate(written(tmp_path / "a.json", log), schema())


def test_the_schema_itself_is_a_schema_and_describes_every_property() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    records = [schema(), *schema()["$defs"].values()]
    for name, described in (item for each in records for item in each["properties"].items()):
        assert described.get("description"), name


def test_the_schema_in_the_repository_is_that_of_the_types() -> None:
    assert SCHEMA_PATH.read_text() == image_log_schema_text(), "run: make schemas"


def test_the_schema_is_printed_by_its_command() -> None:
    command = [sys.executable, "-m", "samcourier.results.image_log_schema"]
    assert subprocess.check_output(command, text=True) == SCHEMA_PATH.read_text()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("schema", "samcourier/image-log/1"),
        ("status", "running"),
        ("image", ""),
        ("finished_at", "yesterday"),
        ("finished_at", "2026-03-01T10:00:02+02:00"),
        ("seconds.total", -1),
        ("seconds.total", None),
        ("seconds.minutes", 1),
        ("pixels_sha256", "abc"),
        ("object_count", -1),
        ("object_count", 1.5),
        ("shape", [64, -64]),
        ("mask", None),
        ("key", None),
        ("failure", {"kind": "image", "name": "ImageUnfit", "message": "but it is done"}),
        ("status", "failed"),
        ("attempts.1.transport", ""),
        ("attempts.1.bytes.up", -1),
        ("attempts.1.outcome", "failed"),
        ("attempts.0.error", None),
        ("attempts.0.error.kind", ...),
        ("attempts.0.reason", ...),
        ("versions.numpy", 2),
        ("extra", 1),
        ("attempts.0.extra", 1),
        ("parameters", ...),
    ],
)
def test_the_schema_rejects_a_broken_log(tmp_path: Path, where: str, value: Any) -> None:
    log = written(tmp_path / "a.json", DONE)
    assert is_valid(log)
    assert not is_valid(changed(log, where, value))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("schema", "samcourier/image-log/1"),
        ("schema", ...),
        ("image", None),
        ("image", 7),
        ("seconds.total", "2"),
        ("seconds.total", True),
        ("seconds", []),
        ("object_count", 1.0),
        ("shape", 64),
        ("status", "running"),
        ("finished_at", "yesterday"),
        ("finished_at", "0001-01-01T00:00:00+23:59"),
        ("attempts.0.started_at", ""),
        ("attempts", None),
        ("attempts.0.bytes.up", ...),
        ("versions.numpy", 2),
        ("extra", 1),
        ("attempts.0.bytes.extra", 1),
        ("outputs.tiff.extra", 1),
        ("tiles", 1 << 63),
        ("tiles", -(1 << 63) - 1),
        ("shape", [1 << 64]),
    ],
)
def test_a_log_with_a_wrong_value_is_no_log(tmp_path: Path, where: str, value: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(changed(written(path, DONE), where, value)))
    assert read_image_log(path) is None


def keys(value: Any, where: str = "") -> Iterator[str]:
    """Yield the dotted path of every key in a JSON value."""
    pairs: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        pairs = enumerate(value)
    for name, each in pairs:
        if isinstance(value, dict):
            yield f"{where}{name}"
        yield from keys(each, f"{where}{name}.")


def is_field(where: str) -> bool:
    """Tell a field of the format from a name that an engine, a package or a run's config chose."""
    parts = where.split(".")
    is_name = len(parts) == 2 and parts[0] in ("outputs", "versions")
    return not is_name and not where.startswith(("service.", "parameters."))


@pytest.mark.parametrize(
    "where", ["schema", *filter(is_field, keys(json.loads(msgspec.json.encode(DONE))))]
)
def test_a_log_less_any_one_key_is_no_log(tmp_path: Path, where: str) -> None:
    path = tmp_path / "a.json"
    log = written(path, DONE)
    path.write_text(json.dumps(changed(log, where, ...)))
    assert read_image_log(path) is None
    assert not is_valid(changed(log, where, ...))


def test_every_record_of_a_log_is_among_the_keys_that_are_removed() -> None:
    found = {where for where in keys(json.loads(msgspec.json.encode(DONE))) if is_field(where)}
    assert found >= {"tiles", "outputs.tiff.path", "attempts.0.error.kind", "attempts.1.bytes.up"}
    assert found >= {f"attempts.1.seconds.{name}" for name in CallSeconds.__struct_fields__}


def test_words_that_are_not_utf_8_are_read_back(tmp_path: Path) -> None:
    log = replace(DONE, path="data/\udcff.tif", note="\ud800", versions={"\udcff": "1"})
    write_image_log(tmp_path / "a.json", log)
    assert read_image_log(tmp_path / "a.json") == log


def test_a_whole_number_of_seconds_is_seconds(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(changed(written(path, DONE), "seconds.total", 2)))
    assert read_image_log(path) == replace(DONE, seconds=replace(DONE.seconds, total=2.0))


def test_the_text_on_disk_keeps_its_form(tmp_path: Path) -> None:
    """Results folders are compared byte by byte."""
    write_image_log(tmp_path / "a.json", DONE)
    assert (tmp_path / "a.json").read_bytes() == (HERE / "image-log-8.json").read_bytes()


def test_a_log_of_version_7_is_read_without_the_stages_of_the_service(tmp_path: Path) -> None:
    text = (HERE / "image-log-7.json").read_text()
    (tmp_path / "a.json").write_text(text)
    assert read_image_log(tmp_path / "a.json") == DONE
    for damaged in (
        text.replace('"receive": 0.1', '"receive": 0.1, "infer": 0.2'),
        text.replace('"send": 0.3,', ""),
        text.replace('"attempts"', '"tries"'),
    ):
        assert damaged != text
        (tmp_path / "a.json").write_text(damaged)
        assert read_image_log(tmp_path / "a.json") is None


DAMAGES: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "trailing": lambda text: text + "{}",
    "list": lambda text: "[]",
    "null": lambda text: "null",
    "NaN": lambda text: text.replace("2.5", "NaN"),
    "infinity": lambda text: text.replace("2.5", "1e999"),
    "huge": lambda text: text.replace("2.5", "1" + "0" * 400),
    "nested": lambda text: "[" * 100_000,
    "not UTF-8": lambda text: text.encode().replace(b"cells-01", b"\xff"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_log_is_no_log(tmp_path: Path, damage: Callable[[str], str | bytes]) -> None:
    path = tmp_path / "a.json"
    write_image_log(path, DONE)
    content = damage(path.read_text())
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read_image_log(path) is None


def test_an_absent_log_is_no_log(tmp_path: Path) -> None:
    assert read_image_log(tmp_path / "none.json") is None
    assert read_manifest(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("parameters", "error"),
    [({"sigma": math.nan}, ValueError), ({"sigma": math.inf}, ValueError), ({"s": {1}}, TypeError)],
)
def test_what_is_not_json_is_refused_and_the_old_log_stays(
    tmp_path: Path, parameters: dict[str, Any], error: type[Exception]
) -> None:
    path = tmp_path / "a.json"
    write_image_log(path, DONE)
    with pytest.raises(error):
        write_image_log(path, replace(DONE, parameters=parameters))
    assert read_image_log(path) == DONE


def test_a_write_that_is_cut_off_leaves_the_old_log_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_image_log(path, DONE)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_image_log(path, REUSED)
    assert read_image_log(path) == DONE
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ImageUnfit("no axes"), Failure("image", "ImageUnfit", "no axes")),
        (TransportFailed("gone"), Failure("transport", "TransportFailed", "gone")),
        (KeyError("x"), Failure("unexpected", "KeyError", "'x'")),
        (MemoryError(), Failure("unexpected", "MemoryError", "MemoryError")),
    ],
)
def test_a_failure_keeps_the_errors_class_name_and_text(
    error: Exception, expected: Failure
) -> None:
    assert Failure.of(error) == expected


FIELDS_OF_AN_ENTRY = ManifestEntry.__struct_fields__
MANIFEST = Manifest(
    batch="0001",
    images={
        "a": ManifestEntry("done", "k", mask_files=7, mask_bytes=900, object_count=3),
        "b": ManifestEntry("failed", failure_kind="image", failure="not a TIFF"),
        "c": ManifestEntry("not_asked"),
    },
)


def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write_manifest(tmp_path / "0001.json", MANIFEST)
    assert read_manifest(tmp_path / "0001.json") == MANIFEST


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("images.a.status", "maybe"),
        ("images.a", None),
        ("batch", 1),
        *((f"images.{image}.{name}", ...) for image in "abc" for name in FIELDS_OF_AN_ENTRY),
        ("made_for", ...),
        ("extra", 1),
    ],
)
def test_a_damaged_manifest_is_no_manifest(tmp_path: Path, where: str, value: Any) -> None:
    path = tmp_path / "0001.json"
    write_manifest(path, MANIFEST)
    path.write_text(json.dumps(changed(json.loads(path.read_text()), where, value)))
    assert read_manifest(path) is None


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_are_on_disk_before_the_journal_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "connection/0001.jsonl"
    journal = ConnectionJournal(path)
    journal.record("switched", to="http", reason="3.1 s against 9.0 s")
    (event,) = lines(path)
    journal.close()
    assert event.pop("at").endswith("+00:00")
    assert event == {"event": "switched", "to": "http", "reason": "3.1 s against 9.0 s"}


@contextmanager
def room(file_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``file_bytes``, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_a_full_disk_cut_short_takes_no_later_one_with_it(tmp_path: Path) -> None:
    path = tmp_path / "0001.jsonl"
    with ConnectionJournal(path) as journal:
        journal.record("opened")
        with room(path.stat().st_size + 20):
            journal.record("cut")
            journal.record("lost")
        journal.record("closed")
    assert path.read_bytes().count(b"\n") == 3
    assert [event["event"] for event in connection_events(tmp_path)] == ["opened", "closed"]


def test_a_journal_refuses_what_is_not_json_and_stays_usable(tmp_path: Path) -> None:
    path = tmp_path / "0001.jsonl"
    with ConnectionJournal(path) as journal:
        with pytest.raises(ValueError, match="JSON"):
            journal.record("probed", rate=math.inf)
        journal.record("closed")
    assert [line["event"] for line in lines(path)] == ["closed"]
