"""Labels written into an OME-Zarr input: seen by readers, and the input as it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr.format
import ome_zarr.writer
import pydantic_zarr.v2
import pytest
import yaozarrs
import zarr
from ome_zarr_models import v04, v05

from samcourier.masks.integrity import is_complete
from samcourier.masks.omezarr import read_mask
from samcourier.outputs import input_labels
from samcourier.outputs.input_labels import LabelsRefused, write_input_labels

VERSIONS = ("0.4", "0.5")
# ome-zarr-models#417, see test_masks.
for broken in (v04.Image, v04.ImageLabel, v04.labels.Labels):
    broken.model_rebuild(force=True, _types_namespace=vars(pydantic_zarr.v2))
FORMATS = {"0.4": ome_zarr.format.FormatV04, "0.5": ome_zarr.format.FormatV05}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def write_image(path: Path, version: str, axes: str = "cyx", **sizes: int) -> Path:
    """Write an image as ome-zarr does, of 40 x 50 pixels with two channels."""
    shape = tuple({"c": 2, "y": 40, "x": 50}.get(axis, sizes.get(axis, 1)) for axis in axes)
    zarr_format = 2 if version == "0.4" else 3
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    ome_zarr.writer.write_image(
        np.arange(np.prod(shape), dtype=np.uint16).reshape(shape),
        group,
        axes=axes,
        fmt=FORMATS[version](),
        scale_factors=[],
    )
    return path


def cells(*shape: int) -> np.ndarray:
    mask = np.zeros(shape, np.uint32)
    mask[..., 3:20, 5:30] = 70_001
    return mask


def write(image: Path, name: str = "run_cell", mask: np.ndarray | None = None, **more: Any) -> Path:
    mask = cells(40, 50) if mask is None else mask
    axes = more.pop("mask_axes", "YX")
    file_axes = more.pop("file_axes", [("C", 2), ("Y", 40), ("X", 50)])
    label, _ = write_input_labels(
        image,
        more.pop("scene", None),
        name,
        mask,
        axes,
        file_axes,
        provenance={"key": "k"},
    )
    return label


def digests(image: Path) -> dict[str, str]:
    """Return the digest of every file of the image but those of its labels."""
    return {
        path.relative_to(image).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in image.rglob("*")
        if path.is_file() and "labels" not in path.relative_to(image).parts
    }


def listed(image: Path) -> list[str]:
    attributes = dict(zarr.open_group(image / "labels", mode="r").attrs)
    names: Any = attributes.get("ome", attributes)
    return list(names["labels"])


def test_the_labels_are_listed_and_lie_on_the_image(tmp_path: Path, version: str) -> None:
    image = write_image(tmp_path / "cell.ome.zarr", version)
    before = digests(image)
    label = write(image)
    assert label == image / "labels" / "run_cell"
    assert is_complete(label)
    np.testing.assert_array_equal(read_mask(label), cells(40, 50))
    assert listed(image) == ["run_cell"]
    assert digests(image) == before
    assert sorted(os.listdir(tmp_path)) == ["cell.ome.zarr"]
    attributes: Any = dict(zarr.open_group(label, mode="r").attrs)
    assert attributes.get("ome", attributes)["image-label"]["source"] == {"image": "../../"}


def test_both_validators_accept_image_and_labels(tmp_path: Path, version: str) -> None:
    image = write_image(tmp_path / "cell.ome.zarr", version)
    label = write(image)
    yaozarrs.validate_zarr_store(str(image))
    yaozarrs.validate_zarr_store(str(label))
    model: Any = {"0.4": v04, "0.5": v05}[version]
    model.ImageLabel.from_zarr(zarr.open_group(label, mode="r"))
    # ome-zarr-models 1.6 stumbles over any label of a 0.5 image that lists no colours.
    stumbles = pytest.raises(TypeError, match="NoneType") if version == "0.5" else nullcontext()
    with stumbles:
        model.Image.from_zarr(zarr.open_group(image, mode="r"))


def test_a_second_label_joins_the_first_and_one_of_ours_is_replaced(
    tmp_path: Path, version: str
) -> None:
    image = write_image(tmp_path / "cell.ome.zarr", version)
    write(image, "one")
    write(image, "two")
    write(image, "one", cells(40, 50) + 1)
    assert listed(image) == ["one", "two"]
    np.testing.assert_array_equal(read_mask(image / "labels" / "one"), cells(40, 50) + 1)


def test_labels_of_others_stay(tmp_path: Path, version: str) -> None:
    image = write_image(tmp_path / "cell.ome.zarr", version)
    group = zarr.open_group(image, mode="a")
    ome_zarr.writer.write_labels(
        cells(40, 50), group, "theirs", axes="yx", fmt=FORMATS[version](), scale_factors=[]
    )
    files = digests(image / "labels" / "theirs")
    write(image)
    assert listed(image) == ["theirs", "run_cell"]
    assert digests(image / "labels" / "theirs") == files
    with pytest.raises(LabelsRefused, match="theirs exists and was not written by samcourier"):
        write(image, "theirs")
    assert digests(image / "labels" / "theirs") == files


def test_axes_of_length_one_are_kept(tmp_path: Path, version: str) -> None:
    image = write_image(tmp_path / "cell.ome.zarr", version, "tczyx")
    file_axes = [("T", 1), ("C", 2), ("Z", 1), ("Y", 40), ("X", 50)]
    label = write(image, file_axes=file_axes)
    np.testing.assert_array_equal(read_mask(label), cells(1, 1, 40, 50))


def read_only(image: Path, patch: pytest.MonkeyPatch) -> None:
    """root may write anywhere, so the disk is made to refuse as it would anyone else."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    patch.setattr(Path, "mkdir", refuse)


