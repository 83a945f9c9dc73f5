"""The model-free engine: what it finds, what it leaves alone, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from samcourier.evaluation.accuracy import score
from samcourier.samples.demo import DEMO_IMAGES, write_image
from samcourier.testing import EngineTests
from samservice.contract.errors import WrongParameter
from samservice.engines.base import Engine, build_engine
from samservice.engines.watershed import PARAMETERS


class TestWhatEveryEngineOwes(EngineTests):
    name = "watershed"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return build_engine("watershed")


def discs(*centres: tuple[int, int], size: int = 128, radius_px: int = 9) -> np.ndarray:
    """Truth labels (size, size) of discs, numbered in order."""
    y, x = np.ogrid[:size, :size]
    labels = np.zeros((size, size), np.uint16)
    for number, (at_y, at_x) in enumerate(centres, start=1):
        labels[(y - at_y) ** 2 + (x - at_x) ** 2 <= radius_px**2] = number
    return labels


def photograph(truth: np.ndarray, seed: int = 0) -> np.ndarray:
    """Counts with noise: background 100, objects 400."""
    return np.random.default_rng(seed).normal(100 + 300 * (truth > 0), 15)


TRUTH = discs((30, 30), (30, 47), (90, 40), (70, 100), (4, 100), (120, 120))


@pytest.mark.parametrize(
    ("image_id", "least"),
    [("nuclei_03", 0.95), ("nuclei_04", 0.9), ("nuclei_05", 0.85), ("nuclei_07", 0.85)],
)
def test_nuclei_of_the_demo_are_found_in_1_2_and_3_channels(
    engine: Engine, tmp_path: Path, image_id: str, least: float
) -> None:
    image = next(image for image in DEMO_IMAGES if image.id == image_id)
    write_image(image, tmp_path)
    pixels = tifffile.imread(tmp_path / f"{image.id}.tif")
    truth = tifffile.imread(tmp_path / "truth" / f"{image.id}.tif")
    assert score(truth, engine.segment(pixels, image.axes, {})).average_precision >= least


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64", ">u2"])
def test_touching_discs_come_apart_in_every_pixel_type(engine: Engine, dtype: str) -> None:
    mask = engine.segment((photograph(TRUTH) / 2).astype(dtype), "YX", {})
    assert score(TRUTH, mask).average_precision == 1.0
    assert mask.dtype == np.uint32
    assert np.unique(mask).tolist() == list(range(7))


def test_the_same_image_gives_the_same_labels(engine: Engine) -> None:
    image = photograph(TRUTH).astype(np.uint16)
    first = engine.segment(image, "YX", {})
    np.testing.assert_array_equal(first, build_engine("watershed").segment(image, "YX", {}))


def test_brightness_and_offset_of_the_camera_do_not_matter(engine: Engine) -> None:
    image = photograph(TRUTH)
    np.testing.assert_array_equal(
        engine.segment(image, "YX", {}), engine.segment(image * 4 + 1000, "YX", {})
    )


def test_a_clean_image_without_any_noise_is_segmented(engine: Engine) -> None:
    image = np.where(TRUTH > 0, 1, 0).astype(np.uint8)
    assert score(TRUTH, engine.segment(image, "YX", {})).average_precision == 1.0


def test_spheres_are_found_in_volumes_with_and_without_channels(engine: Engine) -> None:
    z, y, x = np.ogrid[:24, :80, :80]
    truth = np.zeros((24, 80, 80), np.uint16)
    for number, (at_y, at_x) in enumerate([(20, 20), (20, 33), (55, 60)], start=1):
        truth[(z - 12) ** 2 + (y - at_y) ** 2 + (x - at_x) ** 2 <= 49] = number
    volume = photograph(truth)
    assert score(truth, engine.segment(volume, "ZYX", {})) == score(truth, truth)
    two = np.stack([volume, photograph(truth, seed=1)])
    assert score(truth, engine.segment(two, "CZYX", {})) == score(truth, truth)


def balls(z_aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Touching balls of 7 to 9 px radius in planes ``z_aspect`` px apart: volume and truth."""
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[: int(40 / z_aspect), :160, :160]
    truth = np.zeros((int(40 / z_aspect), 160, 160), np.uint16)
    number = 0
    for _ in range(400):
        at_z, at_y, at_x = rng.uniform([5, 8, 8], [35, 152, 152])
        radius = rng.uniform(7, 9)
        inside = (z * z_aspect - at_z) ** 2 + (y - at_y) ** 2 + (x - at_x) ** 2 <= radius**2
        if (truth[inside] > 0).sum() > 0.02 * inside.sum() or number == 28:
            continue
        number += 1
        truth[inside & (truth == 0)] = number
    return rng.normal(100 + 300 * (truth > 0), 15), truth


