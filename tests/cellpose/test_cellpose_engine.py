"""Cellpose's own classes behind the engine: the labels of ``CellposeModel.eval``, and its traps."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from samcourier.testing import EngineTests
from samservice.contract.errors import SegmentationFailed, WrongAxes, WrongParameter
from samservice.engines.base import Engine, build_engine
from samservice.engines.cellpose_load import find_weights, installed_segment_anything
from samservice.engines.cellpose_parameters import NORMALIZE, PARAMETERS

pytestmark = [
    pytest.mark.cellpose,
    pytest.mark.skipif(
        importlib.util.find_spec("cellpose") is None, reason="cellpose is not installed"
    ),
]


@pytest.fixture(scope="module")
def nuclei(recipe: ModuleType) -> np.ndarray:
    image, _ = recipe.draw_nuclei(1000, (200, 232))
    return np.asarray(image)


@pytest.fixture(scope="module")
def volume(recipe: ModuleType) -> np.ndarray:
    """Five planes, (Z, Y, X), of which one is blank."""
    image, _ = recipe.draw_nuclei(1001, (96, 112))
    planes = np.stack([image] * 5)
    planes[4] = 7
    return planes


class TestCellpose(EngineTests):
    name = "cellpose-tiny"

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, checkpoint: Path) -> Engine:
        return build_engine(cls.name, {"checkpoint": str(checkpoint)})

    @pytest.fixture
    def image(self, recipe: ModuleType) -> np.ndarray:
        return np.asarray(recipe.draw_nuclei(1002, (128, 160))[0])


def test_the_small_model_finds_the_drawn_nuclei(engine: Any, recipe: ModuleType) -> None:
    from samcourier.evaluation.accuracy import score

    found = []
    for seed in range(2000, 2004):
        image, truth = recipe.draw_nuclei(seed)
        labels = engine.segment(image, "YX", {})
        found.append(score(truth, labels, 0.5).average_precision)
    assert np.mean(found) > 0.7, found


PLANES: list[tuple[str, dict[str, Any]]] = [
    ("YX", {}),
    ("YX", {"diameter": 20.0}),
    ("YX", {"diameter": 45.0, "resample": False}),
    ("YX", {"flow_threshold": 0.0}),
    ("YX", {"flow_threshold": 0.2, "cellprob_threshold": -1.0}),
    ("YX", {"min_size": 200}),
    ("YX", {"min_size": -1, "flow_threshold": 0.0}),
    ("YX", {"max_size_fraction": 0.01}),
    ("YX", {"niter": 50}),
    ("YX", {"augment": True}),
    ("YX", {"batch_size": 1}),
    ("YX", {"normalize": {"percentile": [5.0, 95.0]}}),
    ("YX", {"normalize": {"lowhigh": [500.0, 4000.0]}}),
    ("YX", {"normalize": {"tile_norm_blocksize": 100}}),
    ("YX", {"normalize": {"sharpen_radius": 3, "smooth_radius": 1}}),
    ("YX", {"normalize": {"invert": True}}),
    ("CYX", {}),
    ("CYX", {"diameter": 20.0}),
]


def eval_arguments(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``eval`` with a whole dictionary for ``normalize``."""
    arguments = {"normalize": {**NORMALIZE, **parameters.get("normalize", {})}}
    return {**parameters, **arguments}


