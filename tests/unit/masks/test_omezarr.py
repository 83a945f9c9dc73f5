from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic_zarr.v2
import pytest
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ome_zarr_models import v04, v05

from samcourier.errors import ServiceFailed
from samcourier.images.geometry import Geometry
from samcourier.masks import omezarr as masks
from samcourier.masks import zarr_format as mask_layout
from samcourier.masks.coordinates import Coordinates
from samcourier.masks.integrity import OmeZarrVersion, is_complete, read_provenance, stat_mask
from samcourier.masks.omezarr import (
    MaskFacts,
    MaskPixels,
    check_mask,
    labels_sha256,
    read_mask,
    remove_leftovers,
    write_mask,
)

VERSIONS: tuple[OmeZarrVersion, ...] = ("0.4", "0.5")
IMAGE_LABEL: dict[str, Any] = {"0.4": v04.ImageLabel, "0.5": v05.ImageLabel}
# ome-zarr-models#417: with pydantic 2.13 and later its 0.4 models do not find their own types.
for model in (v04.Image, v04.ImageLabel):
    model.model_rebuild(force=True, _types_namespace=vars(pydantic_zarr.v2))
PROVENANCE = {"key": "k" * 64, "service": {"engine": "watershed"}}
STEM = "cells.ome.zarr"


def in_um(axes: str, *sizes_um: float | None) -> Coordinates:
    return Coordinates.of(Geometry.in_um(axes, sizes_um))


def sparse_mask(*shape: int) -> np.ndarray:
    """Objects with ids far apart, so that any averaging invents an id."""
    mask = np.zeros(shape, np.uint32)
    mask[..., 3:90, 5:70] = 7
    mask[..., 100:, 40:200] = 70_001
    mask[..., 50:60, 210:] = 2**32 - 1
    return mask


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> OmeZarrVersion:
    return "0.4" if request.param == "0.4" else "0.5"


def write(path: Path, mask: MaskPixels, version: OmeZarrVersion = "0.4", **more: Any) -> MaskFacts:
    axes = more.pop("axes", "TZYX"[-len(mask.shape) :])
    return write_mask(path, mask, axes, provenance=PROVENANCE, ome_zarr=version, **more)


def validate_with_yaozarrs(path: Path, version: OmeZarrVersion) -> None:
    yaozarrs.validate_zarr_store(str(path))


def validate_with_ome_zarr_models(path: Path, version: OmeZarrVersion) -> None:
    IMAGE_LABEL[version].from_zarr(zarr.open_group(path, mode="r"))


VALIDATORS = (validate_with_yaozarrs, validate_with_ome_zarr_models)


@dataclass
class MadeAsRead:
    """A mask that is not in memory: counts the most pixels asked for at once."""

    pixels: np.ndarray
    dtype = np.dtype(np.uint32)
    largest_block_px: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape

    def __getitem__(self, block: Any) -> np.ndarray:
        part = self.pixels[block].copy()
        self.largest_block_px = max(self.largest_block_px, part.size)
        return part


@pytest.mark.parametrize("shape", [(300, 280), (1, 1), (517, 1300), (2, 600, 300), (2, 3, 70, 40)])
def test_a_mask_written_block_by_block_is_the_same_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: OmeZarrVersion, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(mask_layout, "CHUNK_EDGE", 64)
    monkeypatch.setattr(mask_layout, "_SMALLEST_LEVEL_EDGE", 16)
    monkeypatch.setattr(masks, "_DIGEST_EDGE", 64)
    mask = sparse_mask(*shape)
    whole = write(tmp_path / "whole" / STEM, mask, version)
    monkeypatch.setattr(masks, "_BLOCK_BYTES", 1)
    for number, source in enumerate((mask, made := MadeAsRead(mask))):
        assert write(tmp_path / str(number) / STEM, source, version) == whole
    assert made.largest_block_px <= 64 * 64 * 4 * 4


