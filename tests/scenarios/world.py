"""Three hosts, real servers on two of them, and a person's folder on the third.

Hypha's server, the service and snakemake each have a network namespace, joined by links whose
packets the benchmark's router forwards (``bench/networks``).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
import yaml
from lab import GATE_PORT, HYPHA_PORT, RELAY_ADDRESS, Lab, built_lab
from namespaces import end
from regimes import Link, Regime
from servers import hear, spawn, tell

from samcourier.files.atomic import write_private
from samservice.engines.watershed import WatershedEngine

from .scenario import Scenario

REPO = Path(__file__).parents[2]
#: Every link with a delay, however small, is forwarded by the router, which can do the rest.
LINK = Link(200, delay_ms=0.2)
NETWORK = Regime("faults", LINK, LINK, LINK)

EDGE_PX = 160
BAD_IMAGE = "bad"
DATASET = "cells"
#: Short, since a fault may hold up any call; where nothing does, none is cut off on a busy machine.
ATTEMPT_S, UNHURRIED_ATTEMPT_S = 5, 60
IMAGE_S = 120
TOKEN_LIFETIME_S = 3600
RESULTS_MIB = 64
GONE_TIMEOUT_S = 30
JUMPING_CLOCK = Path(__file__).with_name("jumping_clock")


def blobs(seed: int) -> np.ndarray:
    """Return an (EDGE_PX, EDGE_PX) uint16 image with nine bright discs, no two images alike."""
    chance = np.random.default_rng(seed)
    image = chance.normal(200, 5, (EDGE_PX, EDGE_PX))
    y, x = np.mgrid[:EDGE_PX, :EDGE_PX]
    for row in (35, 80, 125):
        for column in (35, 80, 125):
            radius_px = chance.uniform(10, 15)
            image[(y - row) ** 2 + (x - column) ** 2 < radius_px**2] += chance.uniform(800, 2000)
    return image.astype(np.uint16)


class Servers:
    """Hypha's server and the service; either can be killed, stopped and started again."""

    def __init__(self, lab: Lab, directory: Path, on_start: Callable[[int], object]) -> None:
        self._lab = lab
        self._directory = directory
        self._on_start = on_start
        self._root_token = secrets.token_urlsafe(48)
        self._environment = os.environ | {
            "HYPHA_ROOT_TOKEN": self._root_token,
            "HYPHA_JWT_SECRET": secrets.token_urlsafe(32),
        }
        self._relay: subprocess.Popen[str] | None = None
        self._service: subprocess.Popen[str] | None = None
        # Held while the service is gone, so that nobody asks it for a token.
        self._service_is_there = threading.Lock()
        self.orders = directory / "orders.json"
        self.calls = directory / "calls.txt"
        self.address: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://{RELAY_ADDRESS}:{HYPHA_PORT}"

    def start(self) -> None:
        script = REPO / "bench" / "networks" / "relay.py"
        self._relay = self._spawn(
            "relay", script, RELAY_ADDRESS, HYPHA_PORT, GATE_PORT, self._directory
        )
        hear(self._relay, "ready", self._directory)
        self.start_service()

    def start_service(self) -> None:
        """Start the service and wait until it is registered."""
        self._service = self._spawn("service", Path(__file__).with_name("faulty_service.py"))
        given = {
            "server_url": self.url,
            "token": self._root_token,
            "orders": str(self.orders),
            "calls": str(self.calls),
        }
        tell(self._service, json.dumps(given))
        self.address = json.loads(hear(self._service, "address ", self._directory))

    def restart_service(self) -> None:
        """Start the service that :meth:`kill_service` ended."""
        self.start_service()
        self._service_is_there.release()

    def kill_service(self) -> None:
        assert self._service is not None
        self._service_is_there.acquire()
        end(self._service)

    def restart_hypha(self) -> None:
        """Kill Hypha's server and start it again; done when it answers."""
        assert self._relay is not None
        tell(self._relay, "restart")
        hear(self._relay, "ready", self._directory)

    def signal_service(self, number: signal.Signals) -> None:
        assert self._service is not None
        self._service.send_signal(number)

    def order(self, mode: str, duration_s: float) -> None:
        """Have the service misbehave from now on."""
        part = self.orders.with_suffix(".part")
        part.write_text(json.dumps({"mode": mode, "until_unix_s": time.time() + duration_s}))
        part.replace(self.orders)

    def behave(self) -> None:
        self.orders.unlink(missing_ok=True)

    def new_token(self, lifetime_s: int) -> str:
        with self._service_is_there:
            assert self._service is not None
            tell(self._service, f"token {lifetime_s}")
            return hear(self._service, "token ", self._directory)

    def call_count(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0

    def close(self) -> None:
        for process in (self._service, self._relay):
            if process is not None:
                end(process)

    def _spawn(self, host: str, script: Path, *arguments: object) -> subprocess.Popen[str]:
        log = self._directory / f"{host}.log"
        process = spawn(self._lab, host, script, *arguments, log=log, environment=self._environment)
        self._on_start(process.pid)
        return process


class World:
    """The hosts and servers, which live through many scenarios."""

    def __init__(self, lab: Lab, servers: Servers) -> None:
        self.lab = lab
        self.servers = servers

    def renew(self) -> None:
        """Bring network and servers back to their start, whatever a scenario left."""
        self.lab.restore()
        self.servers.behave()
        self.servers.calls.unlink(missing_ok=True)


@contextmanager
def built_world(directory: Path, on_start: Callable[[int], object]) -> Iterator[World]:
    """Build the hosts and start the servers; take all of it down at the end.

    ``on_start`` gets the pid of each server, also of one that a scenario starts anew.
    """
    with ExitStack() as stack:
        lab = stack.enter_context(built_lab(NETWORK))
        servers = Servers(lab, directory, on_start)
        stack.callback(servers.close)
        servers.start()
        yield World(lab, servers)


class Folder:
    """A person's folder: images, sheet, config, token; results on a small disk of their own."""

    def __init__(self, directory: Path, scenario: Scenario, world: World) -> None:
        self.directory = directory
        self.results = directory / "results" / DATASET
        self._scenario = scenario
        self._world = world
        self._clock = directory / "clock"
        self.images = {f"image_{n:02d}": blobs(scenario.seed * 1000 + n) for n in self._numbers}
        self._write_inputs()
        self.give_token(TOKEN_LIFETIME_S)

    @property
    def _numbers(self) -> range:
        return range(self._scenario.image_count)

    def _write_inputs(self) -> None:
        for folder in ("config", "tmp", "home", "results"):
            (self.directory / folder).mkdir(parents=True)
        rows = [("image", "path")]
        for image, pixels in self.images.items():
            tifffile.imwrite(self.directory / f"{image}.tif", pixels)
            rows.append((image, f"{image}.tif"))
        if self._scenario.has_bad_image:
            (self.directory / f"{BAD_IMAGE}.tif").write_bytes(b"II*\0 this is no TIFF")
            rows.insert(self._scenario.seed % len(rows) + 1, (BAD_IMAGE, f"{BAD_IMAGE}.tif"))
        sheet = "".join("\t".join(row) + "\n" for row in rows)
        (self.directory / "config/images.tsv").write_text(sheet)
        service = {
            "target": "existing",
            "server_url": self._world.servers.url,
            "workspace": self._world.servers.address["workspace"],
            "service_id": "faulty",
            "token_file": "token",
        }
        attempt_s = ATTEMPT_S if self._scenario.faults else UNHURRIED_ATTEMPT_S
        config: dict[str, Any] = {
            "dataset": DATASET,
            "sheet": "config/images.tsv",
            "batch_size": self._scenario.batch_size,
            "parameters": self._scenario.parameters,
            "service": service,
            "timeouts": {"attempt_s": attempt_s, "image_s": IMAGE_S},
        }
        (self.directory / "config/config.yaml").write_text(yaml.safe_dump(config))
        self.jump_clock(0)

    def give_token(self, lifetime_s: int) -> None:
        """Write a fresh token into the file that the config names."""
        write_private(self.directory / "token", self._world.servers.new_token(lifetime_s))

    def jump_clock(self, offset_s: int) -> None:
        """Let the wall clock of the run, not the machine's, jump to so far from the true one."""
        self._clock.write_text(str(offset_s))

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start snakemake on the client's host; what it says goes to a file of that name."""
        snakemake = Path(sys.executable).with_name("snakemake")
        command = [str(snakemake), "-s", str(REPO / "Snakefile"), "--cores", "2"]
        with (self.directory / f"{name}.out").open("wb") as out:
            return subprocess.Popen(
                self._world.lab.host("client").inside(*command),
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        environment = os.environ | {
            "TMPDIR": str(self.directory / "tmp"),
            "HOME": str(self.directory / "home"),
            "XDG_CACHE_HOME": str(self.directory / "home/.cache"),
            "PYTHONUNBUFFERED": "1",
        }
        if any(fault.kind == "jump_clock" for fault in self._scenario.faults):
            environment |= {"PYTHONPATH": str(JUMPING_CLOCK), "JUMPING_CLOCK": str(self._clock)}
        return environment

    def said(self, name: str) -> str:
        return (self.directory / f"{name}.out").read_text(errors="replace")

    def expected_labels(self) -> dict[str, np.ndarray]:
        """Return what the engine itself makes of every good image."""
        engine = WatershedEngine()
        parameters = dict(self._scenario.parameters)
        return {
            image: engine.segment(pixels, "YX", parameters) for image, pixels in self.images.items()
        }

    def processes(self, words: str = "") -> list[psutil.Process]:
        """Return the processes on the client's host whose command line holds ``words``."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if words in line and process.environ().get("TMPDIR") == str(self.directory / "tmp"):
                    found.append(process)
        return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]

    def wait_until_nothing_runs(self) -> list[str]:
        """Give what is ending its time; return the command lines of what is still there."""
        deadline_s = time.monotonic() + GONE_TIMEOUT_S
        while (left := self.processes()) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        lines = []
        for process in left:
            with suppress(psutil.Error):
                lines.append(" ".join(process.cmdline()))
                process.kill()
        return lines


@contextmanager
def own_folder(directory: Path, scenario: Scenario, world: World) -> Iterator[Folder]:
    """Make the scenario's folder, its results on a file system of their own that can fill up."""
    folder = Folder(directory, scenario, world)
    disk = str(directory / "results")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={RESULTS_MIB}m", "none", disk], check=True)
    try:
        yield folder
    finally:
        folder.wait_until_nothing_runs()
        subprocess.run(["umount", "--lazy", disk], check=True)
        shutil.rmtree(directory, ignore_errors=True)
