"""The packages of docs/extending.md install, are found, and pass the suites of their kind."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from samcourier.testing import EngineTests, ReaderTests, TransportTests

EMBEDDINGS_TEST = "test_an_embedding_in_stages_gives_the_same_labels"
SUITES = {
    "samcourier-threshold": EngineTests,
    "samcourier-npy": ReaderTests,
    "samcourier-socket": TransportTests,
}


def test_the_page_has_a_package_of_each_kind(documented_packages: Path) -> None:
    assert {path.name for path in documented_packages.iterdir()} == set(SUITES)


def names_in(suite: type) -> set[str]:
    return {name for name in dir(suite) if name.startswith("test_")}


def test_each_package_passes_the_suite_of_its_kind(
    extended_python: Path, documented_packages: Path
) -> None:
    done = subprocess.run(
        [extended_python, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:xdist", "."],
        cwd=documented_packages,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    for package, suite in SUITES.items():
        ended = re.findall(rf"^{package}/.*::(test_\w+).* (PASSED|SKIPPED)", done.stdout, re.M)
        assert {name for name, _ in ended} == names_in(suite)
        # The documented engine has no embeddings.
        assert {name for name, how in ended if how == "SKIPPED"} == (
            {EMBEDDINGS_TEST} if suite is EngineTests else set()
        )


def test_what_the_packages_offer_is_known_by_its_name(extended_python: Path) -> None:
    code = """
import json
from samcourier.images.readers.reader import installed_readers
from samcourier.transports.description import known_transports
from samservice.contract.engine_description import known_engines
from samservice.engines.base import build_engine

print(json.dumps([
    known_engines(),
    known_transports(),
    [each.name for each in installed_readers().readers],
    build_engine("threshold", {"dark": True}).describe(),
]))
"""
    engines, transports, readers, described = json.loads(
        subprocess.check_output([extended_python, "-c", code], text=True, timeout=60)
    )
    assert engines == ["watershed", "microsam", "cellpose", "threshold"]
    assert transports == ["websocket", "webrtc", "http", "socket"]
    assert readers == ["npy"]
    assert described["model"] == "darker"
    assert described["versions"].keys() == {"numpy", "samcourier-threshold"}
    assert described["versions"]["samcourier-threshold"] == "1.0"
    assert described["distribution"] == {"name": "samcourier-threshold", "version": "1.0"}
