"""What Snakemake runs after each thing that can happen, with a samcourier that acts by script."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from samcourier.cli import main as cli
from samcourier.samples.demo import DEMO_IMAGES, sample_sheet
from samcourier.samples.sheet import COLUMNS

from .lint import lint_problems
from .project import IMAGES, REPO, RUN_TIMEOUT_S, SERVICE, Project, settings

MANIFEST = "results/cells/batches/{}.json"
COMPLETE = "results/cells/complete.json"


def test_a_fresh_run_brings_the_service_up_once_and_makes_every_batch(
    finished_once: tuple[Path, list[str]],
) -> None:
    assert finished_once[1] == [*SERVICE, "0001", "0002", "0003", "report"]


def test_a_run_says_what_it_is_to_do(finished: Project) -> None:
    """Without the masks that hold already; a run that makes no batch leaves the last word."""

    def said() -> dict[str, Any]:
        record = json.loads((finished / "results/cells/run.json").read_text())
        return {name: record[name] for name in ("images", "batches", "kept")}

    fresh = {"images": 7, "batches": 3, "kept": {"batches": 0, "done": 0, "failed": 0}}
    assert said() == fresh
    delete_the_report(finished)
    finished.run()
    assert said() == fresh
    delete_a_mask(finished)
    finished.run()
    assert said() == {"images": 7, "batches": 3, "kept": {"batches": 2, "done": 4, "failed": 0}}


def delete_a_mask(project: Project) -> None:
    shutil.rmtree(project / "results/cells/masks/img_4.ome.zarr")


def truncate_a_chunk(project: Project) -> None:
    (project / "results/cells/masks/img_4.ome.zarr/0").write_bytes(b"")


def delete_a_manifest(project: Project) -> None:
    (project / MANIFEST.format("0002")).unlink()


def cut_a_manifest_short(project: Project) -> None:
    (project / MANIFEST.format("0002")).write_text('{"batch": "0002", "ima')


def change_an_image(project: Project) -> None:
    (project / "data/img_5.tif").write_text("other pixels")


def touch_an_image(project: Project) -> None:
    (project / "data/img_5.tif").touch()


def lose_an_image(project: Project) -> None:
    (project / "data/img_5.tif").unlink()


def append_a_row(project: Project) -> None:
    (project / "data/img_8.tif").write_text("img_8")
    project.write_sheet(*IMAGES, "img_8")


def append_a_batch(project: Project) -> None:
    append_a_row(project)
    project.write_sheet(*IMAGES, "img_8", "img_8b", "img_8c")
    for image in ("img_8b", "img_8c"):
        (project / f"data/{image}.tif").write_text(image)


def say_what_the_axes_are(project: Project) -> None:
    rows = [f"{image}\tdata/{image}.tif\t{'YX' if image == 'img_4' else ''}" for image in IMAGES]
    (project / "config/images.tsv").write_text("\n".join(["image\tpath\taxes", *rows]) + "\n")


def change_a_parameter(project: Project) -> None:
    project.configure(parameters={"sigma_px": 2})


def change_the_engine(project: Project) -> None:
    project.configure(service={"engine": "microsam"})


def change_how_it_travels(project: Project) -> None:
    project.configure(transport="http", timeouts={"image_s": 5}, service={"token_file": "token"})


def change_nothing(project: Project) -> None:
    pass


def delete_the_report(project: Project) -> None:
    (project / "results/cells/report.html").unlink()


def forget_what_snakemake_knows(project: Project) -> None:
    shutil.rmtree(project / ".snakemake")


def forget_it_and_change_a_parameter(project: Project) -> None:
    forget_what_snakemake_knows(project)
    change_a_parameter(project)


def forget_it_and_say_what_the_axes_are(project: Project) -> None:
    forget_what_snakemake_knows(project)
    say_what_the_axes_are(project)


@pytest.mark.parametrize(
    ("happened", "ran"),
    [
        (change_nothing, []),
        (touch_an_image, []),
        (change_how_it_travels, []),
        (forget_what_snakemake_knows, []),
        (forget_it_and_change_a_parameter, [*SERVICE, "0001", "0002", "0003", "report"]),
        (forget_it_and_say_what_the_axes_are, [*SERVICE, "0002", "report"]),
        (delete_a_mask, [*SERVICE, "0002", "report"]),
        (truncate_a_chunk, [*SERVICE, "0002", "report"]),
        (delete_a_manifest, [*SERVICE, "0002", "report"]),
        (cut_a_manifest_short, [*SERVICE, "0002", "report"]),
        (change_an_image, [*SERVICE, "0002", "report"]),
        (say_what_the_axes_are, [*SERVICE, "0002", "report"]),
        (append_a_row, [*SERVICE, "0003", "report"]),
        (append_a_batch, [*SERVICE, "0003", "0004", "report"]),
        (change_a_parameter, [*SERVICE, "0001", "0002", "0003", "report"]),
        (change_the_engine, [*SERVICE, "0001", "0002", "0003", "report"]),
        (delete_the_report, ["report"]),
    ],
)
def test_what_happened_decides_which_batches_are_remade(
    finished: Project, happened: Callable[[Project], None], ran: list[str]
) -> None:
    happened(finished)
    finished.run()
    assert finished.ran == ran


def test_after_a_repair_there_is_nothing_to_do(finished: Project) -> None:
    delete_a_mask(finished)
    finished.run()
    assert "Nothing to be done" in finished.run()
    assert finished.ran == []


def test_a_missing_image_is_recorded_and_made_up_for_when_it_appears(finished: Project) -> None:
    lose_an_image(finished)
    shutil.rmtree(finished / "results/cells/masks/img_5.ome.zarr")
    assert "no mask: img_5" in finished.run(status=1)
    assert finished.ran == [*SERVICE, "0002", "report"]
    finished.run(status=1)
    assert finished.ran == ["report"]
    (finished / "data/img_5.tif").write_text("img_5")
    finished.run()
    assert finished.ran == [*SERVICE, "0002", "report"]


@pytest.mark.parametrize(
    ("failure", "ran_again"),
    [("transport", [*SERVICE, "0002", "report"]), ("image", ["report"])],
)
def test_a_failure_is_retried_unless_the_image_is_to_blame(
    fresh: Project, failure: str, ran_again: list[str]
) -> None:
    fresh.script(fail={"img_4": failure})
    fresh.run(status=1)
    assert fresh.ran == [*SERVICE, "0001", "0002", "0003", "report"]
    assert "img_4" in (fresh / "results/cells/report.html").read_text()
    assert not (fresh / COMPLETE).exists()
    fresh.run(status=1)
    assert fresh.ran == ran_again
    fresh.run("--config", "retry_failed=true", status=1)
    assert fresh.ran == [*SERVICE, "0002", "report"]
    assert [settings(call)["retry_failed"] for call in fresh.calls if call["name"] == "0002"] == [
        True
    ]


def test_a_batch_that_stops_at_once_says_why_and_the_report_is_written_all_the_same(
    fresh: Project,
) -> None:
    fresh.script(exit={"0002": 3})
    output = fresh.run(status=1)
    assert "0002 is scripted to fail" in output
    assert "report" in fresh.ran
    assert (fresh / "results/cells/report.html").exists()
    assert not (fresh / COMPLETE).exists()
    (fresh / "fake.json").unlink()
    fresh.run()
    assert fresh.ran[:3] == [*SERVICE, "0002"]


@pytest.mark.parametrize(("step", "ran"), [("deploy", ["deploy"]), ("verify", SERVICE)])
def test_no_batch_starts_without_a_service_and_finished_ones_stay(
    finished: Project, step: str, ran: list[str]
) -> None:
    change_an_image(finished)
    finished.script(exit={step: 1})
    output = finished.run(status=1)
    assert f"samcourier: no batch was started, since samcourier {step} failed" in output
    assert "Traceback" not in output
    assert finished.ran == ran
    (finished / "fake.json").unlink()
    finished.run()
    assert finished.ran == [*SERVICE, "0002", "report"]


def test_the_service_s_rules_run_whenever_they_are_asked_for_and_remake_nothing(
    finished: Project,
) -> None:
    before = finished.tree()
    finished.run("-n", "verify", "undeploy")
    assert finished.tree() == before
    for asked, ran in ((SERVICE, SERVICE), (["deploy"], ["deploy"]), (["verify"], SERVICE)):
        finished.run(*asked)
        assert finished.ran == ran
    finished.run("undeploy")
    assert finished.ran == ["undeploy"]
    assert "Nothing to be done" in finished.run()


def test_the_service_s_rules_are_given_what_a_run_gives(fresh: Project) -> None:
    service = {"target": "bioengine", "server_url": "http://127.0.0.1:1", "replicas": 2}
    fresh.configure(service={**service, "authorized_users": ["ann@example.org"]})
    fresh.run()
    in_a_run = {call["name"]: call["arguments"] for call in fresh.calls}
    fresh.run("verify")
    by_name = {call["name"]: call["arguments"] for call in fresh.calls}
    assert by_name == {step: in_a_run[step] for step in SERVICE}
    fresh.run("undeploy")
    ((_, *undeploy_options),) = [call["arguments"] for call in fresh.calls]
    assert ["deploy", *undeploy_options, *in_a_run["deploy"][-2:]] == in_a_run["deploy"]


def test_the_doctor_looks_with_the_options_of_a_run_and_makes_nothing(fresh: Project) -> None:
    fresh.configure(outputs=["preview"], mask_container="zip", network={"connections": 40})
    fresh.run("doctor")
    (looked,) = [call["arguments"] for call in fresh.calls]
    assert not (fresh / "results/cells/batches").exists()
    fresh.run()
    (verified,) = [call["arguments"] for call in fresh.calls if call["name"] == "verify"]
    assert looked[1:3] == verified[1:3]
    assert looked[3:] == ["--to-segment", "results/cells/logs/to_segment.txt"]
    fresh.script(exit={"doctor": 1})
    assert "doctor is scripted to fail" in fresh.run("doctor", status=1)


@pytest.mark.parametrize(
    ("change", "config", "expected"),
    [
        (lambda project: None, {}, []),
        (delete_a_mask, {}, ["img_4"]),
        (delete_a_mask, {"images": ["img_1", "img_7"]}, []),
        (delete_a_manifest, {}, ["img_4", "img_5", "img_6"]),
        (lambda project: None, {"parameters": {"sigma_px": 2.0}}, list(IMAGES)),
        (lambda project: None, {"images": ["img_7"], "ome_zarr": "0.5"}, ["img_7"]),
    ],
)
def test_the_doctor_is_told_which_images_the_run_would_segment(
    finished: Project,
    change: Callable[[Project], None],
    config: dict[str, Any],
    expected: list[str],
) -> None:
    change(finished)
    finished.configure(**config)
    finished.run("doctor")
    (looked,) = finished.calls
    assert looked["options"]["to_segment"] == expected


@pytest.mark.parametrize(("step", "ran"), [("deploy", ["deploy"]), ("verify", SERVICE)])
def test_a_rule_of_the_service_that_fails_says_so_and_writes_no_report(
    fresh: Project, step: str, ran: list[str]
) -> None:
    fresh.script(exit={step: 1})
    assert f"{step} is scripted to fail" in fresh.run("verify", status=1)
    assert fresh.ran == ran
    assert (fresh / "results/cells/service.json").exists() == (step == "verify")
    assert not (fresh / "results/cells/report.html").exists()


def jobs_shown(output: str) -> dict[str, int]:
    """Return {rule: count} of a dry run's table."""
    table = output.split("Job stats:")[1].split("\n\n")[0].splitlines()[3:]
    return {rule: int(count) for rule, count in (line.split() for line in table)}