@pytest.mark.parametrize("validate", VALIDATORS)
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((300, 280), "YX"),
        ((1100, 1030), "YX"),
        ((3, 300, 280), "ZYX"),
        ((3, 300, 280), "TYX"),
        ((2, 5, 300, 280), "TZYX"),
        ((1, 1), "YX"),
    ],
)
def test_a_mask_is_valid_for_both_validators_and_level_0_is_equal(
    tmp_path: Path,
    shape: tuple[int, ...],
    axes: str,
    version: OmeZarrVersion,
    validate: Callable[[Path, OmeZarrVersion], None],
) -> None:
    path, mask = tmp_path / STEM, sparse_mask(*shape)
    write(
        path,
        mask,
        version,
        coordinates=in_um(axes, *(0.5 if axis in "YX" else None for axis in axes)),
        axes=axes,
    )
    validate(path, version)
    np.testing.assert_array_equal(read_mask(path), mask)
    assert read_mask(path).dtype == np.uint32


@pytest.mark.parametrize("validate", VALIDATORS)
def test_the_validators_are_awake(
    tmp_path: Path, version: OmeZarrVersion, validate: Callable[[Path, OmeZarrVersion], None]
) -> None:
    path = tmp_path / STEM
    write(path, sparse_mask(300, 280), version)
    root = path / ("zarr.json" if version == "0.5" else ".zattrs")
    root.write_text(root.read_text().replace('"name": "x"', '"name": "y"'))
    with pytest.raises((ValueError, RuntimeError), match=r"unique|[Dd]uplicate"):
        validate(path, version)


def ome_attributes(path: Path) -> Any:
    attributes = dict(zarr.open_group(path, mode="r").attrs)
    return attributes.get("ome", attributes)


def test_lower_levels_halve_y_and_x_and_invent_no_id(
    tmp_path: Path, version: OmeZarrVersion
) -> None:
    path, mask = tmp_path / STEM, sparse_mask(2, 1030, 601)
    write(path, mask, version, coordinates=in_um("ZYX", 2.0, 0.5, 0.25))
    datasets = ome_attributes(path)["multiscales"][0]["datasets"]
    levels = [
        np.asarray(zarr.open_array(path / entry["path"], mode="r")[...]) for entry in datasets
    ]
    assert [level.shape for level in levels] == [
        (2, 1030, 601),
        (2, 515, 301),
        (2, 258, 151),
        (2, 129, 76),
    ]
    for level in levels:
        assert set(np.unique(level)) == set(np.unique(mask))
    assert [entry["coordinateTransformations"][0]["scale"] for entry in datasets] == [
        [2.0, 0.5, 0.25], [2.0, 1.0, 0.5], [2.0, 2.0, 1.0], [2.0, 4.0, 2.0],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sizes_um", "scale", "units"),
    [
        ((None, None, None), [1.0, 1.0, 1.0], [None, None, None]),
        ((None, 0.5, 0.5), [1.0, 0.5, 0.5], [None, "micrometer", "micrometer"]),
        ((3.0, 0.5, 0.25), [3.0, 0.5, 0.25], ["micrometer"] * 3),
    ],
)
def test_only_a_known_pixel_size_has_a_unit(
    tmp_path: Path, sizes_um: Any, scale: list[float], units: list[str | None]
) -> None:
    write(tmp_path / STEM, np.ones((2, 4, 4), np.uint32), coordinates=in_um("ZYX", *sizes_um))
    multiscale = ome_attributes(tmp_path / STEM)["multiscales"][0]
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == scale
    assert [axis.get("unit") for axis in multiscale["axes"]] == units


def test_old_readers_can_open_0_4(tmp_path: Path) -> None:
    write(tmp_path / STEM, sparse_mask(1100, 300))
    array = json.loads((tmp_path / STEM / "0" / ".zarray").read_text())
    assert array["zarr_format"] == 2
    assert array["dimension_separator"] == "/"
    assert array["compressor"] == {
        "id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 0, "blocksize": 1 << 20,
    }  # fmt: skip


