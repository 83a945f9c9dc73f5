"""What the packaging files promise each other: pyproject, lock, environment.yml, Makefile."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
CLIENT = PYPROJECT["project"]["dependencies"]
DIRECT = {
    "client": CLIENT,
    **{f"[{name}]": entries for name, entries in EXTRAS.items()},
    "build": PYPROJECT["build-system"]["requires"],
    **{f"group {name}": entries for name, entries in PYPROJECT["dependency-groups"].items()},
}


@dataclass
class Locked:
    requirement: Requirement
    hashes: list[str] = field(default_factory=list)
    wanted_by: set[str] = field(default_factory=set)

    @property
    def version(self) -> str:
        (pin,) = self.requirement.specifier
        assert pin.operator == "==", f"{self.requirement} is not pinned"
        return pin.version


def read_lock() -> Iterator[Locked]:
    locked = None
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if not line.startswith((" ", "#")):
            locked = Locked(Requirement(line.rstrip(" \\")))
            yield locked
        elif locked and (found := re.fullmatch(r"    --hash=(\S+)(?: \\)?", line)):
            locked.hashes.append(found[1])
        elif locked and (found := re.fullmatch(r"    # +(?:via ?)?(.*)", line)):
            locked.wanted_by |= {found[1]} - {""}
        else:
            assert line.startswith("# "), f"the lock holds something unexpected: {line}"


LOCK = {canonicalize_name(entry.requirement.name): entry for entry in list(read_lock())}


def environment() -> tuple[list[str], list[str]]:
    """Return conda's and pip's entries of environment.yml."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = (entry["pip"] for entry in entries if isinstance(entry, dict))
    return [entry for entry in entries if isinstance(entry, str)], pip


def test_the_lock_pins_each_package_once_and_hashes_it() -> None:
    entries = list(read_lock())
    assert len(entries) == len(LOCK) > 100
    for entry in entries:
        assert entry.version
        assert entry.hashes, f"{entry.requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in entry.hashes)


@pytest.mark.parametrize(
    "name",
    ["requirements.lock", "environment.yml", "pyproject.toml", "Makefile", "Dockerfile", ".ci/run"],
)
def test_no_package_index_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"://|--(extra-)?index-url|--default-index|--find-links", text)


@pytest.mark.parametrize("where", DIRECT)
def test_the_lock_covers_every_direct_dependency(where: str) -> None:
    for text in DIRECT[where]:
        wanted = Requirement(text)
        locked = LOCK.get(canonicalize_name(wanted.name))
        assert locked, f"{wanted} of {where} is not locked; run `make lock`"
        assert wanted.specifier.contains(locked.version, prereleases=True), (
            f"{where} wants {wanted}, the lock has {locked.version}; run `make lock`"
        )


def test_the_client_alone_needs_neither_torch_nor_a_hypha_server() -> None:
    needed = {canonicalize_name(Requirement(text).name) for text in CLIENT}
    while more := {name for name, entry in LOCK.items() if entry.wanted_by & needed} - needed:
        needed |= more
    assert needed >= {"aioice", "snakemake-interface-common"}, "the walk found too little"
    assert not needed & {"torch", "hypha", "micro-sam", "ray", "scikit-image"}


def test_the_environment_pins_what_the_lock_pins() -> None:
    _, pip = environment()
    pins = [Requirement(entry) for entry in pip if not entry.startswith("-e ")]
    assert len(pins) > 100
    for pin in pins:
        assert str(pin.specifier) == f"=={LOCK[canonicalize_name(pin.name)].version}", (
            f"environment.yml has {pin}; run `make lock`"
        )


def test_the_environment_holds_the_project_and_all_it_needs_locally() -> None:
    conda, pip = environment()
    assert "-e .[local,outputs]" in pip
    assert "pip" in conda
    (python,) = (entry.removeprefix("python=") for entry in conda if entry != "pip")
    assert Requirement(f"python{PYPROJECT['project']['requires-python']}").specifier.contains(
        python
    )
    pins = {
        canonicalize_name(Requirement(entry).name) for entry in pip if not entry.startswith("-e ")
    }
    needed = {canonicalize_name(Requirement(text).name) for text in [*CLIENT, *EXTRAS["local"]]}
    assert needed <= pins, "run `make lock`"


def test_what_is_installed_is_what_is_locked() -> None:
    if not Path(sys.prefix).is_relative_to(ROOT):
        pytest.skip("the tests run in an environment that the Makefile did not make")
    installed = {
        canonicalize_name(found.name): found.version
        for found in importlib.metadata.distributions()
        if found.name not in {"pip", "setuptools", "samcourier"}
    }
    assert installed == {name: LOCK[name].version if name in LOCK else None for name in installed}


@pytest.mark.parametrize("package", ["samcourier", "samservice"])
def test_a_package_is_typed_and_of_the_project_version(package: str) -> None:
    module: Any = importlib.import_module(package)
    assert module.__version__ == PYPROJECT["project"]["version"]
    assert Path(module.__file__).with_name("py.typed").exists()


def test_the_wheel_holds_both_packages_whole_and_names_its_entry_points(tmp_path: Path) -> None:
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        names = set(wheel.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        registered = wheel.read(entry_points).decode()
    sources = {
        path.relative_to(folder).as_posix()
        for folder, package in (("workflow", "samcourier"), ("service", "samservice"))
        for folder in [ROOT / folder]
        for path in (folder / package).rglob("*.py")
    }
    assert sources <= names
    assert {
        f"samcourier/testing/{each}.py" for each in ("engines", "readers", "transports")
    } <= names
    assert not any("small_sam" in name for name in names)
    for group, entries in PYPROJECT["project"]["entry-points"].items():
        section = registered.partition(f"[{group}]\n")[2].partition("\n\n")[0]
        assert dict(line.split(" = ") for line in section.splitlines()) == entries


def test_the_citation_is_of_the_project_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    declared = PYPROJECT["project"]
    assert (cited["version"], cited["license"]) == (declared["version"], declared["license"])


def test_the_console_script_has_its_function() -> None:
    module, name = PYPROJECT["project"]["scripts"]["samcourier"].split(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_make_help_lists_every_command() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    said = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    assert [line.split()[1] for line in said.splitlines()] == phony.split()


@pytest.mark.parametrize(
    ("as_published", "status", "said"),
    [(True, 0, ""), (False, 1, "Hash mismatch for `courier-probe==1.0`")],
    ids=["right_hash_installs", "wrong_hash_is_refused"],
)
def test_uv_checks_the_hashes_of_constraints(
    as_published: bool, status: int, said: str, tmp_path: Path
) -> None:
    """The Makefile installs with the lock as constraints, and counts on this."""
    pytest.importorskip("uv", reason="the Makefile's environments have uv")
    wheel = tmp_path / "courier_probe-1.0-py3-none-any.whl"
    info = "courier_probe-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: courier-probe\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes() if as_published else b"another wheel").hexdigest()
    lock = tmp_path / "lock.txt"
    lock.write_text(f"courier-probe==1.0 \\\n    --hash=sha256:{digest}\n")
    command = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    command += ["--target", f"{tmp_path}/target", "--cache-dir", f"{tmp_path}/cache"]
    command += ["--no-config", "--offline", "--no-index", "--find-links", f"{tmp_path}"]
    done = subprocess.run(
        [*command, "--constraints", f"{lock}", "courier-probe"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert (tmp_path / "target" / info).exists() == as_published
