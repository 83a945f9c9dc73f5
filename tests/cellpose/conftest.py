"""The small model that make builds before these tests, and the engine with it."""

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
from samservice.engines.base import build_engine

HERE = Path(__file__).parent
PLUGIN = HERE / "plugin"
TINY_MODEL = HERE.parents[1] / "build/cellpose/tiny_model"


@pytest.fixture(scope="session", autouse=True)
def torch_has_warned() -> None:
    """Torch warns once, of Cellpose's own call; a warning is an error in these tests."""
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_coo_tensor(torch.zeros((1, 1), dtype=torch.int), torch.ones(1), (1,))


@pytest.fixture(scope="session")
def plugin() -> Iterator[Path]:
    """The folder of the engine cellpose-tiny, seen by this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGIN)
        patch.setenv("PYTHONPATH", str(PLUGIN), prepend=os.pathsep)
        scan.cache_clear()
        yield PLUGIN
    scan.cache_clear()


@pytest.fixture(scope="session")
def recipe(plugin: Path) -> ModuleType:
    """The module make_tiny_model: nuclei to segment."""
    specification = importlib.util.spec_from_file_location(
        "make_tiny_model", HERE / "make_tiny_model.py"
    )
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def checkpoint(plugin: Path) -> Path:
    if not TINY_MODEL.exists():
        pytest.fail(f"{TINY_MODEL} is missing: make build/cellpose/tiny_model", pytrace=False)
    return TINY_MODEL


@pytest.fixture(scope="session")
def engine(checkpoint: Path) -> Any:
    return build_engine("cellpose-tiny", {"checkpoint": str(checkpoint)})


@pytest.fixture(scope="session")
def cellpose(checkpoint: Path) -> Any:
    """Cellpose's own model with the same weights, in float32 on the CPU."""
    import torch
    from cellpose.models import CellposeModel
    from tiny_cellpose import tiny_encoder

    with tiny_encoder():
        return CellposeModel(
            pretrained_model=str(checkpoint), device=torch.device("cpu"), use_bfloat16=False
        )
