"""The demo's images: as the table says, the same bytes every time, whole or absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from samcourier.samples import demo
from samcourier.samples.demo import DEMO_IMAGES, DemoImage, sample_sheet, write_demo, write_image

ROOT = Path(__file__).parents[3]
SMALL = {image.id: image for image in DEMO_IMAGES if max(image.size_px) <= 640}
KINDS = [SMALL[f"nuclei_{number}"] for number in ("01", "02", "04", "05", "07", "08", "13")]


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_the_table_holds_what_the_demo_promises() -> None:
    assert [image.id for image in DEMO_IMAGES] == [f"nuclei_{n:02}" for n in range(1, 25)]
    assert {image.dtype for image in DEMO_IMAGES} == {"uint8", "uint16"}
    assert {image.channels for image in DEMO_IMAGES} == {1, 2, 3}
    assert sum(image.cell_count == 0 for image in DEMO_IMAGES) == 1
    assert sum(image.size_px == (2048, 2048) for image in DEMO_IMAGES) == 4
    assert all(512 <= size <= 2048 for image in DEMO_IMAGES for size in image.size_px)
    assert all(image.pixel_size_um is not None for image in DEMO_IMAGES if image.ome)


def test_the_sample_sheet_in_config_is_the_demos() -> None:
    assert (ROOT / "config" / "images.tsv").read_text(encoding="utf-8") == sample_sheet()


@pytest.mark.parametrize("image", KINDS, ids=lambda image: image.id)
def test_files_are_as_the_table_says(image: DemoImage, tmp_path: Path) -> None:
    write_image(image, tmp_path)
    with tifffile.TiffFile(tmp_path / f"{image.id}.tif") as file:
        series = file.series[0]
        pixels = series.asarray()
        assert series.axes == image.axes
        assert file.is_ome == image.ome and file.is_imagej != image.ome
        if image.ome:
            assert f'PhysicalSizeX="{image.pixel_size_um}"' in str(file.ome_metadata)
    leading = () if image.channels == 1 else (image.channels,)
    assert pixels.shape == (*leading, *image.size_px) and pixels.dtype == image.dtype
    truth = tifffile.imread(tmp_path / "truth" / f"{image.id}.tif")
    assert truth.shape == image.size_px and truth.dtype == np.uint16
    assert np.unique(truth).tolist() == list(range(image.cell_count + 1))
    assert pixels.max() < np.iinfo(pixels.dtype).max or np.mean(pixels == pixels.max()) < 0.01


@pytest.mark.parametrize("image_id", ["nuclei_01", "nuclei_04", "nuclei_05"])
def test_cells_are_brighter_than_what_surrounds_them(image_id: str, tmp_path: Path) -> None:
    image = SMALL[image_id]
    write_image(image, tmp_path)
    pixels = tifffile.imread(tmp_path / f"{image_id}.tif").reshape(-1, *image.size_px)[0]
    truth = tifffile.imread(tmp_path / "truth" / f"{image_id}.tif")
    darkest = min(pixels[truth == number].mean() for number in range(1, image.cell_count + 1))
    assert darkest > pixels[truth == 0].mean() + pixels[truth == 0].std()


def test_some_cells_touch(tmp_path: Path) -> None:
    write_image(SMALL["nuclei_03"], tmp_path)
    truth = tifffile.imread(tmp_path / "truth" / "nuclei_03.tif").astype(int)
    left, right = truth[:, :-1], truth[:, 1:]
    touching = (left != right) & (left > 0) & (right > 0)
    assert len(np.unique(left[touching])) >= 5


def test_every_file_is_written_and_a_rerun_gives_the_same_bytes_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "DEMO_IMAGES", tuple(KINDS))
    assert write_demo(tmp_path / "first") == KINDS
    first = contents(tmp_path / "first")
    names = {f"{image.id}.tif" for image in KINDS}
    assert set(first) == names | {str(Path("truth") / name) for name in names}
    monkeypatch.setattr(demo, "DEMO_IMAGES", tuple(reversed(KINDS)))
    write_demo(tmp_path / "second")
    write_demo(tmp_path / "second")
    assert contents(tmp_path / "second") == first


def test_another_seed_gives_other_images(tmp_path: Path) -> None:
    image = SMALL["nuclei_08"]
    write_image(image, tmp_path / "a", seed=7)
    write_image(image, tmp_path / "b", seed=8)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert all(first[name] != second[name] for name in first)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = SMALL["nuclei_08"]
    write_image(image, tmp_path)
    before = contents(tmp_path)

    def fill_the_disk(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"II*")
        raise OSError("no space left on device")

    monkeypatch.setattr(tifffile, "imwrite", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        write_image(image, tmp_path, seed=8)
    assert contents(tmp_path) == before
