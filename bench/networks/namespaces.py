"""Network namespaces and what runs in them: made, found again after a crash, and taken down."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

PREFIX = "samc-"


class NetworkFailed(Exception):
    """A command that shapes the network failed; the text is what it said."""


def missing_for_namespaces() -> str | None:
    """Return what keeps this machine from having network namespaces, None when nothing does."""
    if os.geteuid() != 0:
        return "it needs root"
    tools = [tool for tool in ("ip", "tc", "nft") if shutil.which(tool) is None]
    if tools:
        return f"it needs {' and '.join(tools)} (packages iproute2, nftables)"
    if not Path("/dev/net/tun").exists():
        return "it needs /dev/net/tun"
    trial = Namespace("trial")
    try:
        trial.create()
        trial.run("nft", "add", "table", "inet", "trial")
    except NetworkFailed as error:
        return f"this machine allows no network namespaces ({error})"
    finally:
        trial.remove()
    return None


def run(*command: str, given: str | None = None) -> str:
    """Run a command to its end and return what it printed. Raises NetworkFailed."""
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    if done.returncode != 0:
        raise NetworkFailed(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        # What was not sent yet has nobody to take it.
        with suppress(BrokenPipeError):
            if pipe is not None:
                pipe.close()


class Namespace:
    """One host: a namespace with a loopback device and nothing else, which forwards nothing."""

    def __init__(self, host: str) -> None:
        self.name = f"{PREFIX}{os.getpid()}-{host}"

    def create(self) -> None:
        run("ip", "netns", "add", self.name)
        settings = (
            "echo 0 > /proc/sys/net/ipv4/ip_forward",
            # One address family, so that a way cannot be missed.
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
        )
        self.run("sh", "-c", "; ".join(settings))
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> None:
        run("ip", "-n", self.name, *arguments)

    def run(self, *command: str, given: str | None = None) -> str:
        return run("ip", "netns", "exec", self.name, *command, given=given)

    def inside(self, *command: str) -> list[str]:
        """Return the command line that starts ``command`` in this namespace."""
        return ["ip", "netns", "exec", self.name, *command]

    def remove(self) -> None:
        _remove(self.name)


def remove_leftovers() -> None:
    """Remove the namespaces of earlier runs whose process is no more, and what runs in them."""
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0] if line else ""
        owner = name.removeprefix(PREFIX).partition("-")[0]
        if name.startswith(PREFIX) and owner.isdigit() and not Path("/proc", owner).exists():
            _remove(name)


def _remove(name: str) -> None:
    if not Path("/run/netns", name).exists():
        return
    for pid in run("ip", "netns", "pids", name).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    run("ip", "netns", "delete", name)