def test_every_chunk_is_written_though_the_mask_is_empty(
    tmp_path: Path, version: OmeZarrVersion
) -> None:
    write(tmp_path / STEM, np.zeros((1100, 1030), np.uint32), version)
    chunks = [p for p in (tmp_path / STEM / "0").rglob("*") if p.is_file() and p.name.isdigit()]
    assert len(chunks) == 4


def test_the_facts_are_counted_over_all_files_and_stored(
    tmp_path: Path, version: OmeZarrVersion
) -> None:
    path = tmp_path / STEM
    mask = sparse_mask(300, 280)
    facts = write(path, mask, version)
    files = [p for p in path.rglob("*") if p.is_file()]
    assert facts[:2] == (len(files), sum(p.stat().st_size for p in files)) == stat_mask(path)
    labels = {"labels_sha256": labels_sha256(mask)}
    assert read_provenance(path) == PROVENANCE | labels | facts._asdict()
    assert is_complete(path)


def test_the_same_mask_has_the_same_digest_elsewhere(tmp_path: Path) -> None:
    mask = sparse_mask(300, 280)
    assert write(tmp_path / STEM, mask) == write(tmp_path / "far" / "off" / STEM, mask)
    mask[0, 0] = 1
    assert write(tmp_path / "other" / STEM, mask) != write(tmp_path / STEM, sparse_mask(300, 280))


def first_file(path: Path, name: str) -> Path:
    return min(p for p in path.rglob(name) if p.is_file())


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "files", "seen_without_reading"),
    [
        (truncate, ("[0-9]",), True),
        (empty, ("[0-9]",), True),
        (Path.unlink, ("[0-9]",), True),
        (flip_a_bit, ("[0-9]",), False),
        (truncate, (".zarray", "[0-9]/zarr.json"), True),
        (Path.unlink, (".zarray", "[0-9]/zarr.json"), True),
        (flip_a_bit, (".zarray", "[0-9]/zarr.json"), False),
        (truncate, (".zattrs", "zarr.json"), True),
        (empty, (".zattrs", "zarr.json"), True),
        (Path.unlink, (".zattrs", "zarr.json"), True),
        (Path.unlink, (".zgroup",), True),
    ],
)
def test_every_damage_is_noticed(
    tmp_path: Path,
    version: OmeZarrVersion,
    damage: Callable[[Path], None],
    files: tuple[str, ...],
    seen_without_reading: bool,
) -> None:
    path = tmp_path / STEM
    facts = write(path, sparse_mask(300, 280), version)
    found = [p for name in files for p in path.rglob(name) if p.is_file()]
    if not found:
        assert version == "0.5"
        assert files == (".zgroup",)
        return
    damage(min(found, key=lambda p: (len(p.parts), p)))
    assert not is_complete(path)
    assert (stat_mask(path) != facts[:2]) is seen_without_reading


def test_a_changed_word_of_the_provenance_is_noticed(
    tmp_path: Path, version: OmeZarrVersion
) -> None:
    path = tmp_path / STEM
    facts = write(path, sparse_mask(300, 280), version)
    root = path / ("zarr.json" if version == "0.5" else ".zattrs")
    root.write_text(root.read_text().replace("watershed", "watershod"))
    assert stat_mask(path) == facts[:2]
    assert not is_complete(path)


def test_a_stray_file_of_a_file_browser_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / STEM
    write(path, sparse_mask(300, 280))
    (path / "0" / ".DS_Store").write_bytes(b"x")
    assert is_complete(path)


@pytest.mark.parametrize(
    "attributes",
    ["", "{", "[]", "null", '{"samcourier": 3}', '{"other": {}}', "\xff", "[" * 100_000],
)
def test_damaged_attributes_have_no_provenance(tmp_path: Path, attributes: str) -> None:
    path = tmp_path / STEM
    write(path, np.ones((4, 4), np.uint32))
    (path / ".zattrs").write_text(attributes, encoding="latin-1")
    assert read_provenance(path) is None
    assert not is_complete(path)


