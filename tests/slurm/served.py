"""A user's folder on the cluster's shared file system, and the service that runs elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml

from samcourier.files.atomic import write_private
from samcourier.transports import Endpoint

from .cluster import Inside, here

REPO = Path(__file__).parents[2]
PROFILE = REPO / "workflow/profiles/slurm"
RUN_TIMEOUT_S = 600
#: What a cluster without accounts needs, and what is worth waiting for on one machine.
OPTIONS = [
    *("--slurm-no-account", "--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"),
    *("--latency-wait", "10", "--default-resources", "mem_mb=500", "runtime=10"),
]


class Folder:
    """Twelve images in batches of four, to be segmented on the cluster."""

    def __init__(
        self, directory: Path, served: Endpoint, inside: Inside = here, **service: Any
    ) -> None:
        self.directory = directory
        self._inside = inside
        self.results = directory / "results" / "cells"
        self.images = [f"i{number:02d}" for number in range(12)]
        (directory / "config").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for image in self.images:
            pixels = rng.integers(0, 4096, (64, 64), np.uint16)
            tifffile.imwrite(directory / f"{image}.tif", pixels)
        rows = "".join(f"{image}\t{image}.tif\n" for image in self.images)
        (directory / "config/images.tsv").write_text(f"image\tpath\n{rows}")
        write_private(directory / "token", str(served.token))
        self.service = {
            "target": "existing",
            **{name: getattr(served, name) for name in ("server_url", "workspace", "service_id")},
            "token_file": "token",
            **service,
        }
        self.configure()

    def configure(self, **changes: Any) -> None:
        config = {"dataset": "cells", "sheet": "config/images.tsv", "batch_size": 4}
        config |= {"service": self.service, **changes}
        (self.directory / "config/config.yaml").write_text(yaml.safe_dump(config))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start snakemake on the host that stands for the cluster's login node."""
        snakemake = Path(__file__).with_name("attentive_snakemake.py")
        command = [
            sys.executable,
            snakemake,
            "-s",
            REPO / "Snakefile",
            "--workflow-profile",
            PROFILE,
        ]
        with (self.directory / "said").open("w") as said:
            return subprocess.Popen(
                self._inside(*map(str, [*command, *OPTIONS, *arguments])),
                cwd=self.directory,
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """What the last snakemake has said so far, and what became of its jobs."""
        logs = sorted((self.directory / ".snakemake/slurm_logs").rglob("*.log"))
        last = [f"{path.name}: {path.read_text()[-1500:]}" for path in logs]
        return (self.directory / "said").read_text() + "\n".join(last)

    def end(self, process: subprocess.Popen[str], status: int = 0) -> str:
        """Wait for its end and return what it said."""
        try:
            process.wait(RUN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"it did not end\n{self.said}") from None
        assert process.returncode == status, self.said
        return (self.directory / "said").read_text()

    def masks(self) -> dict[str, int]:
        """Return when each mask was written: one that is kept keeps its time."""
        found = (self.results / "masks").glob("[!.]*.ome.zarr")
        return {path.name.partition(".")[0]: path.stat().st_mtime_ns for path in found}

    def wait_for(self, condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
        """Wait until something holds while the run goes on."""
        deadline_s = time.monotonic() + RUN_TIMEOUT_S
        while not condition():
            assert process.poll() is None, f"it ended too early\n{self.said}"
            assert time.monotonic() < deadline_s, f"waited in vain\n{self.said}"
            time.sleep(0.1)