@pytest.mark.parametrize(("axes", "parameters"), PLANES, ids=str)
def test_labels_of_planes_are_those_of_eval(
    engine: Any, cellpose: Any, nuclei: np.ndarray, axes: str, parameters: dict[str, Any]
) -> None:
    image = nuclei if axes == "YX" else np.stack([nuclei, nuclei[::-1], nuclei // 2])
    channel_axis = None if axes == "YX" else 0
    expected = cellpose.eval(image.copy(), channel_axis=channel_axis, **eval_arguments(parameters))[
        0
    ]
    labels = engine.segment(image, axes, parameters)
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.uint32


VOLUMES: list[dict[str, Any]] = [
    {"stitch_threshold": 0.3},
    {"stitch_threshold": 0.3, "normalize": {"norm3D": False}},
    {"do_3D": True},
    {"do_3D": True, "anisotropy": 2.0, "min_size": 50},
]


@pytest.mark.slow
@pytest.mark.parametrize("axes", ["ZYX", "CZYX"])
@pytest.mark.parametrize("parameters", VOLUMES, ids=str)
def test_labels_of_volumes_are_those_of_eval(
    engine: Any, cellpose: Any, volume: np.ndarray, axes: str, parameters: dict[str, Any]
) -> None:
    image = volume if axes == "ZYX" else np.stack([volume, volume // 3])
    axis = {"z_axis": 0} if axes == "ZYX" else {"z_axis": 1, "channel_axis": 0}
    expected = cellpose.eval(image.copy(), **axis, **eval_arguments(parameters))[0]
    np.testing.assert_array_equal(engine.segment(image, axes, parameters), expected)


def test_planes_of_a_volume_that_are_not_joined_have_ids_of_their_own(
    engine: Any, volume: np.ndarray
) -> None:
    labels = engine.segment(volume, "ZYX", {})
    found = [np.unique(plane[plane > 0]) for plane in labels]
    assert len(np.unique(np.concatenate(found))) == sum(map(len, found)) == labels.max()
    alone = engine.segment(volume[0], "YX", {})
    np.testing.assert_array_equal(labels[0], alone)


def test_other_parameters_of_the_masks_use_the_same_state(engine: Any, nuclei: np.ndarray) -> None:
    state = engine.infer([engine.prepare(nuclei, "YX", {})])[0]
    kept = copy.deepcopy(state)
    for parameters in ({}, {"flow_threshold": 0.0}, {"min_size": 200}, {"niter": 20}):
        assert set(parameters).isdisjoint(engine.describe()["inference_parameters"])
        np.testing.assert_array_equal(
            engine.finish(state, parameters), engine.segment(nuclei, "YX", parameters)
        )
    np.testing.assert_array_equal(state.flows, kept.flows)
    np.testing.assert_array_equal(state.cellprob, kept.cellprob)


# Cellpose's traps.


def test_a_call_without_normalization_changes_no_later_call(
    engine: Any, nuclei: np.ndarray
) -> None:
    from cellpose import models

    before, defaults = engine.segment(nuclei, "YX", {}), dict(models.normalize_default)
    engine.segment(nuclei.astype(np.float32) / 4000, "YX", {"normalize": {"normalize": False}})
    assert models.normalize_default == defaults
    np.testing.assert_array_equal(engine.segment(nuclei, "YX", {}), before)
    assert before.max() > 5


def test_a_float_image_is_not_changed(engine: Any, nuclei: np.ndarray) -> None:
    image = nuclei.astype(np.float32)
    given = image.copy()
    labels = engine.segment(given, "YX", {})
    np.testing.assert_array_equal(given, image)
    np.testing.assert_array_equal(labels, engine.segment(nuclei, "YX", {}))


def test_the_default_is_float32_and_bfloat16_is_another_model(
    engine: Any, checkpoint: Path
) -> None:
    import torch

    assert {each.dtype for each in engine._model.net.parameters()} == {torch.float32}
    other = build_engine("cellpose-tiny", {"checkpoint": str(checkpoint), "dtype": "bfloat16"})
    assert other.describe()["model"] == f"{engine.describe()['model']} (bfloat16)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": "/nowhere/model"}, "'/nowhere/model' is not a file"),
        ({"model": "cyto3"}, "model 'cyto3' is unknown, expected one of cpsam_v2"),
        ({"device": "cuda:9"}, "device 'cuda:9'"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_no_other_model_replaces_a_missing_one(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongParameter) as caught:
        build_engine("cellpose", options)
    assert message in caught.value.message


def test_a_failed_download_says_where_the_weights_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellpose import utils

    def fail(url: str, path: str, progress: bool) -> None:
        raise OSError("no route")

    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path))
    monkeypatch.setattr(utils, "download_url_to_file", fail)
    with pytest.raises(SegmentationFailed, match=r"CELLPOSE_LOCAL_MODELS_PATH") as caught:
        find_weights("cpsam_v2", None)
    assert str(tmp_path) in caught.value.message and "\n" not in caught.value.message
    (tmp_path / "cpsam_v2").write_bytes(b"weights")
    assert find_weights("cpsam_v2", None) == tmp_path / "cpsam_v2"


def test_a_checkpoint_with_other_keys_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    import torch

    stored = torch.load(checkpoint, weights_only=True)
    damages = {
        "few": {name: stored[name] for name in ("W2", "diam_mean")},
        "one missing": {name: value for name, value in stored.items() if name != "out.bias"},
        "one more": {**stored, "extra": torch.zeros(1)},
    }
    for name, weights in damages.items():
        path = tmp_path / name
        torch.save(weights, path)
        with pytest.raises(WrongParameter, match=r"missing|unknown"):
            build_engine("cellpose-tiny", {"checkpoint": str(path)})
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(WrongParameter, match="cannot be loaded"):
        build_engine("cellpose-tiny", {"checkpoint": str(tmp_path / "text")})


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (40, 1)])
def test_an_axis_of_length_1_stays(engine: Any, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 999, shape).astype(np.uint16)
    assert engine.segment(image, "YX", {}).shape == shape
    assert engine.segment(image[None], "ZYX", {}).shape == (1, *shape)


