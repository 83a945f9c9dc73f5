"""The engine runs the same with micro-sam's modules in ``micro_sam.v1``, where a release puts them.

The layout is made of the installed modules themselves: a folder ``micro_sam`` in which ``v1`` is a
link to the installed package, and which has nothing under the names of 1.8 but what the development
version also has there. A process that finds this folder first runs tests of the engine.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from samservice.engines import microsam_api

from .conftest import PLUGIN

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.microsam,
    pytest.mark.skipif(
        importlib.util.find_spec("micro_sam") is None, reason="micro_sam is not installed"
    ),
]

#: What 1.8's own modules import by an absolute name, and what both layouts have in one place.
AT_THE_TOP = {
    "__init__.py": "",
    "util.py": "from .v1.util import _to_image\n",
    "models/__init__.py": "",
    "models/build_sam.py": "from ..v1.models.build_sam import _validate_model_type\n",
}

#: Each way on which the engine meets micro-sam, against micro-sam called directly.
TESTS = (
    "test_microsam_engine.py::test_the_mask_is_micro_sams_own",
    "test_microsam_engine.py::test_the_way_over_the_embedding_gives_the_same_mask",
    "test_microsam_engine.py::test_parameters_and_defaults_are_those_of_the_installed_micro_sam",
    "test_microsam_engine.py::test_tiles_are_micro_sams_own",
    "test_microsam_engine.py::test_other_modes_are_micro_sams_own",
    "test_microsam_engine.py::test_images_do_not_colour_each_other",
    "test_microsam_engine.py::test_the_description_names_all_that_shapes_labels",
    "test_microsam_engine.py::test_a_failed_download_says_where_the_weights_belong",
    "test_microsam_engine.py::test_micro_sams_own_checkpoints_are_loaded",
    "test_stages.py::test_eight_images_of_a_batch_have_the_labels_of_each_alone",
    "test_normalization.py::test_minmax_is_micro_sams_own_call",
    "test_normalization.py::test_the_encoder_gets_the_range_of_the_normalization",
    "test_normalization.py::test_the_parameters_of_merging_are_micro_sams",
    "test_normalization.py::test_two_objects_never_get_one_label",
)

RUN = """
import sys, pytest
status = pytest.main(sys.argv[1:])
print("modules:", *sorted(name for name in sys.modules if name.split(".")[0] == "micro_sam"))
sys.exit(status)
"""


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """Return a folder to put before all others on the path."""
    specification = importlib.util.find_spec("micro_sam")
    assert specification is not None and specification.origin is not None
    package = tmp_path / "micro_sam"
    for path, text in AT_THE_TOP.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(text)
    (package / "v1").symlink_to(Path(specification.origin).parent)
    return tmp_path


def test_the_installed_micro_sam_has_the_layout_of_1_8() -> None:
    assert microsam_api.package() == "micro_sam"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_engine_runs_in_the_layout_of_v1(moved: Path, small_checkpoint: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", RUN, "-q", *(str(HERE / test) for test in TESTS)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (moved, PLUGIN)))},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    modules = run.stdout.splitlines()[-1].split()
    assert "micro_sam.v1.automatic_segmentation" in modules
    assert "micro_sam.automatic_segmentation" not in modules
