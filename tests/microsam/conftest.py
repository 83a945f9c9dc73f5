"""The small trained model that make builds before these tests."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from samservice.contract.plugins import scan
from samservice.engines import microsam_api
from samservice.engines.base import build_engine

HERE = Path(__file__).parent
PLUGIN = HERE / "plugin"
SMALL_MODEL = HERE.parents[1] / "build/microsam/small_model.pt"


@pytest.fixture(scope="session")
def plugin() -> Iterator[Path]:
    """The folder of the engine microsam-small, seen by this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGIN)
        patch.setenv("PYTHONPATH", str(PLUGIN), prepend=os.pathsep)
        scan.cache_clear()
        yield PLUGIN
    scan.cache_clear()


@pytest.fixture(scope="session")
def recipe(plugin: Path) -> ModuleType:
    """The module make_small_model: blobs to segment, and the score."""
    specification = importlib.util.spec_from_file_location(
        "make_small_model", HERE / "make_small_model.py"
    )
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def micro_sam_is_imported() -> None:
    """Import micro-sam once, without the warnings of what it depends on."""
    if importlib.util.find_spec("micro_sam") is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        microsam_api.automatic_segmentation()


@pytest.fixture(scope="session")
def small_checkpoint(plugin: Path, micro_sam_is_imported: None) -> Path:
    if not SMALL_MODEL.exists():
        pytest.fail(f"{SMALL_MODEL} is missing: make build/microsam/small_model.pt", pytrace=False)
    return SMALL_MODEL


@pytest.fixture(scope="session")
def engine(small_checkpoint: Path) -> Any:
    return build_engine("microsam-small", {"checkpoint": str(small_checkpoint), "device": "cpu"})
