"""A whole run on a stock worker: snakemake brings the app up, repeats, and undeploy ends it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from samcourier.masks.omezarr import read_mask

from .real_worker import Worker, connected

pytestmark = [pytest.mark.bioengine, pytest.mark.timeout(900)]

REPO = Path(__file__).parents[2]
IMAGES = ("near", "far")
CELLS = 9


def squares(offset_px: int) -> np.ndarray:
    """Return a (256, 256) uint16 image with nine bright squares."""
    image = np.full((256, 256), 100, np.uint16)
    for y in range(offset_px, 240, 80):
        for x in range(offset_px, 240, 80):
            image[y : y + 30, x : x + 30] = 2000
    return image


class Lab:
    """A user's folder whose config names the worker; the token is in the environment alone."""

    def __init__(self, directory: Path, worker: Worker) -> None:
        self.directory = directory
        self.results = directory / "results" / "cells"
        self._token = worker.owner_token
        (directory / "config").mkdir()
        rows = [f"{name}\t{name}.tif" for name in IMAGES]
        (directory / "config/images.tsv").write_text("\n".join(["image\tpath", *rows]) + "\n")
        for number, name in enumerate(IMAGES):
            tifffile.imwrite(directory / f"{name}.tif", squares(10 + 5 * number))
        config = {
            "dataset": "cells",
            "sheet": "config/images.tsv",
            "service": {"target": "bioengine", "server_url": worker.server_url},
        }
        (directory / "config/config.yaml").write_text(yaml.safe_dump(config))
        self.service = ("--target", "bioengine", "--server-url", worker.server_url)
        self.service += ("--dataset-dir", str(self.results))

    async def snakemake(self, *targets: str) -> str:
        return await self._run("snakemake", "-s", str(REPO / "Snakefile"), "--cores", "2", *targets)

    async def samcourier(self, step: str, *arguments: str, status: int = 0) -> str:
        return await self._run("samcourier", step, *self.service, *arguments, status=status)

    def files_with_the_token(self) -> list[Path]:
        files = [path for path in self.directory.rglob("*") if path.is_file()]
        return [path for path in files if self._token.encode() in path.read_bytes()]

    async def _run(self, program: str, *arguments: str, status: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name(program),
            *arguments,
            cwd=self.directory,
            env=os.environ | {"HYPHA_TOKEN": self._token},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await process.communicate()
        said = printed.decode()
        assert process.returncode == status, said
        assert self._token not in said
        return said


async def statuses(worker: Worker) -> dict[str, Any]:
    """Return what the worker says of every application, without what changes by itself."""
    async with connected(worker, worker.owner_token) as server:
        bioengine = await server.get_service(worker.service_id)
        found = await bioengine.get_app_status(logs_tail=0)
    return {
        name: {key: status.get(key) for key in ("status", "start_time", "artifact_id", "version")}
        for name, status in found.items()
        if status["status"] != "NOT_RUNNING"
    }


async def test_a_run_brings_the_app_up_once_and_undeploy_takes_it_away(
    worker: Worker, tmp_path: Path
) -> None:
    before = await statuses(worker)
    lab = Lab(tmp_path, worker)

    begun = time.monotonic()
    said = await lab.snakemake()
    print(said)
    print(f"two images from nothing: {time.monotonic() - begun:.0f} s")
    masks = {name: lab.results / "masks" / f"{name}.ome.zarr" for name in IMAGES}
    assert {name: int(read_mask(path).max()) for name, path in masks.items()} == dict.fromkeys(
        IMAGES, CELLS
    )
    verdict = json.loads((lab.results / "service.json").read_text())
    works = {name: each["works"] for name, each in verdict["transports"].items()}
    assert works == {"websocket": True, "webrtc": True, "http": True}
    deployed = await statuses(worker)
    (application_id,) = set(deployed) - set(before)

    assert "Nothing to be done" in await lab.snakemake()
    begun = time.monotonic()
    again = (await lab.samcourier("deploy", "--out", "endpoint.json")).splitlines()
    print(f"deploy again: {time.monotonic() - begun:.1f} s")
    assert f"application {application_id} exists already, state RUNNING" in again
    assert len(again) == 4
    named = ("--application-id", application_id)
    refused = await lab.samcourier(
        "deploy", *named, "--memory-mb", "100", "--out", "endpoint.json", status=1
    )
    assert "runs with other settings (memory_mb)" in refused.splitlines()[-1]
    too_large = await lab.samcourier("deploy", "--cpus", "99", "--out", "endpoint.json", status=1)
    assert "Insufficient resources" in too_large.splitlines()[-1]
    print(too_large.splitlines()[-1])
    assert await statuses(worker) == deployed

    print(await lab.snakemake("undeploy"))
    assert await statuses(worker) == before
    assert lab.files_with_the_token() == []
