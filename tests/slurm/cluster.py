"""A real SLURM on this machine, as root: two nodes, one of them in the partition ``gpu``.

The controller and both nodes' daemons are real; the nodes share the host, so they have more cores
than it, and no GPU. Its configuration must lie in /etc/slurm: commands inside a job
look nowhere else.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

CONFIG = Path("/etc/slurm/slurm.conf")
OURS = "# Written by the tests of samcourier.\n"
NODES = {"cpu": "node1", "gpu": "node2"}
CPUS = 16
MEMORY_MB = 8000
START_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
MUNGE_SOCKET_DIRECTORY = Path("/run/munge")


Inside = Callable[..., list[str]]


def here(*command: str) -> list[str]:
    """Run ``command`` on this machine itself."""
    return list(command)


def why_not() -> str | None:
    """Return why no cluster can be started here, None if it can."""
    if os.geteuid() != 0:
        return "SLURM's daemons need root"
    missing = [each for each in ("munged", "slurmctld", "slurmd") if not shutil.which(each)]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install slurm-wlm munge"
    if CONFIG.exists() and not CONFIG.read_text().startswith(OURS):
        return f"{CONFIG} belongs to a cluster of this machine"
    return None


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def write_config(directory: Path) -> None:
    host, ports = socket.gethostname(), free_ports(3)
    settings = {
        "ClusterName": "samcourier",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": ports[0],
        "AuthType": "auth/munge",
        # A job that is put back waits this long for its old credential to expire.
        "AuthInfo": "cred_expire=5",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "StateSaveLocation": directory / "state",
        "SlurmdSpoolDir": directory / "spool-%n",
        "SlurmctldPidFile": directory / "slurmctld.pid",
        "SlurmdPidFile": directory / "slurmd-%n.pid",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "AccountingStorageType": "accounting_storage/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "JobCompType": "jobcomp/none",
        "MpiDefault": "none",
        # More cores than the machine has.
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 2,
        "MinJobAge": 86400,
        # A busy machine lets a daemon wait; the node of one is not lost by that.
        "SlurmdTimeout": 120,
        "MessageTimeout": 60,
        "KillWait": 2,
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    for (partition, node), port in zip(NODES.items(), ports[1:], strict=True):
        default = "YES" if partition == "cpu" else "NO"
        lines += [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
            f" CPUs={CPUS} RealMemory={MEMORY_MB}",
            f"PartitionName={partition} Nodes={node} Default={default} State=UP",
        ]
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(OURS + "\n".join(lines) + "\n")


@dataclass
class Cluster:
    """The running cluster; every process in ``daemons`` was started here, in this order.

    ``inside`` gives the command line that runs a command on the host of controller and nodes.
    """

    directory: Path
    allow_process: Callable[[int], None]
    inside: Inside = here
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        for name in ("state", *(f"spool-{node}" for node in NODES.values())):
            (self.directory / name).mkdir()
        write_config(self.directory)
        user = pwd.getpwnam("munge")
        MUNGE_SOCKET_DIRECTORY.mkdir(exist_ok=True)
        os.chown(MUNGE_SOCKET_DIRECTORY, user.pw_uid, user.pw_gid)
        # Its socket is a file, which hosts of one machine share; others may not enter a host.
        self._spawn("munged", ["munged", "--foreground", "--force"], user="munge")
        self.wait("munge's socket", lambda: self._says("", "munge", "--no-input"))
        self._spawn("slurmctld", self.inside("slurmctld", "-D", "-i"))
        for node in NODES.values():
            self.start_node(node)
        self.wait("idle nodes", self._are_nodes_idle)

    def start_node(self, node: str) -> None:
        self._spawn(node, self.inside("slurmd", "-D", "-N", node))

    def lose_node(self, node: str) -> None:
        """Kill a node's daemon and all its jobs at once, as a power cut does."""
        daemon, jobs = self.daemons.pop(node), self.job_processes(node)
        daemon.kill()
        for process in jobs:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        daemon.wait()
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def job_processes(self, node: str) -> list[psutil.Process]:
        """Return the processes of a node's jobs, those of SLURM that watch them first."""
        jobs, watching = [], set()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("SLURMD_NODENAME") == node:
                    jobs.append(process)
                    watching |= {p for p in process.parents() if p.name() == "slurmstepd"}
        return [*watching, *jobs]

    def run(self, *command: str) -> str:
        """Run one of SLURM's commands and return what it says."""
        done = subprocess.run(
            self.inside(*command),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def jobs(self, *states: str) -> dict[str, str]:
        """Return {job id: its comment} of the jobs in any of these states."""
        lines = self.run("squeue", "--noheader", f"--states={','.join(states)}", "-o", "%i|%k")
        return dict(line.split("|", 1) for line in lines.splitlines())

    def stop(self) -> None:
        try:
            if "slurmctld" in self.daemons:
                self.run("scancel", "--user=root")
                self.wait("an empty queue", lambda: not self.jobs("running", "completing"))
        finally:
            for name in reversed(list(self.daemons)):
                _end(self.daemons.pop(name))
            CONFIG.unlink(missing_ok=True)

    def _spawn(self, name: str, command: list[str], user: str | None = None) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=user, group=user
            )
        self.allow_process(self.daemons[name].pid)

    def _are_nodes_idle(self) -> bool:
        return self._says("idle\n" * len(NODES), "sinfo", "--noheader", "--Node", "-o", "%T")

    def _says(self, expected: str, *command: str) -> bool:
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, check=False)
        return done.returncode == 0 and (not expected or done.stdout == expected)

    def wait(
        self, what: str, condition: Callable[[], bool], timeout_s: float = START_TIMEOUT_S
    ) -> None:
        """Wait until something holds; the daemons' last words tell when it does not."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            logs = "\n".join(
                f"{path.name}: {path.read_text()[-500:]}" for path in self.directory.glob("*.log")
            )
            assert time.monotonic() < deadline_s, f"waited in vain for {what}\n{logs}"
            time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running_cluster(
    directory: Path,
    allow_process: Callable[[int], None] = lambda pid: None,
    inside: Inside = here,
) -> Iterator[Cluster]:
    """Start a cluster; end every daemon and job of it after."""
    cluster = Cluster(directory, allow_process, inside)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
