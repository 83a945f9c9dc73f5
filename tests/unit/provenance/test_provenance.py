"""Tests of writing the crate of a run, and of reading it."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from samcourier.errors import InputError
from samcourier.images.selection import Pick, Selection
from samcourier.masks.omezarr import labels_sha256, write_mask
from samcourier.provenance.crate import write_crate
from samcourier.provenance.mask_table import read_table
from samcourier.provenance.rerun import read_crate, rows_with_images_in, service_difference
from samcourier.report import build_report, write_report
from samcourier.results import environment
from samcourier.results.environment import read_run_environment, write_run_environment
from samcourier.results.image_log import read_image_log, write_image_log
from samcourier.results.service_description import ServiceDescription
from samcourier.samples.format import format_sheet
from samcourier.samples.sheet import ImageRow, make_batches, read_sheet
from samcourier.settings.run_settings import TileSettings

REPO = Path(__file__).parents[3]
CONFIG = {
    "dataset": "demo",
    "sheet": "images.tsv",
    "batch_size": 2,
    "service": {
        "target": "existing",
        "server_url": "https://lovelace:hush@hypha.example.org/x",
        "workspace": "ws-user-lovelace",
        "service_id": "ws-user-lovelace/client:samservice",
        "token_file": "/home/lovelace/token",
        "worker_id": "ws-user-lovelace/w:bioengine-worker",
        "authorized_users": ["lovelace@example.org"],
    },
    "parameters": {"min_area_px": 30},
    "tiles": {"edge_px": 512, "halo_px": 64, "above_px": 10_000},
    "ome_zarr": "0.5",
}


def write(folder: Path, **changes: Any) -> Path:
    """Write the environment record of the run in ``folder``, its report and its crate."""
    dataset_dir = folder / "results" / "demo"
    rows = read_sheet(folder / "images.tsv")
    snakefile = REPO / "workflow" / "Snakefile"
    write_run_environment(dataset_dir, "snakemake", CONFIG | changes, rows, snakefile=snakefile)
    report = build_report(rows, make_batches(rows, 2), dataset_dir)
    write_report(report, dataset_dir / "report.html", dataset_dir / "report.tsv")
    assert write_crate(report) == dataset_dir / "ro-crate-metadata.json"
    return dataset_dir


def set_service(folder: Path, service: dict[str, Any]) -> None:
    """Write ``service`` as the one that made each mask of the run in ``folder``."""
    for path in (folder / "results/demo/logs").glob("*.json"):
        log = read_image_log(path)
        assert log is not None
        write_image_log(path, structs.replace(log, service=service if log.mask else {}))


def entities(dataset_dir: Path) -> dict[str, Any]:
    graph = json.loads((dataset_dir / "ro-crate-metadata.json").read_text())["@graph"]
    return {entity["@id"]: entity for entity in graph}


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["@id"]} if value.keys() == {"@id"} else set()
        return own.union(*(references(each) for each in value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_every_reference_has_an_entity_and_every_part_a_file(finished_run: Path) -> None:
    dataset_dir = write(finished_run)
    found = entities(dataset_dir)
    outside = {"https://w3id.org/ro/crate/1.1"}
    assert references(list(found.values())) - found.keys() == outside
    for part in references(found["./"]["hasPart"]):
        assert (dataset_dir / part).exists(), part


def test_the_crate_has_the_status_of_each_image(finished_run: Path) -> None:
    dataset_dir = write(finished_run)
    table = read_table(dataset_dir / "provenance/masks.tsv")
    assert {image: (row.status, row.failure) for image, row in table.items()} == {
        "near": ("done", ""),
        "far": ("done", ""),
        "kept": ("done", ""),
        "torn": ("failed", "image"),
        "empty": ("done", ""),
    }
    assert table["near"].labels_sha256 != table["far"].labels_sha256
    assert table["torn"].labels_sha256 == ""
    action = next(e for e in entities(dataset_dir).values() if e["@type"] == "CreateAction")
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert (action["endTime"], action["error"]) > ("2026-03-01", "1 of 5 images have no mask")


def test_the_crate_has_no_user_names_and_no_secrets(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPHA_TOKEN", "hush-hush")
    monkeypatch.setattr(platform, "node", lambda: "lovelaces-laptop")
    dataset_dir = write(finished_run)
    files = [dataset_dir / "ro-crate-metadata.json", *(dataset_dir / "provenance").rglob("*.*")]
    text = "".join(path.read_text() for path in files)
    assert "lovelace" not in text
    assert "hush" not in text
    service = yaml.safe_load((dataset_dir / "provenance/config.yaml").read_text())["service"]
    assert service == {
        "target": "existing",
        "server_url": "https://hypha.example.org/x",
        "service_id": "samservice",
    }


def test_the_record_of_a_run_has_software_machine_and_commit(finished_run: Path) -> None:
    record = read_run_environment(write(finished_run))
    assert record is not None
    assert record.python == platform.python_version()
    assert record.packages["numpy"] == np.__version__
    assert record.machine.cores == os.cpu_count()
    assert record.workflow.commit is None or len(record.workflow.commit) == 40
    assert record.config["parameters"] == {"min_area_px": 30}


def test_outside_a_git_repository_the_record_has_no_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished_run: Path
) -> None:
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "a/b/c/d/run_environment.py"))
    record = read_run_environment(write(finished_run))
    assert record is not None
    assert (record.workflow.commit, record.workflow.is_dirty) == (None, None)


def test_writing_an_unchanged_crate_again_changes_no_file(finished_run: Path) -> None:
    dataset_dir = write(finished_run)
    paths = [dataset_dir / "ro-crate-metadata.json", *(dataset_dir / "provenance").glob("*")]
    before = {path: path.stat().st_mtime_ns for path in paths}
    rows = read_sheet(finished_run / "images.tsv")
    write_crate(build_report(rows, make_batches(rows, 2), dataset_dir))
    assert {path: path.stat().st_mtime_ns for path in paths} == before


def test_a_folder_without_an_environment_record_gets_no_crate(finished_run: Path) -> None:
    dataset_dir = finished_run / "results/demo"
    rows = read_sheet(finished_run / "images.tsv")
    assert write_crate(build_report(rows, make_batches(rows, 2), dataset_dir)) is None
    assert not (dataset_dir / "provenance").exists()


def test_the_metadata_does_not_grow_with_the_number_of_images(finished_run: Path) -> None:
    """The metadata has the number of images; the table lists them."""
    dataset_dir = write(finished_run)
    rows = read_sheet(finished_run / "images.tsv")
    report = build_report(rows, make_batches(rows, 2), dataset_dir)
    failed = next(each for each in report.outcomes if each.status == "failed")
    many = tuple(replace(failed, image=f"image_{number}") for number in range(10_000))
    size = (dataset_dir / "ro-crate-metadata.json").stat().st_size
    write_crate(replace(report, outcomes=many))
    assert (dataset_dir / "ro-crate-metadata.json").stat().st_size < size + 100
    assert len(read_table(dataset_dir / "provenance/masks.tsv")) == 10_000


@pytest.mark.parametrize("ome_zarr", ["0.4", "0.5"])
def test_the_hash_of_labels_does_not_depend_on_how_they_are_stored(
    tmp_path: Path, ome_zarr: Any
) -> None:
    mask = np.random.default_rng(1).integers(0, 9, (2, 1026, 1030)).astype(np.uint32)
    write_mask(tmp_path / "m.ome.zarr", mask, "ZYX", provenance={}, ome_zarr=ome_zarr)
    stored = zarr.open_array(tmp_path / "m.ome.zarr/0", mode="r")
    assert labels_sha256(stored) == labels_sha256(mask) == labels_sha256(mask.copy(order="F"))
    other = mask.copy()
    other[1, 1025, 1029] += 1
    assert labels_sha256(other) != labels_sha256(mask)
    assert labels_sha256(mask.reshape(2, 1030, 1026)) != labels_sha256(mask)


_CELL = st.text("abc \"'\\äµ=,;", min_size=1, max_size=9).map(str.strip).filter(bool)
_PICKS = st.sampled_from([None, Pick("index", 3, 3), Pick("planes", 2, 5), Pick("max")])


@given(
    st.builds(
        ImageRow,
        image=st.just("a"),
        path=_CELL.map(Path),
        selection=st.builds(
            Selection,
            scene=st.none() | st.integers(0, 9),
            t=_PICKS,
            z=_PICKS | st.just(Pick("volume", 1, 4)),
            channel=st.none() | st.integers(0, 9) | st.just("DAPI, GFP"),
            axes=st.sampled_from([None, "CYX"]),
        ),
        pixel_size_um=st.none() | st.floats(1e-3, 1e3),
        model=st.none() | _CELL,
        parameters=st.dictionaries(_CELL, st.integers() | _CELL, max_size=2),
        foreground=st.none() | _CELL.map(Path),
        truth=st.none() | _CELL.map(Path),
    )
)
def test_a_written_sheet_reads_back_equal(row: ImageRow) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder, "images.tsv")
        sheet.write_text(format_sheet([row]), encoding="utf-8")
        assert read_sheet(sheet) == [row]


def test_reading_a_crate_returns_its_run(finished_run: Path) -> None:
    run = read_crate(write(finished_run))
    assert [row.image for row in run.rows] == ["near", "far", "kept", "empty"]
    assert (run.parameters, run.ome_zarr, run.batch_size) == ({"min_area_px": 30}, "0.5", 2)
    assert run.engine == ("watershed", {})
    assert run.tiles == TileSettings(512, 64, 10_000)


@pytest.mark.parametrize(
    ("service", "options"),
    [
        ({}, {"model": "vit_l_lm", "mode": "amg", "halo": None}),
        ({"target": "bioengine"}, {"model": "vit_l_lm", "mode": "amg", "halo": None}),
        ({"target": "existing"}, {}),
        ({"engine": "watershed"}, {}),
        ({"engine_options": ["model"]}, {}),
    ],
)
def test_of_a_crate_s_engine_options_those_count_that_the_engine_lets_come(
    finished_run: Path, service: dict[str, Any], options: dict[str, Any]
) -> None:
    """A checkpoint, a device and a permission are the business of whoever makes the rerun."""
    made_by = {"engine": "microsam", "model": "vit_l_lm (amg)", "model_sha256": "0" * 64}
    set_service(finished_run, made_by | {"segmentation_version": 2})
    given = {"model": "vit_l_lm", "mode": "amg", "halo": None, "unknown": 1}
    given |= {"checkpoint": "/mine.pt", "trust_checkpoint": True, "device": "cuda"}
    recorded = {"target": "local", "engine": "microsam", "engine_options": given} | service
    run = read_crate(write(finished_run, service=recorded))
    assert run.engine == ("microsam", options)


def test_an_engine_that_is_not_known_here_gets_no_option_of_a_crate(finished_run: Path) -> None:
    made_by = {"engine": "cells", "model": "m", "model_sha256": None, "segmentation_version": 2}
    set_service(finished_run, made_by)
    recorded = {"target": "local", "engine": "cells", "engine_options": {"size_px": 3}}
    assert read_crate(write(finished_run, service=recorded)).engine == ("cells", {})


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("ro-crate-metadata.json", "", "provenance/run.json: changed since the crate was written"),
        ("ro-crate-metadata.json", "[[1]]", "changed since"),
        ("provenance/images.tsv", "image\tpath\na\t/etc/passwd\n", "changed since"),
        ("provenance/masks.tsv", "", "changed since"),
    ],
)
def test_a_damaged_crate_is_refused(finished_run: Path, file: str, text: str, problem: str) -> None:
    dataset_dir = write(finished_run)
    (dataset_dir / file).write_text(text)
    with pytest.raises(InputError, match=problem):
        read_crate(dataset_dir)


@pytest.mark.parametrize(
    "line",
    [
        "../../x\t0001\tdone" + "\t" * 7,
        "a\t0001\tdone\tzz" + "\t" * 6,
        "a\t0001\t\x1b[31m" + "\t" * 7,
        "a\t0001\tdone",
    ],
)
def test_a_hostile_table_is_refused(tmp_path: Path, line: str) -> None:
    header = "image\tbatch\tstatus\tpixels_sha256\tlabels_sha256\tkey\tobjects\tservice"
    (tmp_path / "masks.tsv").write_text(f"{header}\tfailure\tfinished_at\n{line}\n")
    with pytest.raises(InputError, match=r"line 2.*is not a row") as raised:
        read_table(tmp_path / "masks.tsv")
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("data/a.tif", "data/a.tif"),
        ("/abs/data/a.tif", "a.tif"),
        ("../../data/a.tif", "data/a.tif"),
        ("elsewhere/b.tif", "b.tif"),
    ],
)
def test_images_are_searched_only_in_the_given_folder(
    tmp_path: Path, path: str, found: str
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("data/a.tif", "a.tif", "b.tif"):
        (tmp_path / name).touch()
    (row,) = rows_with_images_in([ImageRow("a", Path(path), truth=Path("t.tif"))], tmp_path)
    assert (row.path, row.truth) == (tmp_path / found, None)


def test_only_fields_that_influence_labels_distinguish_services(finished_run: Path) -> None:
    run = read_crate(write(finished_run))
    same = ServiceDescription("watershed", "none", None, segmentation_version=1)
    assert service_difference(structs.replace(same, device="cuda"), run) is None
    other = structs.replace(same, engine="sam")
    assert "its engine is 'sam'" in str(service_difference(other, run))
    packaged = structs.replace(same, distribution={"name": "cells", "version": "1.0"})
    assert service_difference(packaged, run) == (
        "its distribution is {'name': 'cells', 'version': '1.0'}, the masks' None"
    )


def test_it_is_known_for_every_config_key_whether_it_influences_masks() -> None:
    """RecordedRun must have every key that influences masks, or a rerun makes other masks."""
    schema = yaml.safe_load((REPO / "workflow/schemas/config.schema.yaml").read_text())
    taken_from_the_crate = {"batch_size", "parameters", "tiles", "ome_zarr", "service"}
    without_effect = {"dataset", "sheet", "images", "retry_failed", "transport", "network"}
    without_effect |= {"timeouts", "embeddings", "embeddings_max_gb", "embeddings_folder"}
    without_effect |= {"mask_container", "outputs", "objects", "replace", "properties"}
    assert set(schema["properties"]) == taken_from_the_crate | without_effect
