"""Real services whose engine hangs, and services that get a signal amid their images."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from samcourier.deploy.local.supervisor import running_hypha
from samcourier.files.atomic import write_private
from samcourier.masks.omezarr import read_mask

from ..unit.installed import write_distribution

pytestmark = pytest.mark.live

COMMAND_TIMEOUT_S = 240
#: The service notices a hang after 0.8 of it.
ATTEMPT_S = 10
HANGS = 7777

ENTRY_POINTS = "[samcourier.engines]\nmoody = moody:MOODY\n"
DESCRIPTION = """
from samservice.contract.engine_description import EngineDescription

MOODY = EngineDescription(
    name="moody",
    summary="labels bright pixels, and hangs where it is told",
    build="moody_engine:MoodyEngine",
    options={
        "hangs_in": {"default": "infer", "type": "string", "description": "a stage"},
        "batch": {"default": 1, "type": "integer", "description": "largest batch"},
        "stage_s": {"default": 0.0, "type": "number", "description": "seconds of each stage"},
        "notes": {"default": "", "type": "string", "description": "file for the stages"},
    },
)
"""
ENGINE = f'''
import os
import time

import numpy as np

from samservice.engines.stages import Prepared, segment_in_stages


class MoodyEngine:
    """Stages that last for stage_s; the one named hangs_in never ends for a marked image."""

    def __init__(self, hangs_in="infer", batch=1, stage_s=0.0, notes=""):
        self.hangs_in, self.batch, self.stage_s, self.notes = hangs_in, batch, stage_s, notes

    def describe(self):
        return {{
            "engine": "moody", "model": "none", "model_sha256": None, "segmentation_version": 1,
            "versions": {{}}, "embeddings": False, "device": "cpu", "parameters": {{}},
            "max_batch": self.batch, "device_threads": 0, "inference_parameters": [],
        }}

    def check_parameters(self, parameters):
        pass

    def segment(self, image, axes, parameters, statistics=None):
        return segment_in_stages(self, image, axes, parameters, statistics)

    def prepare(self, image, axes, parameters, statistics=None):
        self.live("prepare", [image])
        return Prepared(image.astype(np.int64), image.shape)

    def infer(self, prepared):
        self.live("infer", [each.content for each in prepared])
        return [each.content for each in prepared]

    def finish(self, state, parameters):
        self.live("finish", [state])
        return (state > 100).astype(np.uint32)

    def max_batch(self, batch_key):
        return self.batch

    def working_bytes(self, shape, axes):
        return 1 << 20

    def encode(self, image, axes):
        raise NotImplementedError

    def segment_embedding(self, embedding, parameters):
        raise NotImplementedError

    def live(self, stage, images):
        values = [int(each.max()) for each in images]
        if self.notes:
            with open(self.notes, "a") as notes:
                notes.write(f"{{os.getpid()}} {{stage}} {{values}}\\n")
        time.sleep(self.stage_s)
        while stage == self.hangs_in and {HANGS} in values:
            time.sleep(1)
'''


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of commands that know the engine."""
    site = tmp_path / "site"
    write_distribution(
        site, "samcourier-moody", ENTRY_POINTS, moody=DESCRIPTION, moody_engine=ENGINE
    )
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {name: value for name, value in os.environ.items() if name != "HYPHA_TOKEN"} | {
        "PYTHONPATH": path
    }


def make_images(folder: Path, count: int, marked: int | None = None) -> None:
    folder.mkdir()
    for number in range(count):
        image = np.full((40, 40), 50, np.uint16)
        image[4 : 10 + number, 4:20] = HANGS if number == marked else 1000 + number
        tifffile.imwrite(folder / f"image{number}.tif", image)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "samcourier.cli", *map(str, arguments)]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + COMMAND_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def read_logs(results: Path) -> dict[str, dict[str, Any]]:
    return {
        (log := json.loads(path.read_text()))["image"]: log for path in results.glob("logs/*.json")
    }