def test_a_dry_run_shows_the_repair(finished: Project) -> None:
    delete_a_mask(finished)
    assert jobs_shown(finished.run("-n")) == {"segment": 1, "report": 1, "dataset": 1, "total": 3}


LOOKS = [
    ["-n"],
    ["--lint"],
    ["--dag"],
    ["--rulegraph"],
    ["--summary"],
    ["--list-rules"],
    ["--report", "../report.html"],
]


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look[0])
def test_looking_changes_nothing_though_a_repair_is_due(finished: Project, look: list[str]) -> None:
    delete_a_mask(finished)
    before = finished.tree()
    finished.run(*look, status=int(look == ["--lint"]))
    assert finished.tree() == before
    finished.run()
    assert finished.ran == [*SERVICE, "0002", "report"]


@pytest.mark.parametrize("look", [["-n"], ["--lint"]], ids=lambda look: look[0])
def test_looking_at_a_fresh_project_makes_nothing(fresh: Project, look: list[str]) -> None:
    before = fresh.tree()
    fresh.run(*look, status=int(look == ["--lint"]))
    assert fresh.tree() == before


def test_snakemake_s_own_report_holds_the_page(finished: Project) -> None:
    finished.run("report_page")
    assert finished.ran == []
    finished.run("report_page", "--report", "../run.zip")
    with zipfile.ZipFile(finished.directory.parent / "run.zip") as archive:
        pages = [name for name in archive.namelist() if name.endswith("report_page.html")]
        said = b"".join(archive.read(name) for name in archive.namelist())
        page = (finished / "results/cells/report.html").read_bytes()
        assert [archive.read(name) for name in pages] == [page]
    assert b"What became of every image" in said
    assert b"Segmentation" in said
    finished.run()
    assert finished.ran == []


