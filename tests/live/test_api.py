"""The Python API over real services: arrays, many images, a dataset, its results."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

import samcourier
from samcourier.api import Service
from samcourier.errors import ImageUnfit, InputError, RequestRefused
from samcourier.samples.demo import write_demo
from samservice.engines.watershed import WatershedEngine

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, 7)
    paths = sorted(folder.rglob("nuclei_0[1-4].tif"))
    return {path.stem: tifffile.imread(path) for path in paths}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with samcourier.connect() as service:
        yield service


def expected(image: np.ndarray) -> np.ndarray:
    """Return what the engine itself makes of an image (Y, X)."""
    return WatershedEngine().segment(image, "YX", {})


def test_an_array_gives_the_labels_of_the_engine(
    service: Service, images: dict[str, np.ndarray]
) -> None:
    for image in images.values():
        labels = service.segment(image)
        assert labels.dtype == np.uint32
        np.testing.assert_array_equal(labels, expected(image))
    parameters = service.description.parameters
    assert parameters is not None and "min_area_px" in parameters


def test_channels_last_are_the_same_as_channels_first(
    service: Service, images: dict[str, np.ndarray]
) -> None:
    image = next(iter(images.values()))
    last = service.segment(np.stack([image, image], axis=-1), axes="YXC")
    np.testing.assert_array_equal(last, service.segment(np.stack([image, image])))


def test_many_images_come_in_order_with_their_logs_and_a_bad_one_stops_none(
    service: Service, images: dict[str, np.ndarray]
) -> None:
    pixels = list(images.values())
    bad = pixels[0].astype(np.float32)
    bad[0, 0] = np.nan
    given = [*pixels, bad, np.zeros((3, 4, 5, 6, 7)), *pixels]
    found = list(service.segment_many(iter(given)))
    assert len(found) == len(given)
    for image, each in zip(given, found, strict=True):
        if each.labels is None:
            assert each.error and each.object_count is None
        else:
            np.testing.assert_array_equal(each.labels, expected(image))
            assert each.object_count == each.labels.max()
            assert each.log.attempts[-1].outcome == "ok" and each.log.seconds["pack"] >= 0
    errors = [each.error for each in found if each.error]
    assert "NaN" in errors[0] and "shape (3, 4, 5, 6, 7) without axes" in errors[1]


def test_an_iteration_that_ends_early_leaves_the_service_usable(
    service: Service, images: dict[str, np.ndarray]
) -> None:
    image = next(iter(images.values()))
    for each in service.segment_many(image for _ in range(1000)):
        assert each.labels is not None
        break
    np.testing.assert_array_equal(service.segment(image), expected(image))


def test_a_wrong_parameter_and_a_wrong_array_are_named(service: Service) -> None:
    with pytest.raises(RequestRefused, match="'nothing' with value 3 is unknown"):
        service.segment(np.eye(9), nothing=3)
    with pytest.raises(RequestRefused, match="'nothing'"):
        list(service.segment_many([np.eye(9)], nothing=3))
    with pytest.raises(ImageUnfit, match=r"looks like \(Y, X, channel\)"):
        service.segment(np.zeros((9, 9, 3)))


async def test_async_code_and_code_in_a_running_loop(images: dict[str, np.ndarray]) -> None:
    image = next(iter(images.values()))
    async with samcourier.connect() as service:
        labels = await asyncio.gather(*(service.segment(image) for _ in range(3)))
        for each in labels:
            np.testing.assert_array_equal(each, expected(image))
        found = [each.object_count async for each in service.segment_many([image] * 3)]
        assert found == [labels[0].max()] * 3


def test_a_dataset_and_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: dict[str, np.ndarray]
) -> None:
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    lines = ["image\tpath\tcondition"]
    for number, (name, image) in enumerate(images.items()):
        tifffile.imwrite(f"{name}.tif", image)
        lines.append(f"{name}\t{name}.tif\t{'drug' if number % 2 else 'control'}")
    Path("images.tsv").write_text("\n".join([*lines, "gone\tgone.tif\tdrug", ""]))
    logged: list[str] = []
    config = {"dataset": "cells", "sheet": "images.tsv", "outputs": ["objects_parquet"]}
    results = samcourier.segment_dataset(config, on_image=lambda log: logged.append(log.image))
    assert sorted(logged) == sorted(results) == ["gone", *sorted(images)]
    assert "gone.tif" in results.failed["gone"] and len(results.failed) == 1
    for name, image in images.items():
        each = results[name]
        np.testing.assert_array_equal(each.labels(), expected(image))
        np.testing.assert_array_equal(each.labels_dask().compute(), expected(image))
        np.testing.assert_array_equal(each.pixels(), image)
        assert each.log is not None and each.log.status == "done"
    with pytest.raises(InputError, match="gone: no mask in results/cells"):
        results["gone"].labels()
    with pytest.raises(KeyError):
        results["other"]
    summary, objects = results.summary(), results.objects()
    assert isinstance(summary, pandas.DataFrame)
    counts = {name: int(expected(image).max()) for name, image in images.items()}
    found = dict(zip(summary["image"], summary["object_count"], strict=True))
    assert {name: found[name] for name in counts} == counts
    assert objects.groupby("image").size().to_dict() == counts
    conditions = objects.groupby("image")["condition"].first().to_dict()
    assert conditions == {name: results[name].properties["condition"] for name in counts}
    with Path("results/cells/report.tsv").open() as table:
        rows = {row["image"]: row["condition"] for row in csv.DictReader(table, delimiter="\t")}
    assert rows == {name: results[name].properties["condition"] for name in results}
    again = samcourier.open_results("results/cells")
    assert list(again) == list(results) and repr(again) == "Results('results/cells', 5 images)"


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: samcourier.open_results("nowhere"), "nowhere: no results folder"),
        (lambda: samcourier.connect(engin="microsam"), "engin"),
        (lambda: samcourier.connect("nowhere.yaml"), "nowhere.yaml: cannot read the config"),
        (lambda: samcourier.connect(engine="nothing"), "nothing"),
        (lambda: samcourier.segment_dataset({"dataset": "d"}), "sheet"),
        (
            lambda: samcourier.segment_dataset({"dataset": "d"}, "nowhere.tsv"),
            "nowhere.tsv: no such file",
        ),
    ],
)
def test_bad_input_is_one_line(
    action: object, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        action()  # type: ignore[operator]
    assert words in str(caught.value) and "\n" not in str(caught.value)