@pytest.mark.parametrize("z_aspect", [1.0, 3.0, 5.0])
def test_balls_come_apart_at_every_spacing_of_the_planes(engine: Engine, z_aspect: float) -> None:
    volume, truth = balls(z_aspect)
    mask = engine.segment(volume, "ZYX", {"z_aspect": z_aspect})
    assert score(truth, mask, 0.75).average_precision >= 0.95


def test_a_sparse_field_is_not_saturated(engine: Engine) -> None:
    """Twelve nuclei are fewer pixels than the brightest 0.2 %."""
    centres = np.random.default_rng(0).integers(40, 1000, (12, 2))
    truth = discs(*centres.tolist(), size=1040, radius_px=5)
    assert 0 < np.count_nonzero(truth) < 0.002 * truth.size
    mask = engine.segment(photograph(truth), "YX", {})
    assert score(truth, mask, 0.75).average_precision >= 0.9


@pytest.mark.parametrize("radius_px", [4, 9, 20, 45])
def test_nuclei_of_any_size_are_found_without_a_parameter(engine: Engine, radius_px: int) -> None:
    pitch = round(2.2 * radius_px)
    places = range(radius_px + 2, 600 - radius_px, pitch)
    centres = [(y, x) for y in places for x in places][::2]
    truth = discs(*centres, size=600, radius_px=radius_px)
    assert score(truth, engine.segment(photograph(truth), "YX", {})).average_precision >= 0.97


def test_one_hot_pixel_changes_no_other_object(engine: Engine) -> None:
    image = photograph(TRUTH)
    image[100, 10] = 60_000
    assert score(TRUTH, engine.segment(image, "YX", {})).average_precision == 1.0


def test_specks_beside_nuclei_are_left_out_unless_a_size_is_given(engine: Engine) -> None:
    truth = TRUTH + 7 * discs((60, 70), (100, 70), radius_px=3)
    image = photograph(truth)
    assert engine.segment(image, "YX", {}).max() == 6
    assert engine.segment(image, "YX", {"min_area_px": 15}).max() == 8


def test_haze_of_a_third_of_the_nuclei_has_no_edge_and_is_no_object(engine: Engine) -> None:
    y, x = np.mgrid[:384, :384]
    centres = [(60, 60), (60, 300), (300, 60), (320, 320), (180, 60), (60, 180)]
    truth = discs(*centres, size=384, radius_px=12)
    haze = 90 * np.exp(-((y - 200) ** 2 + (x - 230) ** 2) / 2 / 60**2)
    mask = engine.segment(photograph(truth) + haze, "YX", {})
    assert score(truth, mask).average_precision == 1.0


def noise(kind: str) -> np.ndarray:
    """Images without any object, (256, 256)."""
    rng, shape = np.random.default_rng(5), (256, 256)
    slope = np.linspace(0, 1, 256)
    images = {
        "constant": lambda: np.full(shape, 9, np.uint16),
        "read noise": lambda: rng.normal(100, 5, shape),
        "shot noise on uneven light": lambda: rng.poisson(100 + 200 * slope, shape),
        "single photons": lambda: rng.poisson(0.05, shape).astype(np.uint8),
        "a photon a pixel": lambda: rng.poisson(1.0, shape).astype(np.uint8),
        "uniform": lambda: rng.integers(0, 65536, shape, np.uint16),
        "hot pixels": lambda: rng.normal(100, 5, shape) + 4000 * (rng.random(shape) < 1e-3),
        "a ramp": lambda: np.broadcast_to(255 * slope, shape),
    }
    return np.asarray(images[kind]())