def test_what_is_absent_or_a_file_is_no_mask(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "absent", tmp_path / "file"):
        assert read_provenance(path) is None
        assert stat_mask(path) is None
        assert not is_complete(path)


@pytest.mark.parametrize("before", ["mask", "damaged", "file"])
def test_a_new_mask_replaces_what_was_there(tmp_path: Path, before: str) -> None:
    path = tmp_path / STEM
    if before == "file":
        path.write_text("not a mask")
    else:
        write(path, sparse_mask(2, 300, 280), "0.5")
    if before == "damaged":
        shutil.rmtree(path / "0")
    write(path, sparse_mask(300, 280))
    np.testing.assert_array_equal(read_mask(path), sparse_mask(300, 280))
    assert is_complete(path)
    assert os.listdir(tmp_path) == [STEM]


class Interrupted(BaseException):
    """Stands for Ctrl-C."""


def raising(*_: object, **__: object) -> None:
    raise Interrupted


INTERRUPTIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "writing an array": lambda patch: patch.setattr(zarr, "create_array", raising),
    "writing the attributes": lambda patch: patch.setattr(masks, "_write_root", raising),
    "reading back": lambda patch: patch.setattr(zarr, "open_array", raising),
    "renaming": lambda patch: patch.setattr(os, "rename", raising),
    "renaming the new one": lambda patch: patch.setattr(os, "rename", rename_but_the_new()),
}


def rename_but_the_new() -> Callable[[Path, Path], None]:
    rename = os.rename

    def rename_or_raise(source: Path, target: Path) -> None:
        if source.name.endswith(".part"):
            raise Interrupted
        rename(source, target)

    return rename_or_raise


@pytest.mark.parametrize("step", INTERRUPTIONS)
@pytest.mark.parametrize("has_old", [False, True])
def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, step: str, has_old: bool
) -> None:
    path = tmp_path / STEM
    if has_old:
        write(path, sparse_mask(300, 280))
    with pytest.MonkeyPatch.context() as patch:
        INTERRUPTIONS[step](patch)
        with pytest.raises(Interrupted):
            write(path, np.ones((300, 280), np.uint32))
    assert os.listdir(tmp_path) == [STEM] * has_old
    if has_old:
        assert is_complete(path)
        np.testing.assert_array_equal(read_mask(path), sparse_mask(300, 280))


def test_a_disk_that_gives_back_other_labels_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr, "open_array", lambda *_, **__: zarr.zeros((4, 4), dtype="uint32"))
    with pytest.raises(OSError, match=r"differs.*cells"):
        write(tmp_path / STEM, np.ones((4, 4), np.uint32))
    assert os.listdir(tmp_path) == []


def renames_until_killed(patch: pytest.MonkeyPatch, allowed: int) -> None:
    """Let ``allowed`` renames happen, then nothing touches the disk any more, as after kill -9."""
    rename, remaining = os.rename, iter(range(allowed))

    def rename_or_die(source: Path, target: Path) -> None:
        if next(remaining, None) is None:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            raise Interrupted
        rename(source, target)

    patch.setattr(os, "rename", rename_or_die)


@pytest.mark.parametrize(("renames", "has_mask"), [(0, True), (1, False)])
def test_a_killed_replacement_leaves_the_old_mask_or_none(
    tmp_path: Path, renames: int, has_mask: bool
) -> None:
    path = tmp_path / STEM
    write(path, sparse_mask(300, 280))
    with pytest.MonkeyPatch.context() as patch:
        renames_until_killed(patch, renames)
        with pytest.raises(Interrupted):
            write(path, np.ones((300, 280), np.uint32))
    assert path.exists() is has_mask
    assert len(os.listdir(tmp_path)) == 2
    remove_leftovers(tmp_path, {STEM})
    assert os.listdir(tmp_path) == [STEM] * has_mask
    assert is_complete(path) is has_mask