@pytest.mark.parametrize(
    ("stage", "batch"), [("prepare", 1), ("infer", 1), ("finish", 1), ("infer", 4)]
)
def test_a_run_survives_an_image_with_which_the_engine_hangs(
    tmp_path: Path, environment: dict[str, str], stage: str, batch: int
) -> None:
    data, results = tmp_path / "data", tmp_path / "results"
    make_images(data, 8, marked=3)
    options = {"hangs_in": stage, "batch": batch, "stage_s": 0.2}
    done = subprocess.run(
        command(
            *("segment", data, "--dataset-dir", results, "--engine", "moody"),
            *("--engine-options", json.dumps(options), "--attempt-timeout-s", ATTEMPT_S),
        ),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    service_log = (results / "service" / "service.log").read_text()
    told = done.stdout + service_log
    logs = read_logs(results)
    assert set(logs) == {f"image{n}" for n in range(8)}, told
    hung = logs.pop("image3")
    assert {log["status"] for log in logs.values()} == {"done"}, told
    for number, name in [(n, f"image{n}") for n in range(8) if n != 3]:
        mask = read_mask(results / "masks" / f"{name}.ome.zarr")
        assert int((mask > 0).sum()) == (6 + number) * 16
    assert (hung["failure"]["kind"], hung["failure"]["name"]) == ("image", "StageHung"), told
    assert f"the stage {stage} did not end within 8 s" in hung["failure"]["message"]
    # A batch tells only that one of its images is to blame; alone, the image itself does.
    names = [each["error"]["name"] for each in hung["attempts"]]
    assert names.count("StageHung") == 1
    in_a_batch = names.count("SegmentationFailed")
    assert in_a_batch <= (1 if batch > 1 else 0)
    assert service_log.count("the service restarts") == 1 + in_a_batch, told
    assert done.returncode == 1, told
    # It ends with the run, and its Hypha server too.
    wait_until(lambda: not (results / "service" / "token").exists())


@pytest.fixture(scope="module")
def hypha(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of a Hypha server, and the file of a token."""
    directory = tmp_path_factory.mktemp("hypha")
    token = secrets.token_urlsafe(48)
    with asyncio.Runner() as runner:
        running = running_hypha(directory, token)
        url, _ = runner.run(running.__aenter__())
        try:
            write_private(directory / "token", token)
            yield url, directory / "token"
        finally:
            runner.run(running.__aexit__(None, None, None))


@contextmanager
def serving(
    hypha: tuple[str, Path], log: Path, environment: dict[str, str], **options: object
) -> Iterator[subprocess.Popen[bytes]]:
    url, token = hypha
    arguments = ["--server-url", url, "--token-file", token, "--service-id", "moody"]
    arguments += ["--engine", "moody", "--engine-options", json.dumps(options)]
    arguments += ["--max-stage-s", 8]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command("serve", *arguments), stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    try:
        wait_until(lambda: "ready: " in log.read_text() or process.poll() is not None)
        yield process
    finally:
        process.kill()
        process.wait()


def start_run(
    hypha: tuple[str, Path],
    data: Path,
    results: Path,
    environment: dict[str, str],
    transport: str = "auto",
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(
            *("segment", data, "--dataset-dir", results, "--target", "existing"),
            *("--server-url", hypha[0], "--token-file", hypha[1], "--service-id", "moody"),
            *("--attempt-timeout-s", ATTEMPT_S, "--transport", transport),
        ),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )


def stages(notes: Path) -> list[tuple[int, str, list[int]]]:
    """Return (process, stage, values of the images) of each stage that began."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [
        (int(process), stage, json.loads(values))
        for process, stage, values in (line.split(" ", 2) for line in lines)
    ]


@pytest.mark.parametrize("transport", ["auto", "websocket", "webrtc"])
def test_at_sigterm_the_images_in_each_stage_end_and_another_service_gets_the_others(
    tmp_path: Path, environment: dict[str, str], hypha: tuple[str, Path], transport: str
) -> None:
    data, results, notes = tmp_path / "data", tmp_path / "results", tmp_path / "notes"
    make_images(data, 12)
    options = {"stage_s": 0.7, "notes": str(notes)}
    with serving(hypha, tmp_path / "first.log", environment, **options) as first:
        run = start_run(hypha, data, results, environment, transport)
        wait_until(lambda: sum(stage == "finish" for _, stage, _ in stages(notes)) >= 2)
        first.send_signal(signal.SIGTERM)
        with serving(hypha, tmp_path / "second.log", environment, **options) as second:
            told, _ = run.communicate(timeout=COMMAND_TIMEOUT_S)
            assert first.wait(COMMAND_TIMEOUT_S) == 0, (tmp_path / "first.log").read_text()
            assert run.returncode == 0, told
            assert {log["status"] for log in read_logs(results).values()} == {"done"}
            begun = stages(notes)
    by_first = {values[0] for process, _, values in begun if process == first.pid}
    ended_by_first = [v for p, stage, [v] in begun if p == first.pid and stage == "finish"]
    by_second = {values[0] for process, _, values in begun if process == second.pid}
    # What was in the pipeline went through it, and its answer arrived: nothing was done twice.
    assert sorted(by_first) == sorted(ended_by_first)
    assert by_first.isdisjoint(by_second) and len(by_first | by_second) == 12
    assert by_first and by_second


def test_a_served_engine_that_hangs_is_replaced_under_its_full_id(
    tmp_path: Path, environment: dict[str, str], hypha: tuple[str, Path]
) -> None:
    data, results, log = tmp_path / "data", tmp_path / "results", tmp_path / "serve.log"
    make_images(data, 6, marked=2)
    with serving(hypha, log, environment) as process:
        run = start_run(hypha, data, results, environment)
        told, _ = run.communicate(timeout=COMMAND_TIMEOUT_S)
        failed = {name for name, log in read_logs(results).items() if log["status"] != "done"}
        assert (run.returncode, failed) == (1, {"image2"}), told
        assert process.poll() is None
    ready = [line for line in log.read_text().splitlines() if line.startswith("ready: ")]
    assert len(ready) == 2 and ready[0] == ready[1], log.read_text()