def test_a_grey_image_is_one_channel_and_repeating_it_is_another_image(
    engine: Any, nuclei: np.ndarray
) -> None:
    grey = engine.segment(nuclei, "YX", {})
    np.testing.assert_array_equal(engine.segment(nuclei[None], "CYX", {}), grey)
    repeated = engine.segment(np.stack([nuclei] * 3), "CYX", {})
    assert (repeated != grey).any()


def test_more_than_three_channels_are_refused(engine: Any, nuclei: np.ndarray) -> None:
    with pytest.raises(WrongAxes, match="4 channels, Cellpose takes 3 at most"):
        engine.segment(np.stack([nuclei] * 4), "CYX", {})


def test_the_description_names_whose_segment_anything_is_installed(engine: Any) -> None:
    found = engine.describe()["versions"]["segment_anything"]
    assert found == installed_segment_anything()
    assert found.split()[0] in ("segment_anything", "segment-anything-py"), found


def test_a_plane_is_never_cut_into_tiles_by_the_client(engine: Any) -> None:
    """Fractions and percentiles would then be those of a tile."""
    assert engine.describe().get("image_statistics", []) == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"normalize": {"percentil": [1, 99]}}, "the key 'percentil'"),
        ({"normalize": {"percentile": [99, 1]}}, "two increasing numbers"),
        ({"normalize": {"lowhigh": 5}}, "two increasing numbers"),
        ({"normalize": True}, "'normalize' is True"),
        ({"max_size_fraction": 1.5}, "max_size_fraction"),
        ({"channels": [0, 0]}, "'channels'"),
    ],
)
def test_wrong_parameters_are_named(
    engine: Any, nuclei: np.ndarray, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(WrongParameter) as caught:
        engine.segment(nuclei, "YX", parameters)
    assert message in caught.value.message


def test_the_defaults_are_those_of_eval() -> None:
    import inspect

    from cellpose import models

    signature = inspect.signature(models.CellposeModel.eval).parameters
    # Cellpose's own 0 and None mean the same there.
    same_as_none = {"diameter": 0.0, "niter": 0, "anisotropy": 1.0}
    for name, schema in PARAMETERS.items():
        default = signature[name].default
        if name == "normalize":
            assert default is True and schema["default"] == {}
        elif default is None:
            assert schema["default"] == same_as_none[name]
        else:
            assert schema["default"] == default, name
    assert dict(NORMALIZE) == models.normalize_default
