"""Real services whose engine hangs, and services that get a signal amid their images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from samcourier.masks.omezarr import read_mask

from ..unit.installed import write_distribution

pytestmark = pytest.mark.live

COMMAND_TIMEOUT_S = 240
#: The service notices a hang after 0.9 of it.
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
    assert f"the stage {stage} did not end within 9 s" in hung["failure"]["message"]
    # A batch tells only that one of its images is to blame; alone, the image itself does.
    names = [each["error"]["name"] for each in hung["attempts"]]
    assert names.count("StageHung") == 1
    in_a_batch = names.count("SegmentationFailed")
    assert in_a_batch <= (1 if batch > 1 else 0)
    assert service_log.count("the service restarts") == 1 + in_a_batch, told
    assert done.returncode == 1, told
    # It ends with the run, and its Hypha server too.
    wait_until(lambda: not (results / "service" / "token").exists())
