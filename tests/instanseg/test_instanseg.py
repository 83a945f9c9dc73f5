"""An engine of another package: the one of docs/extending-instanseg.md, with a real TorchScript."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from samcourier.masks.omezarr import read_mask
from samcourier.testing import EngineTests

pytestmark = [pytest.mark.microsam, pytest.mark.live]

SUITE_TIMEOUT_S = 280
RUN_TIMEOUT_S = 120
#: Labels of images in a folder, by the engine itself; the arguments are the engine's options.
DIRECTLY = """
import json, sys
from pathlib import Path
import numpy as np, tifffile
from samservice.engines.base import build_engine

engine = build_engine("instanseg", json.loads(sys.argv[1]))
for path in Path(sys.argv[2]).glob("*.tif"):
    np.save(path.with_suffix(".npy"), engine.segment(tifffile.imread(path), "YX", {}))
print(json.dumps(engine.describe()))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two images of bright discs, of which one is smaller than the model's window."""
    folder = tmp_path_factory.mktemp("images")
    for name, shape in {"large": (200, 260), "small": (40, 90)}.items():
        y, x = np.mgrid[: shape[0], : shape[1]]
        discs = ((y % 32 - 16) ** 2 + (x % 30 - 15) ** 2) < 81
        noise = np.random.default_rng(7).normal(0, 10, shape)
        tifffile.imwrite(folder / f"{name}.tif", (200 + 900 * discs + noise).astype(np.uint16))
    return folder


def run(python: Path, *command: object, timeout_s: float = RUN_TIMEOUT_S, **more: str) -> str:
    done = subprocess.run(
        [str(word) for word in (python, "-W", "ignore", *command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: each for name, each in os.environ.items() if name != "HYPHA_TOKEN"} | more,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_package_passes_the_suite_of_engines(instanseg: Any, small_model: Path) -> None:
    folder = instanseg.folder / "samcourier-instanseg"
    output = run(
        *(instanseg.python, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:xdist"),
        *("-p", "no:npe2", "-p", "no:napari", "-p", "no:napari-plugin-engine", folder),
        timeout_s=SUITE_TIMEOUT_S,
        INSTANSEG_MODEL=str(small_model),
    )
    ended = set(re.findall(r"::(test_\w+).* (PASSED|SKIPPED)", output))
    assert {name for name, _ in ended} == {each for each in dir(EngineTests) if each[:5] == "test_"}
    # InstanSeg has no embeddings.
    assert {name for name, how in ended if how == "SKIPPED"} == {
        "test_an_embedding_in_stages_gives_the_same_labels"
    }


def test_images_through_a_local_service_get_the_labels_of_the_engine(
    instanseg: Any, small_model: Path, images: Path, tmp_path: Path
) -> None:
    options = json.dumps({"model": str(small_model), "device": "cpu"})
    described = json.loads(run(instanseg.python, "-c", DIRECTLY, options, images).splitlines()[-1])
    command = ["segment", images, "--engine", "instanseg", "--engine-options", options]
    run(instanseg.python, "-m", "samcourier.cli", *command, "--dataset-dir", tmp_path / "cells")
    logs = [json.loads(path.read_text()) for path in (tmp_path / "cells/logs").glob("*.json")]
    assert {log["image"] for log in logs} == {"large", "small"}
    for log in logs:
        mask = read_mask(tmp_path / "cells/masks" / f"{log['image']}.ome.zarr")
        expected = np.load(images / f"{log['image']}.npy")
        np.testing.assert_array_equal(mask, expected)
        assert expected.max() == (54 if log["image"] == "large" else 3)
        assert log["service"]["distribution"] == {"name": "samcourier-instanseg", "version": "1.0"}
        assert log["service"]["model_sha256"] == described["model_sha256"]
        assert log["service"]["model"] == "small_model.pt"


@pytest.mark.parametrize(("target", "finds"), [("nuclei", True), ("cells", False)])
def test_a_model_of_both_returns_the_target_that_the_option_names(
    instanseg: Any, small_model: Path, images: Path, target: str, finds: bool
) -> None:
    """The decoder of cells of this model finds nothing."""
    both = small_model.with_stem("small_model_of_both")
    options = json.dumps({"model": str(both), "target": target, "device": "cpu"})
    described = json.loads(run(instanseg.python, "-c", DIRECTLY, options, images).splitlines()[-1])
    assert described["model"] == f"small_model_of_both.pt ({target})"
    assert np.load(images / "large.npy").any() == finds


def test_a_file_that_is_no_model_is_refused_in_one_line(instanseg: Any, images: Path) -> None:
    code = """
import sys
from samservice.contract.errors import WrongParameter
from samservice.engines.base import build_engine

try:
    build_engine("instanseg", {"model": sys.argv[1]} if sys.argv[1:] else {})
except WrongParameter as error:
    print(error.message)
"""
    (line,) = run(instanseg.python, "-c", code).splitlines()
    assert line == "option 'model' is None, expected a file of a TorchScript"
    (line,) = run(instanseg.python, "-c", code, images / "large.tif").splitlines()
    assert re.fullmatch(r"option 'model' is '.*large.tif', no TorchScript \(.+\)", line)