def consolidated(image: Path, patch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning) if (image / "zarr.json").exists() else nullcontext():
        zarr.consolidate_metadata(image)


def no_zarr(image: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(image)
    image.write_bytes(b"II*\0")


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        (no_zarr, {}, "no OME-Zarr folder"),
        (read_only, {}, "read-only"),
        (consolidated, {}, "consolidated"),
        (None, {"file_axes": [("Z", 5), ("Y", 40), ("X", 50)]}, "covers 1 of 5 along Z"),
        (None, {"file_axes": [("Y", 40), ("T", 1), ("X", 50)]}, "axes YTX, expected one of"),
    ],
)
def test_what_takes_no_labels_is_refused_and_left_alone(
    tmp_path: Path,
    version: str,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, pytest.MonkeyPatch], None] | None,
    more: dict[str, Any],
    words: str,
) -> None:
    image = write_image(tmp_path / "cell.ome.zarr", version)
    if change:
        change(image, monkeypatch)
    before = digests(image)
    with pytest.raises(LabelsRefused, match=words):
        write(image, **more)
    monkeypatch.undo()
    assert digests(image) == before
    assert not (image / "labels").exists()


@pytest.mark.parametrize(
    "step",
    [
        {"type": "rotation", "rotation": [[0, 1], [1, 0]]},
        {"type": "scale", "path": "numbers"},
        {"type": "scale", "scale": [1, float("nan"), 1]},
    ],
)
def test_transformations_that_a_label_cannot_have_are_refused(
    tmp_path: Path, version: str, step: dict[str, Any]
) -> None:
    image = write_image(tmp_path / "cell.ome.zarr", version)
    path = image / (".zattrs" if version == "0.4" else "zarr.json")
    content = json.loads(path.read_text())
    ome = content if version == "0.4" else content["attributes"]["ome"]
    ome["multiscales"][0]["datasets"][0]["coordinateTransformations"] = [step]
    path.write_text(json.dumps(content))
    with pytest.raises(LabelsRefused, match=r"has the transformation .* expected a scale or a"):
        write(image)
    assert not (image / "labels").exists()


@pytest.mark.parametrize("step", ["write_mask", "write_atomic"])
def test_a_write_that_fails_leaves_the_input_valid(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    image = write_image(tmp_path / "cell.ome.zarr", version)

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    before, before_names = digests(image), sorted(os.listdir(image))
    monkeypatch.setattr(input_labels, step, disk_full)
    with pytest.raises(LabelsRefused, match=r"labels/.* cannot be written \(No space left"):
        write(image)
    assert sorted(os.listdir(image)) == before_names
    yaozarrs.validate_zarr_store(str(image))
    assert digests(image) == before


def test_other_metadata_of_the_labels_group_stays(tmp_path: Path, version: str) -> None:
    image = write_image(tmp_path / "cell.ome.zarr", version)
    write(image, "one")
    path = image / "labels" / (".zattrs" if version == "0.4" else "zarr.json")
    content = json.loads(path.read_text())
    (content if version == "0.4" else content["attributes"])["theirs"] = 3
    path.write_text(json.dumps(content))
    write(image, "two")
    assert dict(zarr.open_group(image / "labels", mode="r").attrs)["theirs"] == 3
    assert listed(image) == ["one", "two"]