@pytest.mark.parametrize(
    "kind",
    [
        "constant",
        "read noise",
        "shot noise on uneven light",
        "single photons",
        "a photon a pixel",
        "uniform",
        "hot pixels",
        "a ramp",
    ],
)
def test_an_image_without_objects_gives_an_empty_mask(engine: Engine, kind: str) -> None:
    mask = engine.segment(noise(kind), "YX", {})
    assert mask.shape == (256, 256) and mask.dtype == np.uint32 and not mask.any()


def test_the_demos_empty_image_gives_an_empty_mask(engine: Engine, tmp_path: Path) -> None:
    (empty,) = (image for image in DEMO_IMAGES if image.cell_count == 0)
    for seed in range(3):
        write_image(empty, tmp_path, seed)
        assert not engine.segment(tifffile.imread(tmp_path / f"{empty.id}.tif"), "YX", {}).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 5), (31, 400), (129, 190)])
def test_any_size_gives_a_mask_of_that_size(engine: Engine, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).random(shape)
    assert engine.segment(image, "YX", {}).shape == shape


@pytest.mark.parametrize(
    ("parameters", "object_count"),
    [
        ({}, 6),
        ({"min_area_px": 220}, 5),
        ({"min_distance_px": 40}, 5),
        ({"min_contrast": 100.0}, 0),
        ({"threshold_scale": 5.0}, 0),
        ({"sigma_px": 0}, 6),
    ],
)
def test_parameters_change_what_is_found(
    engine: Engine, parameters: dict[str, Any], object_count: int
) -> None:
    assert engine.segment(photograph(TRUTH), "YX", parameters).max() == object_count


def test_a_larger_edge_fraction_makes_objects_smaller(engine: Engine) -> None:
    image = photograph(TRUTH)
    loose, tight = (engine.segment(image, "YX", {"edge_fraction": f}) > 0 for f in (0.0, 0.9))
    assert tight.sum() < loose.sum() and not (tight & ~loose).any()


def test_every_parameter_is_described_and_its_default_and_limits_accepted(engine: Engine) -> None:
    description = engine.describe()
    assert description["embeddings"] is False
    for name, schema in description["parameters"].items():
        assert set(schema) == {"default", "type", "minimum", "maximum", "description"}
        for key in ("default", "minimum", "maximum"):
            engine.check_parameters({name: schema[key]})


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (
            {"sigma": 1},
            "'sigma' with value 1 is unknown, did you mean 'sigma_px'\\? expected one of d",
        ),
        ({"colour": 1}, "'colour' with value 1 is unknown, expected one of diameter_px, "),
        ({"sigma_px": "1"}, "'sigma_px' is '1', expected number from 0.0 to 20.0"),
        ({"sigma_px": None}, "'sigma_px' is None, expected number from 0.0 to 20.0"),
        ({"sigma_px": True}, "'sigma_px' is True, expected number from 0.0 to 20.0"),
        ({"sigma_px": -0.1}, "'sigma_px' is -0.1, expected number from 0.0 to 20.0"),
        ({"sigma_px": float("nan")}, "'sigma_px' is nan, expected number from 0.0 to 20.0"),
        ({"min_distance_px": 2.5}, "'min_distance_px' is 2.5, expected integer from 0 to 500"),
        ({"min_distance_px": 501}, "'min_distance_px' is 501, expected integer from 0 to 500"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_came_and_what_is_accepted(
    engine: Engine, parameters: dict[str, Any], said: str
) -> None:
    for refuse in (engine.check_parameters, lambda p: engine.segment(noise("uniform"), "YX", p)):
        with pytest.raises(WrongParameter, match="parameter " + said):
            refuse(parameters)


def test_the_page_of_the_engine_has_every_parameter_as_it_is() -> None:
    page = (Path(__file__).parents[4] / "docs/watershed.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert rows == [
        [
            f"`{name}`",
            f"{schema['default']:g}",
            f"{schema['minimum']:g} to {schema['maximum']:.12g}",
            schema["description"],
        ]
        for name, schema in PARAMETERS.items()
    ]
