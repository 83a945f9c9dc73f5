"""The Hypha server and the canned service, each on its host of the lab."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import GATE_PORT, HYPHA_PORT, RELAY_ADDRESS, Lab
from namespaces import NetworkFailed


class Servers:
    """Started in order, relay first. ``endpoint`` is how the clients find the service.

    ``relay_restarted`` says whether Hypha was restarted since both were started.
    """

    def __init__(self, lab: Lab, mask: Path, directory: Path) -> None:
        self._lab = lab
        self._mask = mask
        self._directory = directory
        self._token = secrets.token_urlsafe(48)
        self._secrets = {
            "HYPHA_ROOT_TOKEN": self._token,
            "HYPHA_JWT_SECRET": secrets.token_urlsafe(32),
        }
        self._processes: list[subprocess.Popen[str]] = []
        self.endpoint: dict[str, Any] = {}
        self.relay_restarted = False

    def start(self) -> None:
        """Start both and wait until the service is registered. Raises NetworkFailed."""
        address = (RELAY_ADDRESS, str(HYPHA_PORT), str(GATE_PORT), str(self._directory))
        relay = self._spawn("relay", *address)
        self._hear(relay)
        service = self._spawn("service")
        settings = {
            "server_url": f"http://{RELAY_ADDRESS}:{HYPHA_PORT}",
            "token": self._token,
            "mask": str(self._mask),
        }
        self._tell(service, json.dumps(settings))
        self.endpoint = json.loads(self._hear(service))

    def restart_relay(self) -> None:
        """Kill Hypha and have it started again; returns at once."""
        self.relay_restarted = True
        self._tell(self._processes[0], "restart")

    def renew(self) -> None:
        """Stop both and start them again, so that no run inherits what a restart left."""
        self.close()
        self.start()
        self.relay_restarted = False

    def close(self) -> None:
        while self._processes:
            process = self._processes.pop()
            # Hypha ends with the relay's process, whose end closes Hypha's standard input.
            process.kill()
            process.wait()

    def _spawn(self, host: str, *arguments: str) -> subprocess.Popen[str]:
        script = Path(__file__).with_name(f"{host}.py")
        with (self._directory / f"{host}.log").open("a") as log:
            process = subprocess.Popen(
                self._lab.host(host).inside(sys.executable, str(script), *arguments),
                env=os.environ | self._secrets,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._processes.append(process)
        return process

    def _tell(self, process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()

    def _hear(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            logs = sorted(self._directory.glob("*.log"))
            said = "\n".join(log.read_text()[-2000:] for log in logs)
            raise NetworkFailed(f"a server of the benchmark ended: {said}")
        return line


@contextmanager
def running_servers(lab: Lab, mask: Path) -> Iterator[Servers]:
    """Start the servers, stop them at the end."""
    with tempfile.TemporaryDirectory(prefix="samcourier-networks-") as directory:
        servers = Servers(lab, mask, Path(directory))
        try:
            servers.start()
            yield servers
        finally:
            servers.close()
