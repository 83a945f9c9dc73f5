"""micro-sam through the whole service: Hypha server, every transport, and one batch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile

from samcourier.deploy.local.start import ensure_local_service, stop_local_service
from samcourier.errors import CourierError
from samcourier.masks.omezarr import read_mask
from samcourier.transports import Endpoint, Transport, build_transports
from samservice.contract.wire import pack_array, unpack_array

pytestmark = [
    pytest.mark.microsam,
    pytest.mark.live,
    pytest.mark.skipif(
        importlib.util.find_spec("micro_sam") is None, reason="micro_sam is not installed"
    ),
]

OPEN_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 120.0
BATCH_TIMEOUT_S = 240
PARAMETERS = {"min_size": 20}


@dataclass(frozen=True)
class Home:
    """A results folder whose local service runs; a batch that is given it finds the service."""

    dataset_dir: Path
    engine_options: dict[str, Any]
    endpoint: Endpoint


@pytest.fixture(scope="module")
def home(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    dataset_dir = tmp_path_factory.mktemp("results") / "cells"
    options = {"checkpoint": str(small_checkpoint), "device": "cpu"}
    directory = dataset_dir / "service"
    yield Home(dataset_dir, options, ensure_local_service(directory, "microsam-small", options))
    stop_local_service(directory)


@pytest.fixture(params=["websocket", "http", "webrtc"])
async def transport(request: pytest.FixtureRequest, home: Home) -> AsyncIterator[Transport]:
    (opened,) = build_transports(home.endpoint, request.param)
    await opened.open(OPEN_TIMEOUT_S)
    yield opened
    await opened.close()


async def segment(transport: Transport, image: Any, **others: Any) -> Any:
    arguments = {"image_or_embedding": image, **others}
    return await transport.call("segment_all", arguments, CALL_TIMEOUT_S)


def images_of(recipe: ModuleType) -> dict[str, Any]:
    """Return images by axes: more than a chunk of WebRTC, channels, no multiple of a patch."""
    return {
        "YX": recipe.draw_blobs(0, (200, 260))[0],
        "CYX": np.stack([recipe.draw_blobs(seed, (97, 131))[0] for seed in range(2)]),
        "ZYX": np.stack([recipe.draw_blobs(seed, (64, 96))[0] for seed in range(2)]),
    }


async def test_the_service_says_which_model_it_is(
    transport: Transport, engine: Any, small_checkpoint: Path
) -> None:
    described = await transport.call("describe", {}, CALL_TIMEOUT_S)
    assert described["engine"] == "microsam-small"
    assert described["model"] == f"{small_checkpoint.name} (ais)"
    assert described["model_sha256"] == hashlib.sha256(small_checkpoint.read_bytes()).hexdigest()
    assert described["versions"] == engine.describe()["versions"]
    assert described["embeddings"] is True
    assert described["embedding_bytes"] == 256 * 8 * 8 * 4


@pytest.mark.parametrize("axes", ["YX", "CYX", "ZYX"])
async def test_the_mask_is_the_engines_own(
    transport: Transport, engine: Any, recipe: ModuleType, axes: str
) -> None:
    image = images_of(recipe)[axes]
    expected = engine.segment(image, axes, PARAMETERS)
    plain = await segment(transport, image, axes=axes, **PARAMETERS)
    answer = await segment(transport, pack_array(image, "blosc-lz4"), axes=axes, **PARAMETERS)
    packed = unpack_array(answer["mask"], 1 << 30)
    assert plain.dtype == packed.dtype == np.uint32
    np.testing.assert_array_equal(plain, expected)
    np.testing.assert_array_equal(packed, expected)
    assert answer["object_count"] == expected.max() > 2


async def test_the_mask_is_micro_sams_own(
    transport: Transport, small_checkpoint: Path, recipe: ModuleType
) -> None:
    from small_sam import load_small_sam

    from samservice.contract.channels import to_model_image
    from samservice.engines import microsam_api

    image = images_of(recipe)["YX"]
    predictor, decoder = load_small_sam(small_checkpoint, "cpu")
    segmenter = microsam_api.instance_segmentation().get_instance_segmentation_generator(
        predictor, False, decoder, "ais"
    )
    expected = microsam_api.automatic_segmentation().automatic_instance_segmentation(
        predictor, segmenter, to_model_image(image, "YX"), ndim=2, verbose=False
    )
    np.testing.assert_array_equal(await segment(transport, image), expected)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
async def test_the_way_over_the_embedding_gives_the_same_labels(
    transport: Transport, engine: Any, recipe: ModuleType, packed: bool
) -> None:
    image = images_of(recipe)["YX"]
    expected = engine.segment(image, "YX", PARAMETERS)
    sent = pack_array(image, "blosc-lz4") if packed else image
    embedding = await transport.call("encode_image", {"image": sent}, CALL_TIMEOUT_S)
    answer = await segment(transport, embedding, embedding=True, **PARAMETERS)
    mask = unpack_array(answer["mask"], 1 << 30) if packed else answer
    assert mask.dtype == np.uint32
    np.testing.assert_array_equal(mask, expected)


async def test_a_foreign_embedding_is_refused_by_name(
    transport: Transport, recipe: ModuleType
) -> None:
    image = images_of(recipe)["YX"]
    embedding = await transport.call("encode_image", {"image": image}, CALL_TIMEOUT_S)
    with pytest.raises(CourierError, match="model_sha256") as caught:
        await segment(transport, embedding | {"model_sha256": "0" * 64}, embedding=True)
    assert (caught.value.kind, caught.value.name) == ("request", "EmbeddingsUnsupported")


async def test_an_unknown_parameter_is_refused_by_name(
    transport: Transport, recipe: ModuleType
) -> None:
    with pytest.raises(CourierError, match="min_sise") as caught:
        await segment(transport, images_of(recipe)["YX"], min_sise=3)
    assert (caught.value.kind, caught.value.name) == ("request", "WrongParameter")


def segment_files(home: Home, results: Path, images: list[Path], *options: str) -> str:
    """Run ``samcourier segment`` into ``results`` over the service at home."""
    command = [sys.executable, "-m", "samcourier.cli", "segment", *map(str, images)]
    command += ["--dataset-dir", str(results), "--engine", "microsam-small"]
    command += ["--engine-options", json.dumps(home.engine_options), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BATCH_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return done.stderr


def methods_called(results: Path) -> dict[str, list[str]]:
    logs = {path.stem: json.loads(path.read_text()) for path in (results / "logs").glob("*.json")}
    return {name: [call["method"] for call in log["attempts"]] for name, log in logs.items()}


def test_kept_embeddings_give_the_same_masks_without_the_encoder(
    home: Home, engine: Any, recipe: ModuleType, tmp_path: Path
) -> None:
    images = {
        "gray": recipe.draw_blobs(5, (200, 260))[0],
        "pair": np.stack([recipe.draw_blobs(seed, (97, 131))[0] for seed in (6, 7)]),
        "flat": np.full((50, 60), 7, np.uint16),
    }
    paths = [tmp_path / f"{name}.tif" for name in images]
    for path, image in zip(paths, images.values(), strict=True):
        axes = {"axes": "CYX"[-image.ndim :]}
        tifffile.imwrite(path, image, ome=True, metadata=axes, photometric="minisblack")
    keep = ("--embeddings", "keep", "--embeddings-folder", str(tmp_path / "kept"))
    results = home.dataset_dir
    for number, parameters in enumerate(({"min_size": 10}, {"foreground_threshold": 0.6})):
        segment_files(home, results, paths, *keep, "--parameters", json.dumps(parameters))
        for name, image in images.items():
            expected = engine.segment(image, "CYX"[-image.ndim :], parameters)
            mask = read_mask(results / "masks" / f"{name}.ome.zarr")
            np.testing.assert_array_equal(mask, expected)
            called = ["encode_image", "segment_all"][number:]
            assert methods_called(results)[name] == called
    assert len(list((tmp_path / "kept").glob("*.embedding"))) == 3


def test_a_batch_ends_with_masks_and_a_report(
    home: Home, engine: Any, recipe: ModuleType, tmp_path: Path
) -> None:
    images = {f"cells{seed}": recipe.draw_blobs(seed)[0] for seed in range(2)}
    for name, image in images.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
    paths = [tmp_path / f"{name}.tif" for name in images]
    segment_files(home, home.dataset_dir, paths, "--parameters", json.dumps(PARAMETERS))
    for name, image in images.items():
        mask = read_mask(home.dataset_dir / "masks" / f"{name}.ome.zarr")
        np.testing.assert_array_equal(mask, engine.segment(image, "YX", PARAMETERS))
        log = json.loads((home.dataset_dir / "logs" / f"{name}.json").read_text())
        assert log["status"] == "done"
        assert log["service"]["engine"] == "microsam-small"
        assert log["parameters"] == PARAMETERS
    assert (home.dataset_dir / "report.html").stat().st_size > 0
    assert (home.dataset_dir / "complete.json").exists()