def test_the_workflow_is_clean(finished: Project) -> None:
    assert lint_problems(finished.run("--lint", status=1)) == []


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("rule other:\n    output: 'other.txt'\n    shell: 'touch {output}'\n", "No log directive"),
        ("rule other:\n    output: 'other.txt'\n    shel: 'true'\n", "SyntaxError"),
    ],
    ids=["another message", "a parse error"],
)
def test_only_one_message_of_the_lint_is_excepted(fresh: Project, rule: str, problem: str) -> None:
    (fresh / "Snakefile").write_text(f"include: {str(REPO / 'workflow/Snakefile')!r}\n\n\n{rule}")
    found = lint_problems(fresh.run("-s", "Snakefile", "--lint", status=1))
    assert any(problem in each for each in found)


def test_the_inner_snakefile_serves_as_well(finished: Project) -> None:
    inner = str(REPO / "workflow/Snakefile")
    assert "Nothing to be done" in finished.run("-s", inner)
    delete_a_mask(finished)
    assert jobs_shown(finished.run("-s", inner, "-n"))["segment"] == 1


KNOWN = (
    "batch_size, dataset, embeddings, embeddings_folder, embeddings_max_gb, images,"
    " mask_container, network, objects, ome_zarr, outputs, parameters, properties, replace,"
    " retry_failed, service,"
    " sheet, tiles, timeouts, transport"
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batchsize": 3},
            f"config: unknown key 'batchsize', did you mean 'batch_size'? expected {KNOWN}",
        ),
        ({"zzz": 3}, f"config: unknown key 'zzz', expected {KNOWN}"),
        (
            {"service": {"tagret": "local"}},
            "config.service: unknown key 'tagret', did you mean 'target'? expected application_id,",
        ),
        ({"batch_size": 0}, "config.batch_size: 0, expected: a whole number of images (1 or more)"),
        ({"batch_size": "six"}, "config.batch_size: 'six', expected: a whole number of images"),
        (
            {"transport": 7},
            "config.transport: 7, expected: auto (the fastest as measured), websocket",
        ),
        (
            {"transport": "webrct"},
            "config.transport: transport 'webrct' is unknown, did you mean 'webrtc'? expected one",
        ),
        (
            {"service": {"engine": "watershd"}},
            "config.service.engine: engine 'watershd' is unknown, did you mean 'watershed'? exp",
        ),
        (
            {"service": {"target": "slurm", "server_url": "http://a", "engine": "stardist"}},
            "config.service.engine: engine 'stardist' is unknown, expected one of watershed, m",
        ),
        ({"ome_zarr": 0.6}, "config.ome_zarr: 0.6, expected: 0.4 (zarr 2;"),
        ({"tiles": {"edge_px": 64}}, "config.tiles.edge_px: 64, expected: side in pixels (256 or"),
        ({"parameters": None}, "config.parameters: None, expected: parameters of the engine as a"),
        (
            {"timeouts": {"attempt_s": 0}},
            "config.timeouts.attempt_s: 0, expected: time limit of one",
        ),
        ({"dataset": "../up"}, "config.dataset: '../up', expected: a name of letters"),
        ({"dataset": None}, "config.dataset: None, expected: a name of letters"),
        (
            {"service": {"target": "existing"}},
            "config.service.server_url: None, expected: URL of the Hypha server, since",
        ),
        (
            {"service": {"target": "bioengine"}},
            "config.service.server_url: None, expected: URL of the Hypha server, since",
        ),
        ({"service": {"replicas": 0}}, "config.service.replicas: 0, expected: a whole number of"),
        ({"service": {"authorized_users": "a@b"}}, "config.service.authorized_users: 'a@b', exp"),
        (
            {"service": {"authorized_users": ["a@b.c"]}},
            "config.service.authorized_users: ['a@b.c'], expected: nothing, unless",
        ),
        (
            {"service": {"target": "slurm", "server_url": "http://a", "replicas": 2}},
            "config.service.replicas: 2, expected: 1, unless service.target is bioengine",
        ),
        (
            {"service": {"target": "slurm", "server_url": "http://a", "gpu_memory_mb": 8000}},
            "config.service.gpu_memory_mb: 8000, expected: nothing, unless service.target is bio",
        ),
        ({"service": {"application_id": "a b"}}, "config.service.application_id: 'a b', expected"),
        ({"images": ["img_33"]}, "config.images: 'img_33', did you mean 'img_3'? expected ids of"),
        ({"retry_failed": "yes"}, "config.retry_failed: 'yes', expected: true to try again"),
        ({"images": []}, "config.images: [], expected: image ids of the sheet"),
        ({"sheet": "config/none.tsv"}, "config/none.tsv: no such file or folder"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line(
    fresh: Project, changes: dict[str, Any], message: str
) -> None:
    fresh.configure(**changes)
    lines = [line for line in fresh.run(status=1).splitlines() if "Using workflow" not in line]
    assert len(lines) == 1
    assert f"samcourier: {message}" in lines[0]


@pytest.mark.parametrize(
    ("sheet", "messages"),
    [
        ("", ["the sheet is empty"]),
        ("image\tpath\n", ["no image"]),
        ("image\tpath\na\tdata/a.tif\na\tdata/b.tif\n", ["line 3: image 'a' is already on line 2"]),
        ("image\tpath\na/b\tx.tif\nc d\ty.tif\n", ["line 2: image 'a/b'", "line 3: image 'c d'"]),
    ],
)
def test_a_wrong_sheet_is_refused_with_a_line_for_each_problem(
    fresh: Project, sheet: str, messages: list[str]
) -> None:
    (fresh / "config/images.tsv").write_text(sheet)
    lines = [line for line in fresh.run(status=1).splitlines() if "Using workflow" not in line]
    assert len(lines) == len(messages)
    for line, message in zip(lines, messages, strict=True):
        assert "samcourier: config/images.tsv" in line
        assert message in line


def end(process: ForkServerProcess) -> None:
    """End a run and everything it started, with no chance to tidy up."""
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.join(RUN_TIMEOUT_S)
    process.close()


def test_a_folder_may_stand_for_the_sheet(fresh: Project) -> None:
    fresh.configure(sheet="data")
    before = fresh.tree()
    fresh.run("--dry-run")
    assert fresh.tree() == before
    fresh.run()
    assert fresh.ran == [*SERVICE, "0001", "0002", "0003", "report"]
    sheet = fresh / "results/cells/images.tsv"
    assert [line.split("\t")[0] for line in sheet.read_text().splitlines()[1:]] == list(IMAGES)
    fresh.run()
    assert fresh.ran == []
    # First by its name, it comes last: what was there keeps its batches.
    (fresh / "data/a_new.tif").write_text("new")
    fresh.run()
    assert fresh.ran == [*SERVICE, "0003", "report"]


@pytest.mark.parametrize("name", ["{image}.tif", "{batch}.tif", "{", "a}{b.tif", "{{x}}.tif"])
def test_a_name_with_braces_is_segmented_like_any_other(fresh: Project, name: str) -> None:
    (fresh / "data/img_2.tif").rename(fresh / "data" / name)
    fresh.configure(sheet="data/*")
    fresh.run()
    assert fresh.ran == [*SERVICE, "0001", "0002", "0003", "report"]
    fresh.run()
    assert fresh.ran == []
    rows = (fresh / "results/cells/images.tsv").read_text().splitlines()[1:]
    (batch,) = (f"{n // 3 + 1:04d}" for n, row in enumerate(rows) if row.endswith(f"/{name}"))
    later = time.time() + 60
    os.utime(fresh / "data" / name, (later, later))
    fresh.run()
    assert fresh.ran == [*SERVICE, batch, "report"]


@pytest.mark.parametrize("pattern", ["data/*", "data/img_?.tif"])
def test_what_snakemake_cannot_open_fails_in_its_batch_alone(fresh: Project, pattern: str) -> None:
    fresh.configure(sheet=pattern)
    (fresh / "data/img_3.tif").unlink()
    os.mkfifo(fresh / "data/img_3.tif")
    (fresh / "data/img_2.tif").unlink()
    (fresh / "data/img_2.tif").symlink_to("img_2.tif")
    fresh.script(fail={"img_2": "image", "img_3": "image"})
    fresh.run(status=1)
    assert fresh.ran == [*SERVICE, "0001", "0002", "0003", "report"]


def test_a_deleted_log_is_made_again(finished: Project) -> None:
    (finished / "results/cells/logs/img_5.json").unlink()
    finished.run()
    assert finished.ran == [*SERVICE, "0002", "report"]
    finished.run()
    assert finished.ran == []


@pytest.fixture
def held(fresh: Project) -> Iterator[tuple[Project, ForkServerProcess]]:
    """A run whose second batch is at work and waits for the file ``go``."""
    fresh.script(hold=["0002"])
    process = fresh.start()
    fresh.wait_for(lambda: "0002" in fresh.ran and fresh.output.count("Finished jobid") == 2)
    yield fresh, process
    (fresh / "go").touch()


def test_a_second_run_is_refused_and_the_first_goes_on(
    held: tuple[Project, ForkServerProcess],
) -> None:
    project, process = held
    lines = project.run(status=1).splitlines()
    refusals = [line for line in lines if "samcourier: " in line]
    assert refusals == [refusals[0]]
    assert f"results/cells is in use by process {process.pid}" in refusals[0]
    assert "Traceback" not in "".join(lines)
    assert project.ran == []
    (project / "go").touch()
    process.join(RUN_TIMEOUT_S)
    assert process.exitcode == 0
    assert (project / COMPLETE).exists()


def test_after_kill_9_a_plain_run_goes_on_where_it_was(
    held: tuple[Project, ForkServerProcess],
) -> None:
    project, process = held
    end(process)
    (project / "fake.json").unlink()
    project.run()
    assert "0002" in project.ran
    assert "0003" not in project.ran
    assert (project / COMPLETE).exists()
    project.run()
    assert project.ran == []


def test_a_batch_that_outlived_its_killed_snakemake_does_no_harm(
    held: tuple[Project, ForkServerProcess],
) -> None:
    project, process = held
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(RUN_TIMEOUT_S)
    (project / "go").touch()
    project.wait_for((project / MANIFEST.format("0002")).exists)
    project.run()
    assert (project / COMPLETE).exists()
    assert "Nothing to be done" in project.run()


def test_a_cluster_s_jobs_are_refused_a_service_of_this_machine(fresh: Project) -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    output = fresh.run("--workflow-profile", "slurm", status=1)
    assert "samcourier: config.service.target: 'local' starts a service" in output
    assert "Traceback" not in output
    assert fresh.ran == []


@pytest.mark.parametrize("images", ["img_4,img_7", ["img_4", "img_7"]])
def test_a_subset_runs_its_batches_alone_and_the_rest_follows(
    fresh: Project, images: str | list[str]
) -> None:
    fresh.configure(images=images)
    fresh.run()
    assert fresh.ran == [*SERVICE, "0002", "0003", "report"]
    assert [settings(call)["images"] for call in fresh.calls] == [["img_4", "img_7"]] * 5
    fresh.run()
    assert fresh.ran == []
    fresh.configure()
    fresh.run()
    assert fresh.ran == [*SERVICE, "0001", "0002", "report"]
    assert [settings(call)["images"] for call in fresh.calls] == [None] * 5


def test_a_subset_of_any_size_fits_into_a_command(fresh: Project) -> None:
    ids = [f"{number:0199d}" for number in range(1000)]
    rows = "".join(f"{image}\tdata/img_1.tif\n" for image in ids)
    (fresh / "config/images.tsv").write_text(f"image\tpath\n{rows}")
    fresh.configure(images=ids[:-1], batch_size=500)
    fresh.run()
    (report,) = (call for call in fresh.calls if call["name"] == "report")
    assert settings(report)["images"] == ids[:-1]
    fresh.run("doctor")
    assert settings(fresh.calls[-1])["images"] == ids[:-1]


def test_a_subset_can_be_given_on_the_command_line(finished: Project) -> None:
    delete_a_mask(finished)
    (finished / "results/cells/masks/img_7.ome.zarr/0").unlink()
    finished.run("--config", "images=img_7", "ome_zarr=0.5")
    assert finished.ran == [*SERVICE, "0003", "report"]
    assert [settings(call)["ome_zarr"] for call in finished.calls if call["name"] == "0003"] == [
        "0.5"
    ]


def test_the_whole_command_reaches_samcourier_unchanged(fresh: Project) -> None:
    parameters = {"name": "it's; $HOME {x} é", "sigma": 1.5}
    (fresh / "data/it's é.tif").write_text("apostrophe, space and accent")
    with (fresh / "config/images.tsv").open("a") as sheet:
        sheet.write("img_8\tdata/it's é.tif\n")
    fresh.configure(
        parameters=parameters,
        service={
            "target": "existing",
            "server_url": "https://hypha.example.org",
            "workspace": "lab",
            "service_id": "lab/gpu:sam",
            "token_file": "secrets/my token",
        },
        network={"ice_servers": [{"urls": "stun:a b:1"}], "ca_bundle": "site's.pem"},
    )
    fresh.run()
    for call in fresh.calls:
        given = settings(call)
        service, network = given["service"], given["network"]
        assert service["server_url"] == "https://hypha.example.org"
        assert service["service_id"] == "lab/gpu:sam"
        assert service["token_file"] == "secrets/my token"
        assert network["ice_servers"] == [{"urls": "stun:a b:1"}]
        assert network["ca_bundle"] == "site's.pem"
        assert given["parameters"] == parameters
        assert given["timeouts"]["image_s"] == 1800


def test_the_settings_of_a_bioengine_app_reach_samcourier(fresh: Project) -> None:
    service = {
        "target": "bioengine",
        "server_url": "https://hypha.example.org",
        "engine": "microsam",
        "engine_options": {"model": "vit_b_lm"},
        "worker_id": "lab/gpu:bioengine-worker",
        "application_id": "cells",
        "gpu_memory_mb": -1,
        "replicas": 2,
        "authorized_users": ["a@example.org", "*"],
    }
    fresh.configure(service=service)
    fresh.run()
    for call in fresh.calls:
        given = settings(call)["service"]
        assert given | service == given
        assert (given["cpus"], given["memory_mb"]) == (1, None)
    # No mask depends on how many replicas made it, or for whom.
    fresh.configure(service=service | {"replicas": 1, "authorized_users": []})
    fresh.run()
    assert not set(fresh.ran) - set(SERVICE)


def test_the_real_command_line_takes_what_the_rules_give(
    fresh: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fresh / ".")
    (fresh / "config/images.tsv").write_text(sample_sheet())
    fresh.configure(batch_size=24, images=["nuclei_01"])
    fresh.run()
    assert len(fresh.calls) == 5
    for call in fresh.calls:
        command, *arguments = call["arguments"]
        parsed = cli.get_command(click.Context(cli), command)
        assert parsed is not None
        parsed.make_context(command, arguments)


def test_the_demo_images_are_made_once(fresh: Project) -> None:
    (fresh / "config/images.tsv").write_text(sample_sheet())
    fresh.configure(batch_size=6)
    fresh.run()
    batches = ["0001", "0002", "0003", "0004"]
    assert sorted(fresh.ran) == sorted([*SERVICE, "demo-data", *batches, "report"])
    shutil.rmtree(fresh / "results/cells/masks/nuclei_03.ome.zarr")
    fresh.run()
    assert fresh.ran == [*SERVICE, "0001", "report"]


def test_a_file_of_the_users_in_the_demo_folder_is_no_output(fresh: Project) -> None:
    (fresh / "config/images.tsv").write_text("image\tpath\nmine\tdata/demo/mine.tif\n")
    (fresh / "data/demo").mkdir()
    (fresh / "data/demo/mine.tif").write_text("mine")
    fresh.run("--forceall")
    assert fresh.ran == [*SERVICE, "0001", "report"]
    assert (fresh / "data/demo/mine.tif").read_text() == "mine"


def test_every_demo_file_is_known_to_the_workflow(fresh: Project) -> None:
    (fresh / "config/images.tsv").write_text(sample_sheet())
    shown = fresh.run("--summary")
    for image in DEMO_IMAGES:
        assert f"data/demo/{image.id}.tif" in shown
        assert f"data/demo/truth/{image.id}.tif" in shown


@pytest.mark.parametrize(
    "schema", sorted((REPO / "workflow/schemas").iterdir()), ids=lambda p: p.name
)
def test_every_schema_is_valid_itself(schema: Path) -> None:
    content = yaml.safe_load(schema.read_text())
    assert content["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$schema"]
    jsonschema.Draft202012Validator.check_schema(content)


def test_the_sheet_s_schema_knows_its_columns() -> None:
    schema = yaml.safe_load((REPO / "workflow/schemas/images.schema.yaml").read_text())
    assert tuple(schema["properties"]) == COLUMNS


def test_no_more_batches_run_at_once_than_may_be_connected(fresh: Project) -> None:
    fresh.configure(network={"connections": 1})
    fresh.script(alone=True)
    fresh.run("--retries", "0")


def test_a_job_that_is_lost_is_submitted_again_and_knows_it(fresh: Project) -> None:
    fresh.script(exit={"0002": 3})
    fresh.run("--retries", "2", status=1)
    submissions = [call["options"]["submission"] for call in fresh.calls if call["name"] == "0002"]
    assert submissions == [1, 2, 3]
    assert fresh.ran.count("report") == 1