@pytest.mark.parametrize(
    ("name", "is_leftover"),
    [
        (".a.ome.zarr.0123abcd.part", True),
        (".a.ome.zarr.0123abcd.old", True),
        ("a.ome.zarr", False),
        (".a.ome.zarr.notes", False),
        (".b.ome.zarr.0123abcd.part", False),
        (".aa.ome.zarr.0123abcd.part", False),
        (".a.ome.zarr.0123abcd.ome.zarr.0123abcd.part", False),
    ],
)
def test_only_this_masks_leftovers_are_removed(
    tmp_path: Path, name: str, is_leftover: bool
) -> None:
    (tmp_path / name / "0").mkdir(parents=True)
    remove_leftovers(tmp_path, {"a.ome.zarr"})
    assert (tmp_path / name).exists() is not is_leftover


def test_leftovers_of_a_directory_that_is_absent_are_none(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "absent", {STEM})


@pytest.mark.parametrize(
    ("mask", "axes", "coordinates"),
    [
        (np.zeros((4, 4), np.int32), "YX", None),
        (np.zeros((4, 4), np.uint32), "ZYX", None),
        (np.zeros((4, 4), np.uint32), "XY", None),
        (np.zeros((0, 4), np.uint32), "YX", None),
        (np.zeros((4, 4), np.uint32), "YX", in_um("ZYX", 1.0, 1.0, 1.0)),
    ],
)
def test_a_mask_that_was_not_checked_is_refused(
    tmp_path: Path, mask: np.ndarray, axes: str, coordinates: Any
) -> None:
    with pytest.raises(ValueError, match="expected"):
        write_mask(tmp_path / STEM, mask, axes, provenance={}, coordinates=coordinates)
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("round-trip")


@settings(max_examples=30, deadline=None)
@given(
    mask=hnp.arrays(np.uint32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9)),
    version=st.sampled_from(VERSIONS),
)
def test_any_mask_comes_back_as_it_went(
    scratch: Path, mask: np.ndarray, version: OmeZarrVersion
) -> None:
    write(scratch / STEM, mask, version)
    np.testing.assert_array_equal(read_mask(scratch / STEM), mask)
    assert is_complete(scratch / STEM)


@pytest.mark.parametrize(
    "dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", ">u2", ">u4", ">i8"]
)
def test_any_integer_mask_becomes_uint32(dtype: str) -> None:
    mask = np.array([[0, 1, 2], [3, 4, 100]], dtype)
    checked = check_mask(mask[:, ::-1], (5, 2, 3), "CYX")
    assert checked.dtype == np.uint32
    assert checked.dtype.isnative
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, [[2, 1, 0], [100, 4, 3]])


@pytest.mark.parametrize(
    ("mask", "shape", "axes", "message"),
    [
        (np.zeros((4, 5), "u2"), (5, 4), "YX", r"\(4, 5\), expected \(5, 4\)"),
        (np.zeros((2, 4, 5), "u2"), (2, 4, 5), "CYX", r"\(2, 4, 5\), expected \(4, 5\)"),
        (np.zeros((4, 5), "u2"), (3, 4, 5), "ZYX", r"expected \(3, 4, 5\)"),
        (np.zeros((4, 5), "f4"), (4, 5), "YX", "is float32, expected integer"),
        (np.full((4, 5), np.nan), (4, 5), "YX", "float64 with NaN or infinity"),
        (np.zeros((4, 5), bool), (4, 5), "YX", "is bool"),
        (np.full((4, 5), -1), (4, 5), "YX", "holds -1, expected labels of 0"),
        (np.full((4, 5), 2**32), (4, 5), "YX", "holds 4294967296, expected labels within uint32"),
        ([[1, 2]], (1, 2), "YX", "is a list"),
        (None, (1, 2), "YX", "is a NoneType"),
    ],
)
def test_a_mask_that_does_not_fit_its_image_is_the_services_failure(
    mask: Any, shape: tuple[int, ...], axes: str, message: str
) -> None:
    with pytest.raises(ServiceFailed, match=message):
        check_mask(mask, shape, axes)
