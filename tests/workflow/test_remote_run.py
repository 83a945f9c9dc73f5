"""Runs with images at URLs: what fails alone, what is made again; no secret is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from samcourier.masks.omezarr import read_mask
from samcourier.samples.sheet import read_sheet

from ..contract.file_server import FileServer, serving
from .test_run import RUN_TIMEOUT_S, Folder, blobs

pytestmark = [pytest.mark.live, pytest.mark.slow]

SIGNATURE = "sv=2024&sig=SECRETSIGNATURE%3D"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as running:
        running.query, running.password = SIGNATURE, "SECRETPASSWORD"
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path / "user")
    yield made
    made.wait_until_service_is_gone()


def serve_image(path: Path, pixels: np.ndarray) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", data=pixels, chunks=(80, 80))
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [0.5, 0.5]}]
    dataset = {"path": "0", "coordinateTransformations": scale}
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [dataset]}],
    }


def url_of(server: FileServer, path: str) -> str:
    return server.url.replace("//", "//ann:SECRETPASSWORD@") + f"/{path}?{SIGNATURE}"


def assert_no_secret(text: str) -> None:
    assert "SECRET" not in text


def assert_no_secret_in(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"SECRET" not in path.read_bytes(), path


def test_a_run_with_images_at_urls(folder: Folder, server: FileServer) -> None:
    """One cannot be read and fails alone; a signature that was renewed makes no mask again."""
    for seed, name in enumerate(("near", "left")):
        serve_image(server.folder / f"{name}.zarr", blobs(seed))
    server.statuses = {"left.zarr/0/c/1/1": [-403]}
    rows = [
        f"near\t{url_of(server, 'near.zarr')}",
        "far\tfar.tif",
        f"left\t{url_of(server, 'left.zarr')}",
        f"right\t{url_of(server, 'right.zarr')}",
    ]
    sheet = folder.directory / "config/images.tsv"
    sheet.write_text("\n".join(["image\tpath", *rows]) + "\n")
    folder.configure(outputs=["objects_csv", "input_labels"])
    said = folder.run(status=1)
    assert_no_secret(said)
    near, left, right = (folder.log(image) for image in ("near", "left", "right"))
    assert (near["status"], folder.log("far")["status"]) == ("done", "done")
    assert "no labels are written" in near["outputs"]["input_labels"]["refused"]
    assert (left["failure"]["kind"], right["failure"]["kind"]) == ("unread", "missing")
    assert "0/c/1/1 could not be read (the server answered 403" in left["failure"]["message"]
    assert read_mask(folder.mask("near")).max() == 9
    assert_no_secret_in(folder.results)
    before = folder.written()
    # The reason has gone: what failed is made, what was made stays.
    server.statuses.clear()
    serve_image(server.folder / "right.zarr", blobs(7))
    assert_no_secret(folder.run())
    assert {image: when for image, when in folder.written().items() if image in before} == before
    assert set(folder.written()) == {"near", "far", "left", "right"}
    assert "Nothing to be done" in folder.run()
    # Renewed signatures are read through again, and the masks of the same pixels stay.
    whole = folder.written()
    server.query = SIGNATURE.replace("SIGNATURE", "RENEWED")
    sheet.write_text(sheet.read_text().replace(SIGNATURE, server.query))
    assert_no_secret(folder.run())
    assert folder.written() == whole
    # A change behind a URL is noticed where the images are read again.
    serve_image(server.folder / "near.zarr", blobs(8))
    assert "Nothing to be done" in folder.run()
    assert_no_secret(folder.run("--forcerun", "segment"))
    changed = {image for image, when in folder.written().items() if when != whole[image]}
    assert changed == {"near"}
    assert_no_secret_in(folder.results)


def test_a_run_of_a_plate_at_a_url(folder: Folder, server: FileServer) -> None:
    plate = zarr.open_group(server.folder / "plate.zarr", mode="w", zarr_format=3)
    wells = [{"path": "A/1"}, {"path": "B/2"}]
    plate.attrs["ome"] = {"version": "0.5", "plate": {"wells": wells}}
    for seed, well in enumerate(("A/1", "B/2")):
        plate.require_group(well).attrs["ome"] = {"well": {"images": [{"path": "0"}]}}
        serve_image(server.folder / f"plate.zarr/{well}/0", blobs(seed))
    url = url_of(server, "plate.zarr")
    written = folder.directory / "plate.tsv"
    command = [Path(sys.executable).with_name("samcourier"), "sheet", url, "--out", written]
    said = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
    assert said.returncode == 0, said.stderr
    assert_no_secret(said.stderr)
    rows = read_sheet(written)
    assert [row.image for row in rows] == ["A_1_0", "B_2_0"]
    assert [row.pixel_size_um for row in rows] == [0.5, 0.5]
    assert str(rows[0].path.url).endswith(f"/plate.zarr/A/1/0?{SIGNATURE}")  # type: ignore[union-attr]
    folder.configure(sheet=url)
    assert_no_secret(folder.run())
    assert set(folder.written()) == {"A_1_0", "B_2_0"}
    assert_no_secret_in(folder.results)
    # A server that is away for a moment takes no image out of the run.
    server.statuses = {"zarr.json": [-503]}
    assert "Nothing to be done" in folder.run()
