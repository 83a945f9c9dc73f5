"""Say whether a release of micro-sam has SAM 2, and what is to do here then.

    python -m upstream.micro_sam_release

asks the package index of pip's settings for the newest release, pre-releases included. Exits 0 for
any answer, 1 without one.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def main() -> int:
    """Print the answer; return the exit status."""
    try:
        newest = newest_version()
        wheel, files = newest_wheel()
    except (OSError, subprocess.CalledProcessError, zipfile.BadZipFile, ValueError) as error:
        # pip's last line has the reason.
        reason = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
        print(f"micro-sam: the newest release cannot be looked up: {reason}")
        return 1
    for line in findings(required_version(PROJECT.read_text()), newest, wheel, files):
        print(f"micro-sam: {line}")
    return 0


def findings(required: str, newest: str, wheel: str, files: Iterable[str]) -> list[str]:
    """Return what the newest release is and what is to do.

    Args:
        required: Version that pyproject.toml asks for.
        newest: Version of the newest release.
        wheel: Version of the newest release with a wheel.
        files: Names of the files in that wheel.
    """
    has = {name for name in ("v1", "v2") if any(f.startswith(f"micro_sam/{name}/") for f in files)}
    layout = " and ".join(f"micro_sam.{name}" for name in sorted(has)) or "the layout of 1.8"
    said = [f"{wheel} has {layout}; samcourier requires {required}"]
    if newest != wheel:
        said.append(f"{newest} is newer and has no wheel: look into its sdist yourself")
    if wheel != required:
        said.append(
            f"TO DO: require {wheel} (pyproject.toml, engines/descriptions.py), then make lock and "
            "make test-microsam; engines/microsam_api.py is the place for a changed module"
        )
    if "v2" in has:
        said.append(
            "TO DO: micro-sam 2 is released: write its engine on micro_sam.v2 (SAM 2.1: hvit_t, "
            "hvit_s, hvit_b, hvit_l), with its modules in engines/microsam_api.py"
        )
    if len(said) == 1:
        said.append("nothing to do")
    return said


def required_version(project: str) -> str:
    """Return the version of micro-sam that the text of a pyproject.toml requires."""
    extra: list[str] = tomllib.loads(project)["project"]["optional-dependencies"]["microsam"]
    found = [re.fullmatch(r"micro-sam==(\S+)", requirement) for requirement in extra]
    versions = [match[1] for match in found if match]
    if len(versions) != 1:
        raise ValueError(f"the extra microsam is {extra}, expected one micro-sam==VERSION")
    return versions[0]


def newest_version() -> str:
    """Return the version of the newest release for this Python, from ``pip index``."""
    answer = _pip("index", "versions", "--pre", "micro-sam")
    found = re.match(r"micro[-_]sam \((\S+)\)", answer)
    if not found:
        raise ValueError(f"pip index said {answer!r}, expected micro-sam (VERSION)")
    return found[1]


def newest_wheel() -> tuple[str, list[str]]:
    """Download the newest wheel; return its version and the names of its files."""
    with tempfile.TemporaryDirectory() as folder:
        _pip(
            *("download", "--quiet", "--no-deps", "--pre", "--only-binary", ":all:"),
            *("--dest", folder, "micro-sam"),
        )
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.name.split("-")[1], zipfile.ZipFile(wheel).namelist()


def _pip(*arguments: str) -> str:
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
