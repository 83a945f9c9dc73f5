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
from namespaces import NetworkFailed, end


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
        relay = self._spawn("relay", RELAY_ADDRESS, HYPHA_PORT, GATE_PORT, self._directory)
        hear(relay, "ready", self._directory)
        service = self._spawn("service")
        settings = {
            "server_url": f"http://{RELAY_ADDRESS}:{HYPHA_PORT}",
            "token": self._token,
            "mask": str(self._mask),
        }
        tell(service, json.dumps(settings))
        self.endpoint = json.loads(hear(service, "endpoint ", self._directory))

    def restart_relay(self) -> None:
        """Kill Hypha and have it started again; returns at once."""
        self.relay_restarted = True
        tell(self._processes[0], "restart")

    def renew(self) -> None:
        """Stop both and start them again, so that no run inherits what a restart left."""
        self.close()
        self.start()
        self.relay_restarted = False

    def close(self) -> None:
        while self._processes:
            # Hypha ends with the relay's process, whose end closes Hypha's standard input.
            end(self._processes.pop())

    def _spawn(self, host: str, *arguments: object) -> subprocess.Popen[str]:
        script = Path(__file__).with_name(f"{host}.py")
        log, environment = self._directory / f"{host}.log", os.environ | self._secrets
        process = spawn(self._lab, host, script, *arguments, log=log, environment=environment)
        self._processes.append(process)
        return process


def spawn(
    lab: Lab, host: str, script: Path, *arguments: object, log: Path, environment: dict[str, str]
) -> subprocess.Popen[str]:
    """Start a script on a host of the lab; what it says on standard error goes to ``log``."""
    command = [sys.executable, str(script), *map(str, arguments)]
    with log.open("a") as stream:
        return subprocess.Popen(
            lab.host(host).inside(*command),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Write a line to a process's standard input."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str], word: str, logs: Path) -> str:
    """Return the rest of the next line that begins with ``word``; libraries print others.

    Raises NetworkFailed, with the ends of the logs in the folder ``logs``, when it has ended.
    """
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line.removeprefix(word).strip()
    said = "\n".join(log.read_text()[-2000:] for log in sorted(logs.glob("*.log")))
    raise NetworkFailed(f"a server ended: {said}")


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
