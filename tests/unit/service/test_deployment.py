"""What a BioEngine worker asks of the uploaded files, as far as no worker is needed to see it."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from samservice import __version__
from samservice.contract.engine_description import ENGINES, describe_engine

SERVICE_DIR = Path(__file__).parents[3] / "service"
MANIFEST = yaml.safe_load((SERVICE_DIR / "manifest.yaml").read_text())
TREE = ast.parse((SERVICE_DIR / "deployment.py").read_text())
(APP,) = [node for node in TREE.body if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("key", ["name", "id", "id_emoji", "description"])
def test_the_manifest_is_complete(key: str) -> None:
    assert isinstance(MANIFEST[key], str) and MANIFEST[key]


def test_the_app_installs_what_the_built_in_engines_require() -> None:
    (common, own) = (
        ast.literal_eval(node.value)
        for node in TREE.body
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) in ("REQUIREMENTS", "ENGINE_REQUIREMENTS")
    )
    assert own.keys() <= ENGINES.built_in.keys()
    for name in ENGINES.built_in:
        assert set(describe_engine(name).requirements) <= {*common, *own.get(name, [])}
    pyproject = tomllib.loads((SERVICE_DIR.parent / "pyproject.toml").read_text())
    assert set(own["microsam"]) <= set(pyproject["project"]["optional-dependencies"]["microsam"])


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
