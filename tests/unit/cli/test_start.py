"""What the command line imports before it works: as little as its command needs."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from samcourier.cli import COMMANDS, main

REPO = Path(__file__).parents[3]
#: Packages whose module has another name.
IMPORTED_AS = {"pyyaml": "yaml", "scikit_image": "skimage", "wrtc": "webrtc"}

#: Of samcourier, all that ``--help`` may import.
FOR_HELP = {"samcourier", "samcourier.cli", "samcourier.errors", "samcourier.formatting"}

#: Of the dependencies, all that a batch may import until it sends its first image: not hypha-rpc
#: and aiortc, which a WebSocket and a WebRTC channel need, nor zarr, which masks need.
FOR_BATCH = {
    *(
        "click",
        "httpx",
        "imagecodecs",
        "msgpack",
        "msgspec",
        "numcodecs",
        "numpy",
        "psutil",
        "tifffile",
    ),
    "uvloop",
}

_LIST_MODULES = """
import json, sys

def list_modules():
    print(json.dumps(sorted(sys.modules)), flush=True)
"""

_HELP = """
from samcourier.cli import main
main(["--help"], standalone_mode=False)
list_modules()
"""

_BATCH = """
import os
from samcourier import transports
from samcourier.transports import Replicas
from samcourier.testing.fake import FakeTransport
from samcourier.cli import main

class Service:
    async def segment_all(self, **arguments):
        assert "OPENBLAS_NUM_THREADS" not in os.environ
        list_modules()
        os._exit(0)

class OneService(Replicas):
    async def find(self):
        return {None: [FakeTransport(Service())]}

transports.Replicas = OneService
main(sys.argv[1:])
"""


def imported(script: str, *arguments: object) -> set[str]:
    """Run a script in a fresh interpreter and return the modules that it had imported."""
    done = subprocess.run(
        [sys.executable, "-c", _LIST_MODULES + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"HYPHA_TOKEN": "token"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def dependencies(modules: set[str]) -> set[str]:
    """Return which of samcourier's own dependencies are among the modules."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = itertools.chain.from_iterable(project["optional-dependencies"].values())
    words = (re.match(r"[\w-]+", each) for each in (*project["dependencies"], *extras))
    names = {word[0].replace("-", "_") for word in words if word}
    return {IMPORTED_AS.get(name, name) for name in names} & modules


def test_the_help_imports_click_alone() -> None:
    modules = imported(_HELP)
    assert dependencies(modules) == {"click"}
    assert {name for name in modules if name.startswith(("samcourier", "samservice"))} == FOR_HELP


@pytest.mark.parametrize("module", sorted({named.module for named in COMMANDS.values()}))
def test_a_command_imports_its_options_alone_before_it_runs(module: str) -> None:
    modules = imported(f"import samcourier.cli.{module}\nlist_modules()")
    assert dependencies(modules) <= {"click", "msgspec"}


def test_a_batch_imports_until_its_first_image_what_it_uses(tmp_path: Path) -> None:
    image, sheet = tmp_path / "a.tif", tmp_path / "images.tsv"
    tifffile.imwrite(image, np.arange(64, dtype=np.uint16).reshape(8, 8))
    sheet.write_text(f"image\tpath\na\t{image}\n")
    modules = imported(
        _BATCH,
        *("batch", sheet, "--batch", "0001", "--batch-size", "1", "--target", "existing"),
        *("--server-url", "http://127.0.0.1:9", "--service-id", "s"),
        *("--dataset-dir", tmp_path / "results", "--out", tmp_path / "0001.json"),
    )
    # samcourier.testing, where the fake is from, imports pytest.
    assert sorted(dependencies(modules) - FOR_BATCH - {"pytest"}) == []
    deploys = {name for name in modules if name.startswith("samcourier.deploy.")}
    assert deploys == {"samcourier.deploy.targets", "samcourier.deploy.token"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_of_a_command_begins_its_help(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").partition("\n\n")[0] == COMMANDS[name].summary


def test_the_help_lists_every_command() -> None:
    said = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    context = click.Context(main)
    commands = {name: main.get_command(context, name) for name in main.list_commands(context)}
    lines = [line.split(maxsplit=1) for line in said.partition("\nCommands:\n")[2].splitlines()]
    expected = [[name, each.get_short_help_str(65)] for name, each in commands.items() if each]
    assert lines == expected
