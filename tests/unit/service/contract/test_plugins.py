"""Engines, readers and transports are found by entry points, and one door stands for all."""

from __future__ import annotations

import logging
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from samcourier.images.readers.built_in import BUILT_IN
from samcourier.images.readers.reader import READERS, Reader
from samcourier.transports.description import TRANSPORTS
from samservice.contract.engine_description import (
    ENGINES,
    check_engine_name,
    describe_engine,
    known_engines,
)
from samservice.contract.errors import WrongParameter
from samservice.contract.plugins import Plugin, PluginGroup, PluginProblem, scan

from ...installed import Install

ROOT = Path(__file__).parents[4]
GROUPS: list[PluginGroup[Any]] = [ENGINES, READERS, TRANSPORTS]

ENGINE = """
from samservice.contract.engine_description import EngineDescription

DESCRIPTION = EngineDescription(
    "{name}", "of a test", "{name}_model:build", requirements=("torch",)
)
"""


def offering(install: Install, name: str, by: str, module: str | None = None) -> None:
    """Install a distribution with an engine ``name``, whose model cannot be imported."""
    module = module or name
    entry = f"[samcourier.engines]\n{name} = {module}:DESCRIPTION\n"
    install(by, entry, **{module: ENGINE.format(name=name)})


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.noun)
def test_the_built_in_ones_are_registered_as_all_others_are(group: PluginGroup[Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][group.group] == group.built_in
    for name in group.built_in:
        assert group.load(name).name == name
        assert group.find(name).distribution == "samcourier"


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.noun)
def test_the_built_in_ones_are_found_without_any_metadata(
    group: PluginGroup[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a BioEngine worker samservice is no distribution."""
    monkeypatch.setattr("samservice.contract.plugins.metadata.distributions", lambda: iter(()))
    scan.cache_clear()
    try:
        assert group.names() == tuple(group.built_in)
        for name in group.built_in:
            assert group.load(name).name == name
    finally:
        scan.cache_clear()


def test_the_built_in_readers_are_tried_in_the_order_of_their_table() -> None:
    assert [reader.name for reader in BUILT_IN] == list(READERS.built_in)
    assert [READERS.load(name) for name in READERS.built_in] == list(BUILT_IN)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.noun)
def test_what_a_description_builds_is_there(group: PluginGroup[Any]) -> None:
    for name in group.built_in:
        described = group.load(name)
        value = described.open if isinstance(described, Reader) else described.build
        assert callable(pkgutil.resolve_name(value))


def test_an_installed_engine_is_known_and_described_without_its_model(install: Install) -> None:
    offering(install, "cells", "courier-cells")
    assert known_engines() == ("watershed", "microsam", "cellpose", "cells")
    check_engine_name("cells")
    assert "cells" not in sys.modules
    assert describe_engine("cells").requirements == ("torch",)
    assert ENGINES.find("cells").origin == "courier-cells 1.0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("watershd", "engine 'watershd' is unknown, did you mean 'watershed'? expected one of"),
        ("zzz", "engine 'zzz' is unknown, expected one of watershed, microsam, cellpose, cells"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_and_the_closest(
    install: Install, name: str, message: str
) -> None:
    offering(install, "cells", "courier-cells")
    with pytest.raises(WrongParameter) as caught:
        check_engine_name(name)
    assert caught.value.message.startswith(message)


def test_a_name_that_two_distributions_offer_is_refused_naming_both(install: Install) -> None:
    offering(install, "cells", "courier-cells")
    offering(install, "cells", "other-cells", module="other")
    offering(install, "nuclei", "courier-nuclei")
    with pytest.raises(WrongParameter) as caught:
        check_engine_name("cells")
    assert {"courier-cells 1.0", "other-cells 1.0"} == set(
        caught.value.message.partition(" by ")[2].partition(",")[0].split(" and by ")
    )
    assert describe_engine("nuclei").name == "nuclei"


def test_no_distribution_shadows_a_built_in_one(install: Install) -> None:
    offering(install, "watershed", "my-watershed", module="mine")
    with pytest.raises(WrongParameter) as caught:
        check_engine_name("watershed")
    assert "samcourier" in caught.value.message and "my-watershed 1.0" in caught.value.message
    check_engine_name("microsam")


@pytest.mark.parametrize(
    ("value", "source", "message"),
    [
        ("broken:DESCRIPTION", "import no_such_module", "No module named 'no_such_module'"),
        ("broken:DESCRIPTION", "1 / 0", "ZeroDivisionError"),
        ("broken:DESCRIPTION", "", "AttributeError"),
        ("broken: ?", "", "ValueError"),
        ("broken:DESCRIPTION", "DESCRIPTION = 7", "is 7, expected EngineDescription with the name"),
        (
            "broken:DESCRIPTION",
            ENGINE.format(name="another"),
            "expected EngineDescription with the name 'cells'",
        ),
    ],
)
def test_a_broken_description_names_its_distribution_and_breaks_no_other(
    install: Install, value: str, source: str, message: str
) -> None:
    install("courier-broken", f"[samcourier.engines]\ncells = {value}\n", broken=source)
    assert "cells" in known_engines()
    with pytest.raises(WrongParameter) as caught:
        describe_engine("cells")
    assert caught.value.message.startswith("engine 'cells' of courier-broken 1.0")
    assert message in caught.value.message and "\n" not in caught.value.message
    assert describe_engine("watershed").name == "watershed"


def test_damaged_metadata_are_one_warning_and_break_no_other(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("courier-damaged", "[samcourier.engines]\nno equals sign\n")
    offering(install, "cells", "courier-cells")
    with caplog.at_level(logging.WARNING):
        known_engines()
        assert known_engines() == ("watershed", "microsam", "cellpose", "cells")
    (record,) = caplog.records
    assert "courier-damaged" in record.getMessage()


def test_older_metadata_of_the_project_itself_are_no_second_offer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of an editable installation stay as they were when a module is moved."""
    old = Plugin("samcourier.engines", "watershed", "samservice.old:X", "samcourier", "0.0.9")
    monkeypatch.setattr("samservice.contract.plugins.scan", lambda: (old,))
    assert ENGINES.find("watershed").value == ENGINES.built_in["watershed"]


def test_the_same_distribution_twice_on_the_path_is_one(install: Install, tmp_path: Path) -> None:
    offering(install, "cells", "courier-cells")
    again = tmp_path / "again" / "Courier_Cells-1.0.dist-info"
    again.mkdir(parents=True)
    (again / "METADATA").write_text("Metadata-Version: 2.1\nName: Courier_Cells\nVersion: 1.0\n")
    (again / "entry_points.txt").write_text("[samcourier.engines]\ncells = elsewhere:X\n")
    sys.path.append(str(again.parent))
    try:
        scan.cache_clear()
        assert ENGINES.find("cells").value == "cells:DESCRIPTION"
    finally:
        sys.path.remove(str(again.parent))


def test_scanning_imports_no_plug_in_and_no_model(install: Install) -> None:
    offering(install, "cells", "courier-cells")
    heavy = {"cells", "numpy", "scipy", "torch", "hypha_rpc", "tifffile", "zarr"}
    code = (
        "import sys\n"
        f"sys.path.insert(0, {next(path for path in sys.path if 'site-packages' in path)!r})\n"
        "from samservice.contract.engine_description import known_engines, check_engine_name\n"
        "from samcourier.transports.description import known_transports\n"
        "from samcourier.samples.discovery import is_sheet\n"
        "assert 'cells' in known_engines() and 'webrtc' in known_transports()\n"
        "assert is_sheet('config/images.tsv')\n"
        "check_engine_name('microsam')\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_problem_of_a_plug_in_is_an_exception_of_its_own() -> None:
    with pytest.raises(PluginProblem, match="transport 'pigeon' is unknown, expected one of web"):
        TRANSPORTS.find("pigeon")
