"""The files that a run writes when it begins: whole, named by their digests, never rewritten."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from samcourier.errors import InputError
from samcourier.settings.frozen import freeze, read_frozen
from samcourier.settings.run_settings import RunSettings, ServiceSettings, TileSettings

SHEET = b"image\tpath\na\ta.tif\n"
SETTINGS = RunSettings(
    dataset="cells",
    sheet="images.tsv",
    images=("a",),
    parameters={"sigma_px": 2, "name": "it's \u00e9", "share": 0.5},
    service=ServiceSettings(engine_options={"model": "vit_b_lm"}, authorized_users=("a@b.c",)),
    tiles=TileSettings(edge_px=512),
)


def frozen_path(dataset_dir: Path, settings: RunSettings = SETTINGS) -> Path:
    files = freeze(settings, SHEET, dataset_dir)
    files.write()
    return files.settings_path


def test_what_was_frozen_is_read_back(tmp_path: Path) -> None:
    run = read_frozen(frozen_path(tmp_path))
    assert run.settings == SETTINGS
    assert run.dataset_dir == tmp_path
    assert run.sheet.read_bytes() == SHEET


def test_freezing_writes_nothing_until_it_is_told_to(tmp_path: Path) -> None:
    freeze(SETTINGS, SHEET, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_equal_settings_have_one_file_that_is_never_rewritten(tmp_path: Path) -> None:
    path = frozen_path(tmp_path)
    written_ns = path.stat().st_mtime_ns
    assert frozen_path(tmp_path) == path
    assert path.stat().st_mtime_ns == written_ns
    other = frozen_path(tmp_path, RunSettings(dataset="cells"))
    assert sorted(path.parent.glob("*.json")) == sorted([path, other])
    assert len(list(path.parent.glob("*.tsv"))) == 1


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "expected a file that the run wrote when it began"),
        (lambda path: path.write_bytes(b""), "changed since the run began"),
        (lambda path: path.write_bytes(path.read_bytes() + b" "), "changed since the run began"),
        (
            lambda path: next(path.parent.glob("*.tsv")).write_bytes(b"image\tpath\n"),
            "changed since the run began",
        ),
        (lambda path: next(path.parent.glob("*.tsv")).unlink(), "expected a file that the run"),
    ],
    ids=["missing", "empty", "changed", "other sheet", "no sheet"],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(
    tmp_path: Path, damage: object, problem: str
) -> None:
    path = frozen_path(tmp_path)
    damage(path)  # type: ignore[operator]
    with pytest.raises(InputError, match=problem):
        read_frozen(path)


def test_a_file_that_a_network_file_system_shows_late_is_waited_for(tmp_path: Path) -> None:
    files = freeze(SETTINGS, SHEET, tmp_path)

    def show_late() -> None:
        time.sleep(0.3)
        files.write()

    writer = threading.Thread(target=show_late)
    writer.start()
    try:
        assert read_frozen(files.settings_path, wait_s=30).settings == SETTINGS
    finally:
        writer.join()
