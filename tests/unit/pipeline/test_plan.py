"""The plan of a run: its batches, and which of them and of its reports are out of date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from samcourier.errors import InputError
from samcourier.pipeline.digests import report_digest
from samcourier.pipeline.plan import Plan, make_plan, plan_from_frozen
from samcourier.settings.frozen import freeze, read_frozen
from samcourier.settings.run_settings import RunSettings

IMAGES = ("a", "b", "c", "d", "e")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_sheet(*IMAGES)


def write_sheet(*images: str, truth: str = "") -> None:
    rows = "".join(f"{image}\tdata/{image}.tif\t{truth}\n" for image in images)
    Path("images.tsv").write_text(f"image\tpath\ttruth\n{rows}")


def plan(**keys: Any) -> Plan:
    return make_plan(RunSettings(**{"dataset": "cells", "sheet": "images.tsv", **keys}))


def images_of(made: Plan) -> dict[str, list[str]]:
    return {name: [row.image for row in each.rows] for name, each in made.batches.items()}


@pytest.mark.parametrize(
    ("keys", "batches"),
    [
        ({"batch_size": 2}, {"0001": ["a", "b"], "0002": ["c", "d"], "0003": ["e"]}),
        ({"batch_size": 9}, {"0001": list(IMAGES)}),
        ({"batch_size": 2, "images": ("d",)}, {"0002": ["c", "d"]}),
    ],
)
def test_batches_follow_the_sheet_and_those_of_no_image_in_the_subset_are_left_out(
    keys: dict[str, Any], batches: dict[str, list[str]]
) -> None:
    made = plan(**keys)
    assert images_of(made) == batches
    assert [str(path) for path in made.manifests] == [
        f"results/cells/batches/{name}.json" for name in batches
    ]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"images": ("aa",)}, "config.images: 'aa', did you mean 'a'? expected ids of images.tsv"),
        ({"sheet": "none.tsv"}, "none.tsv: no such file or folder"),
    ],
)
def test_an_impossible_plan_is_one_line(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError) as refused:
        plan(**keys)
    assert str(refused.value).startswith(problem)


def test_a_path_that_snakemake_takes_for_a_pattern_is_planned_like_any_other() -> None:
    Path("images.tsv").write_text("image\tpath\na\tdata/{a}.tif\n")
    assert images_of(plan()) == {"0001": ["a"]}


def test_a_frozen_plan_does_not_follow_the_sheet() -> None:
    made = plan(batch_size=2)
    files = freeze(made.settings, made.sheet, made.dataset_dir)
    files.write()
    write_sheet("e", "a")
    frozen = plan_from_frozen(read_frozen(files.settings_path))
    assert images_of(frozen) == images_of(made)
    assert frozen.settings == made.settings
    assert images_of(plan(batch_size=2)) == {"0001": ["e", "a"]}


def test_images_of_a_folder_are_found_and_listed_in_a_sheet() -> None:
    Path("data").mkdir()
    for image in IMAGES:
        Path(f"data/{image}.tif").touch()
    made = plan(sheet="data")
    assert made.has_found_images
    assert made.sheet_path == Path("results/cells/images.tsv")
    assert made.sheet.decode().splitlines()[:2] == ["image\tpath", "a\tdata/a.tif"]
    assert not Path("results").exists()


def write_report(made: Plan, complete: dict[str, Any]) -> None:
    made.dataset_dir.mkdir(parents=True, exist_ok=True)
    for path in (made.report_html, made.report_tsv):
        path.touch()
    made.complete_json.write_text(json.dumps(complete))


@pytest.mark.parametrize(
    ("images", "truth", "is_current"),
    [
        (None, "", True),
        (("a",), "", False),
        (None, "data/truth.tif", False),
    ],
    ids=["same", "subset", "truth"],
)
def test_a_report_is_current_while_it_shows_these_images_and_this_truth(
    images: Any, truth: str, is_current: bool
) -> None:
    before = plan()
    write_report(before, {"report_digest": report_digest(before.settings, before.rows)})
    write_sheet(*IMAGES, truth=truth)
    assert plan(images=images).is_report_current() is is_current


@pytest.mark.parametrize(
    ("complete", "is_current"),
    [
        ({"keys": dict.fromkeys(IMAGES, "key")}, True),
        ({"keys": {"a": "key"}}, False),
        ({}, False),
    ],
)
def test_a_report_of_a_version_without_digests_tells_its_images(
    complete: dict[str, Any], is_current: bool
) -> None:
    made = plan()
    write_report(made, complete)
    assert made.is_report_current() is is_current


def test_a_report_whose_page_is_missing_is_not_current() -> None:
    made = plan()
    write_report(made, {"report_digest": report_digest(made.settings, made.rows)})
    made.report_html.unlink()
    assert not made.is_report_current()
