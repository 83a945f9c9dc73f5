"""The limits on this process's cores, from affinity, cgroups and SLURM."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from samservice.server.cores import finish_threads, usable_cores


@pytest.mark.parametrize(
    ("files", "own", "environment", "expected"),
    [
        ({}, "", {}, 64),
        ({}, "", {"SLURM_CPUS_PER_TASK": "4"}, 4),
        ({}, "", {"SLURM_CPUS_PER_TASK": "many"}, 64),
        ({"a/b/cpu.max": "300000 100000"}, "0::/a/b", {}, 3),
        ({"a/b/cpu.max": "max 100000"}, "0::/a/b", {}, 64),
        # A parent's quota holds for its children.
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, "0::/a/b", {}, 1),
        ({"cpu.max": "50000 100000"}, "0::/", {}, 1),
        (
            {"cpu/job/cpu.cfs_quota_us": "800000", "cpu/job/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/job\n1:name=systemd:/x", {}, 8,
        ),
        (
            {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/job", {}, 64,
        ),
        ({"a/cpu.max": "600000 100000"}, "0::/a", {"SLURM_CPUS_PER_TASK": "5"}, 5),
    ],
)  # fmt: skip
def test_the_smallest_limit_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    own: str,
    environment: dict[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for name, text in files.items():
        path = tmp_path / "cgroups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    own_file = tmp_path / "own"
    own_file.write_text(own)
    assert usable_cores(environment, tmp_path / "cgroups", own_file) == expected


def test_the_affinity_of_the_process_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert usable_cores({}, tmp_path, tmp_path / "none") == 2


@pytest.mark.parametrize(
    ("device_threads", "cores", "expected"),
    [(0, 2, 2), (0, 16, 8), (2, 2, 1), (4, 16, 8), (12, 16, 4), (16, 8, 1)],
)
def test_the_threads_of_the_engine_are_left_free(
    device_threads: int, cores: int, expected: int
) -> None:
    assert finish_threads(device_threads, cores) == expected
