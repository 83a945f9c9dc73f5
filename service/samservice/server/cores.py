"""The processor cores that this process may use, and how many threads finish images on them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

#: More threads than this gain little: the device is the limit then.
MAX_FINISH_THREADS = 8

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(
    environment: Mapping[str, str] = os.environ,
    cgroups: Path = CGROUPS,
    own_cgroups: Path = Path("/proc/self/cgroup"),
) -> int:
    """Return the smallest of the limits on this process's cores, at least 1.

    The limits are the processor affinity, the quota of the cgroup and its parents (versions 1 and
    2, in ``cgroups``; ``own_cgroups`` names this process's), and SLURM's cores for a task.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    limits: list[float] = [len(affinity(0)) if affinity else os.cpu_count() or 1]
    slurm_cores = environment.get("SLURM_CPUS_PER_TASK", "")
    if slurm_cores.isdecimal():
        limits.append(int(slurm_cores))
    limits += _cgroup_quotas(cgroups, own_cgroups)
    return max(math.floor(min(limits)), 1)


def finish_threads(device_threads: int, cores: int) -> int:
    """Return how many threads finish images, when the engine computes with ``device_threads``."""
    return max(min(cores - device_threads, MAX_FINISH_THREADS), 1)


def _cgroup_quotas(cgroups: Path, own_cgroups: Path) -> list[float]:
    """Return the quotas in cores, see the kernel's cgroup-v2.rst and sched-bwc.rst."""
    try:
        lines = own_cgroups.read_text().splitlines()
    except OSError:
        return []
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        parts = Path(path.lstrip("/"))
        for part in (parts, *parts.parents):
            if not controllers:
                words = _words(cgroups / part / "cpu.max")
            elif "cpu" in controllers.split(","):
                folder = cgroups / "cpu" / part
                words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
            else:
                break
            if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
                quotas.append(int(words[0]) / int(words[1]))
    return [quota for quota in quotas if quota > 0]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
