"""What a BioEngine worker asks of the uploaded files, as far as no worker is needed to see it."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from samcourier.deploy.bioengine.app import APP_CLASS, AppPackage, plan_app
from samcourier.deploy.targets import _requirements
from samcourier.settings.run_settings import ServiceSettings
from samservice import __version__
from samservice.contract.engine_description import ENGINES, describe_engine
from samservice.server.pipeline import Hang

SERVICE_DIR = Path(__file__).parents[3] / "service"
MANIFEST = yaml.safe_load((SERVICE_DIR / "manifest.yaml").read_text())
TREE = ast.parse((SERVICE_DIR / "deployment.py").read_text())
(APP,) = [node for node in TREE.body if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("key", ["name", "id", "id_emoji", "description"])
def test_the_manifest_is_complete(key: str) -> None:
    assert isinstance(MANIFEST[key], str) and MANIFEST[key]


class App:
    """Stands for BioEngine: the decorator of the app keeps what it is told."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}

    def app(self, **told: Any) -> Any:
        self.told = told
        return lambda decorated: decorated

    def method(self, **_: Any) -> Any:
        return lambda decorated: decorated

    def __getattr__(self, name: str) -> Any:
        return lambda decorated: decorated


def requirements_on_the_worker(monkeypatch: pytest.MonkeyPatch, environment: Any) -> set[str]:
    """Return what the app asks pip to install, loaded without any module of samservice."""
    bioengine = App()
    for name in [name for name in sys.modules if name.partition(".")[0] == "samservice"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "samservice", None)
    monkeypatch.setitem(sys.modules, "bioengine", bioengine)
    for name in ("SAMSERVICE_ENGINE", "SAMSERVICE_REQUIREMENTS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    exec(compile(TREE, "deployment.py", "exec"), {"__name__": "deployment"})
    return set(bioengine.told["pip"])


@pytest.mark.parametrize("name", ENGINES.built_in)
def test_the_app_installs_what_the_description_of_its_engine_requires(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    wanted = describe_engine(name).requirements
    settings = ServiceSettings(target="bioengine", engine=name)
    plan = plan_app(AppPackage("a", "0.1.0", "0" * 64, ()), settings, (), _requirements(name))
    environment = plan.parameters["application_env_vars"][APP_CLASS]
    common = requirements_on_the_worker(monkeypatch, {})
    assert requirements_on_the_worker(monkeypatch, environment) == {*common, *wanted}
    assert wanted and not common & set(wanted)


def test_the_requirements_of_micro_sam_are_those_of_the_extra() -> None:
    pyproject = tomllib.loads((SERVICE_DIR.parent / "pyproject.toml").read_text())
    extra = pyproject["project"]["optional-dependencies"]["microsam"]
    assert set(describe_engine("microsam").requirements) <= set(extra)


def test_the_service_without_its_engine_imports_only_what_the_app_installs() -> None:
    """scipy and scikit-image come with an engine that requires them, msgspec never."""
    code = """
import sys
for name in ("scipy", "skimage", "msgspec", "zarr", "tifffile"):
    sys.modules[name] = None
import samservice.engines.base, samservice.engines.stages
import samservice.server.app, samservice.server.direct, samservice.server.serve
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_manifest_names_this_app() -> None:
    assert (MANIFEST["type"], MANIFEST["format_version"]) == ("ray-serve", "0.6.0")
    assert MANIFEST["entry"] == f"deployment:{APP.name}"
    assert MANIFEST["version"] == __version__


def test_the_module_loads_with_the_standard_library_and_bioengine() -> None:
    imported = set()
    for node in TREE.body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"bioengine"}


@pytest.mark.parametrize("name", ["segment_all", "encode_image", "describe", "probe", "direct_ids"])
def test_every_method_gets_the_caller_s_context(name: str) -> None:
    (method,) = [
        node for node in APP.body if isinstance(node, ast.AsyncFunctionDef) and node.name == name
    ]
    assert [ast.unparse(each) for each in method.decorator_list] == [
        "bioengine.method(context=True)"
    ]
    assert "context" in [argument.arg for argument in method.args.args]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The app's class, as BioEngine's decorators leave it."""

    def unchanged(*_: Any, **__: Any) -> Callable[[Any], Any]:
        return lambda decorated: decorated

    bioengine = ModuleType("bioengine")
    bioengine.app = bioengine.method = unchanged  # type: ignore[attr-defined]
    bioengine.async_init = bioengine.health_check = lambda method: method  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bioengine", bioengine)
    app_class = runpy.run_path(str(SERVICE_DIR / "deployment.py"))["SegmentationApp"]
    # Ray awaits it; Python does not.
    del app_class.__del__
    return app_class()


async def test_a_hang_alone_makes_a_replica_unhealthy(app: Any) -> None:
    await app.stay_connected()
    hangs: list[Hang | None] = [None, Hang("infer", 1)]
    app._service = SimpleNamespace(hang=lambda: hangs.pop(0))
    await app.stay_connected()
    with pytest.raises(RuntimeError, match="hangs in the stage infer"):
        await app.stay_connected()
