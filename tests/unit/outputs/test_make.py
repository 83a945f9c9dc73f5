"""What is made of a mask beside it: which, when anew, and that no image is read for nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import psutil
import pyarrow.parquet
import pytest
import shapely
import tifffile
import zarr

from samcourier.errors import InputError
from samcourier.images.geometry import SheetSize, sizes_of_sheet
from samcourier.images.planes import Planes, open_planes
from samcourier.images.selection import Selection, parse_pick
from samcourier.masks.omezarr import write_mask
from samcourier.outputs import make as outputs_module
from samcourier.outputs.make import Outputs, require_outputs_extra
from samcourier.outputs.parts import OutputsSource
from samcourier.results.image_log import OutputRecord
from samcourier.results.layout import (
    OUTPUT_FILES,
    mask_path,
    output_path,
    output_sha256,
    stat_output,
)
from samcourier.samples.sheet import ImageRow

MADE = [*OUTPUT_FILES]


def cells(*shape: int) -> np.ndarray:
    mask = np.zeros(shape, np.uint32)
    mask[..., 2:6, 3:8] = 3
    mask[..., 10:12, :] = 70_000
    return mask


class Home:
    """One image, its mask on the disk, and runs of the outputs over it."""

    def __init__(self, root: Path, pixels: np.ndarray, axes: str, **selection: Any) -> None:
        self.dataset_dir = root / "run"
        self.row = ImageRow("cell", root / "cell.ome.tif", Selection(**selection))
        self.pixel_size_um: SheetSize | None = 0.5
        self.records: dict[str, OutputRecord] = {}
        self.reads = 0
        tifffile.imwrite(self.row.path, pixels, ome=True, metadata={"axes": axes})

    @contextmanager
    def opened(self) -> Iterator[Planes]:
        with open_planes(self.row.path, self.row.selection) as planes:
            read = planes.read

            def counted(number: int = 0) -> Any:
                self.reads += 1
                return read(number)

            planes.read = counted  # type: ignore[method-assign]
            yield planes

    def path(self, name: str) -> Path:
        return output_path(self.dataset_dir, "cell", name)

    def run(
        self, *names: str, seen: bool = False, tiled: bool = False, **more: Any
    ) -> dict[str, OutputRecord]:
        """Complete the outputs; ``seen`` shows the planes first, as after segmenting.

        Where the image went as tiles, no plane of it is at hand.
        """
        self.reads = 0
        with self.opened() as planes:
            first = planes.read()
            sizes_um = sizes_of_sheet(self.pixel_size_um)
            geometry = planes.geometry.with_sizes_um(sizes_um)
            source = OutputsSource(self.row, planes, first.pixels_sha256, geometry)
            outputs = Outputs(self.dataset_dir, names, source, **more)
            provenance = {"key": source.key, "object_count": 2}
            mask = mask_path(self.dataset_dir, "cell")
            labels = cells(*planes.mask_shape)
            write_mask(mask, labels, planes.mask_axes, provenance=provenance)
            parts = []
            for number in range(len(planes)) if seen else ():
                pixels = (first if number == 0 else planes.read(number)).pixels
                parts.append(outputs.parts_of(number, pixels, labels[planes.position(number)]))
            self.records = outputs.make(
                self.records, mask, provenance, None if tiled else first, parts
            )
        return self.records

    def mtimes(self) -> dict[str, int]:
        return {
            name: self.path(name).stat().st_mtime_ns for name in MADE if self.path(name).exists()
        }


@pytest.fixture
def plane(tmp_path: Path) -> Home:
    return Home(tmp_path, np.arange(14 * 20, dtype=np.uint16).reshape(14, 20), "YX")


@pytest.fixture
def movie(tmp_path: Path) -> Home:
    pixels = np.arange(5 * 14 * 20, dtype=np.uint16).reshape(5, 14, 20)
    return Home(tmp_path, pixels, "TYX", t=parse_pick("1-3", volume=False))


@pytest.mark.parametrize("seen", [True, False])
def test_every_output_is_made_whole_and_recorded(plane: Home, seen: bool) -> None:
    records = plane.run(*MADE, seen=seen)
    assert list(records) == MADE
    for name, record in records.items():
        assert (record.files, record.bytes) == (1, plane.path(name).stat().st_size)
        assert record.refused is None
    np.testing.assert_array_equal(tifffile.imread(plane.path("tiff")), cells(14, 20))
    table = pyarrow.parquet.read_table(plane.path("objects_parquet"))
    assert table["id"].to_pylist() == [3, 70_000]
    assert table["area_um2"].to_pylist() == [5.0, 10.0]
    features = json.loads(plane.path("polygons").read_text())["features"]
    areas = [shapely.from_geojson(json.dumps(each["geometry"])).area for each in features]
    assert areas == table["area_px"].to_pylist() == [20, 40]
    picture = imagecodecs.png_decode(plane.path("preview").read_bytes())
    assert picture.shape == (14, 20, 3)
    assert plane.reads == 1, "the plane in memory serves all outputs"


def test_the_mask_is_not_opened_where_nothing_is_missing(
    plane: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = plane.run(*MADE)
    monkeypatch.setattr(outputs_module, "opened_mask", None)
    assert plane.run(*MADE) == records


@pytest.mark.parametrize("seen", [True, False])
def test_a_stack_has_rows_and_polygons_of_each_plane(movie: Home, seen: bool) -> None:
    movie.run(*MADE, seen=seen)
    with movie.path("objects_csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["t"], row["z"], row["id"]) for row in rows] == [
        (t, "", number) for t in "123" for number in ("3", "70000")
    ]
    assert float(rows[4]["intensity_max"]) == 3 * 14 * 20 + 5 * 20 + 7
    features = json.loads(movie.path("polygons").read_text())["features"]
    assert [each["geometry"]["plane"]["t"] for each in features] == [1, 1, 2, 2, 3, 3]
    assert tifffile.imread(movie.path("tiff")).shape == (3, 14, 20)
    assert movie.reads == 3, "each plane is read once"


@pytest.mark.parametrize("image", ["plane", "movie"])
def test_of_an_image_that_went_as_tiles_the_preview_alone_reads_no_whole_plane(
    image: str, request: pytest.FixtureRequest
) -> None:
    home: Home = request.getfixturevalue(image)
    home.run("preview", seen=True)
    content = home.path("preview").read_bytes()
    home.path("preview").unlink()
    home.run("preview", tiled=True)
    assert home.reads == 1, "the one that the test itself reads"
    assert home.path("preview").read_bytes() == content
    home.run("preview", "objects_csv", tiled=True)
    assert home.path("objects_csv").exists()


def test_what_is_beyond_the_memory_is_refused_and_the_rest_is_made(
    plane: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.run(*MADE)
    other_pixels(plane)
    left = psutil.virtual_memory()._replace(available=14 * 20 * 2 + 1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: left)
    records = plane.run(*MADE, tiled=True)
    refused = {name: record.refused for name, record in records.items() if record.refused}
    assert refused.keys() == {"objects_csv", "objects_parquet", "polygons"}
    assert "cell.ome.tif: needs 0.0 GB of memory for a whole plane" in refused["polygons"]
    assert sorted(plane.mtimes()) == ["preview", "tiff"], "and no table of another mask stays"
    monkeypatch.undo()
    assert plane.run(*MADE, tiled=True) == records
    plane.run(*MADE, tiled=True, retry_refused=True)
    assert sorted(plane.mtimes()) == sorted(MADE)


def test_a_volume_is_measured_as_one_and_outlined_depth_by_depth(tmp_path: Path) -> None:
    pixels = np.ones((4, 14, 20), np.uint16)
    volume = Home(tmp_path, pixels, "ZYX", z=parse_pick("volume 1-3", volume=True))
    sizes = {"PhysicalSizeZ": 2000.0, "PhysicalSizeZUnit": "nm"}
    tifffile.imwrite(volume.row.path, pixels, ome=True, metadata={"axes": "ZYX", **sizes})
    volume.run(*MADE)
    (small, _) = pyarrow.parquet.read_table(volume.path("objects_parquet")).to_pylist()
    assert (small["volume_px"], small["z"], small["centroid_z_px"]) == (60, 1, 1.0)
    features = json.loads(volume.path("polygons").read_text())["features"]
    assert sorted(each["geometry"]["plane"]["z"] for each in features) == [1, 1, 2, 2, 3, 3]
    assert small["volume_um3"] == 60 * 0.5 * 0.5 * 2
    with tifffile.TiffFile(volume.path("tiff")) as tiff:
        assert 'PhysicalSizeZ="2000.0" PhysicalSizeZUnit="nm"' in (tiff.ome_metadata or "")


def test_what_is_whole_is_kept_and_nothing_is_read_again(movie: Home) -> None:
    first = movie.run(*MADE)
    before = movie.mtimes()
    assert movie.run(*MADE) == first
    assert movie.mtimes() == before
    assert movie.reads == 1


def damaged(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"!" + content[-1:])


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("damage", [Path.unlink, damaged, lambda path: path.write_bytes(b"")])
def test_only_what_is_missing_or_damaged_is_made_again(
    plane: Home, name: str, damage: Callable[[Path], None]
) -> None:
    plane.run(*MADE)
    before = plane.mtimes()
    content = plane.path(name).read_bytes()
    damage(plane.path(name))
    plane.run(*MADE)
    after = plane.mtimes()
    assert {each for each in MADE if after[each] != before[each]} == {name}
    if name != "tiff":  # tifffile gives each OME-TIFF an id of its own
        assert plane.path(name).read_bytes() == content


def other_pixel_size(home: Home) -> None:
    home.pixel_size_um = 2.0


def other_pixels(home: Home) -> None:
    tifffile.imwrite(home.row.path, np.ones((14, 20), np.uint16))


def other_version(home: Home) -> None:
    outputs_module.OUTPUTS_VERSION += 1


@pytest.mark.parametrize("change", [other_pixel_size, other_pixels, other_version])
def test_whatever_they_depend_on_makes_them_anew(
    plane: Home, monkeypatch: pytest.MonkeyPatch, change: Callable[[Home], None]
) -> None:
    monkeypatch.setattr(outputs_module, "OUTPUTS_VERSION", outputs_module.OUTPUTS_VERSION)
    first = plane.run(*MADE)
    before = plane.mtimes()
    change(plane)
    second = plane.run(*MADE)
    after = plane.mtimes()
    for name in MADE:
        assert second[name].made_from != first[name].made_from
        assert after[name] != before[name]


def test_an_output_no_longer_asked_for_stays_while_it_is_true(plane: Home) -> None:
    plane.run("objects_csv", "preview")
    assert list(plane.run("preview")) == ["objects_csv", "preview"]
    other_pixels(plane)
    assert list(plane.run("preview")) == ["preview"]
    assert not plane.path("objects_csv").exists(), "a table of another mask is worse than none"


def test_a_write_that_fails_leaves_what_was_there(
    plane: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.run("preview")
    content = plane.path("preview").read_bytes()
    other_pixel_size(plane)

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("samcourier.outputs.previews.png", disk_full)
    with pytest.raises(OSError, match="No space"):
        plane.run("preview")
    assert plane.path("preview").read_bytes() == content
    assert [path.name for path in plane.path("preview").parent.iterdir()] == ["cell.png"]


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize(
    ("broken", "refused"),
    [
        ("samcourier.outputs.objects.measure", {"objects_csv", "objects_parquet"}),
        ("samcourier.outputs.polygons.features", {"polygons"}),
        ("samcourier.outputs.previews.preview", {"preview"}),
        ("samcourier.outputs.objects.write_csv", {"objects_csv"}),
    ],
)
def test_what_goes_wrong_with_one_output_is_no_matter_of_the_others(
    plane: Home, monkeypatch: pytest.MonkeyPatch, broken: str, refused: set[str], seen: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no 30 GB")

    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        records = plane.run(*MADE, seen=seen)
    said = {name: record.refused for name, record in records.items() if record.refused}
    assert said == dict.fromkeys(refused, "MemoryError: no 30 GB")
    assert set(plane.mtimes()) == set(MADE) - refused
    assert plane.run(*MADE) == records, "asked for again only with retry_failed"
    again = plane.run(*MADE, retry_refused=True)
    assert not any(record.refused for record in again.values())


def test_labels_in_an_input_that_takes_none_are_refused_and_the_rest_is_made(plane: Home) -> None:
    records = plane.run("input_labels", "preview")
    assert "no OME-Zarr folder" in (records["input_labels"].refused or "")
    assert plane.path("preview").exists()
    assert plane.run("input_labels", "preview") == records
    again = plane.run("input_labels", retry_refused=True)
    assert again["input_labels"].refused == records["input_labels"].refused


def test_labels_go_into_an_ome_zarr_input_by_the_name_of_run_and_image(tmp_path: Path) -> None:
    pixels = np.ones((14, 20), np.uint16)
    home = Home(tmp_path, pixels, "YX")
    home.row.path.unlink()
    write_mask(home.row.path, pixels.astype(np.uint32), "YX", provenance={})
    record = home.run("input_labels")["input_labels"]
    label = home.row.path / "labels" / "run_cell"
    assert record.path == str(label)
    assert (record.files, record.bytes) == stat_output(label)
    assert record.sha256 == output_sha256(label)
    np.testing.assert_array_equal(zarr.open_array(label / "0", mode="r")[...], cells(14, 20))
    (label / "0" / "0" / "0").unlink()
    assert home.run("input_labels") == {"input_labels": record}
    assert (label / "0" / "0" / "0").exists()


@pytest.mark.parametrize(
    ("names", "absent", "words"),
    [
        (["objects_csv"], "pyarrow", "objects_csv needs: pip install 'samcourier\\[outputs\\]'"),
        (["tiff", "polygons"], "skimage", "polygons needs"),
        (["tiff", "input_labels"], "skimage", None),
    ],
)
def test_a_missing_package_is_named_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, names: list[str], absent: str, words: str | None
) -> None:
    monkeypatch.setattr(outputs_module, "find_spec", lambda name: None if name == absent else 1)
    if words is None:
        require_outputs_extra(names)
    else:
        with pytest.raises(InputError, match=words):
            require_outputs_extra(names)
