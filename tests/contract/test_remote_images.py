"""OME-Zarr images at URLs: over a real HTTP server, and moto's S3 server."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import zarr
from moto.server import ThreadedMotoServer

from samcourier.errors import ImageMissing, ImageUnfit, ImageUnread
from samcourier.images.location import ImageLocation, RemoteImage, image_location
from samcourier.images.planes import open_planes
from samcourier.images.readers import open_source, remote
from samcourier.images.selection import Selection, parse_pick

from .file_server import FileServer, serving

SHAPE = (4, 40, 60)
PIXELS = np.random.default_rng(1).integers(1, 4000, SHAPE).astype("u2")
Z2 = Selection(z=parse_pick("2", volume=True))


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    with serving(tmp_path) as running:
        yield running


def write_image(folder: Path, zarr_format: int = 3, **layout: Any) -> zarr.Group:
    """Write ``PIXELS`` as an OME-Zarr, by default a chunk a plane."""
    group = zarr.open_group(folder, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    names = {"name": "0", "shape": SHAPE, "dtype": "u2", "chunks": (1, 20, 60), **layout}
    if zarr_format == 2:
        names["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    group.create_array(**names)[:] = PIXELS
    micro = {"type": "space", "unit": "micrometer"}
    multiscale = {
        "axes": [{"name": name, **micro} for name in "zyx"],
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [{"type": "scale", "scale": [2.0, 0.5, 0.25]}],
            }
        ],
    }
    if zarr_format == 2:
        group.attrs["multiscales"] = [{"version": "0.4", **multiscale}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    return group


def read(location: ImageLocation | str, selection: Selection = Z2) -> np.ndarray:
    where = image_location(location) if isinstance(location, str) else location
    with open_planes(where, selection) as planes:
        return planes.read().pixels


def chunks_asked(server: FileServer) -> set[str]:
    """Return the keys of pixels that were asked for, without the image and the array."""
    found = {path.partition("/0/")[2] for path in server.asked if "/0/" in path}
    return {key for key in found if re.search(r"\d$", key)}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_image_is_read_and_only_the_chunks_asked_for(
    server: FileServer, tmp_path: Path, zarr_format: int
) -> None:
    write_image(tmp_path / "image.zarr", zarr_format)
    np.testing.assert_array_equal(read(f"{server.url}/image.zarr"), PIXELS[2])
    prefix = "c/" if zarr_format == 3 else ""
    assert chunks_asked(server) == {f"{prefix}2/0/0", f"{prefix}2/1/0"}
    assert {count for path, count in server.asked.items() if re.search(r"\d$", path)} == {1}


def test_a_remote_image_gives_the_mask_of_the_local_one(server: FileServer, tmp_path: Path) -> None:
    write_image(tmp_path / "image.zarr")
    volume = Selection(z=parse_pick("volume", volume=True))
    digests, geometries = [], []
    for where in (tmp_path / "image.zarr", RemoteImage(f"{server.url}/image.zarr")):
        with open_planes(where, volume) as planes:
            digests.append(planes.read().pixels_sha256)
        with open_source(where) as source:
            geometries.append((source.axes, source.shape, source.dtype, source.geometry))
    assert digests[0] == digests[1]
    assert geometries[0] == geometries[1]


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_of_a_shard_only_the_part_is_fetched(
    server: FileServer, tmp_path: Path, takes_ranges: bool
) -> None:
    """A server that ignores ranges sends all of it, which must not be taken for the part."""
    layout = {"chunks": (1, 20, 20), "shards": (4, 40, 60)}
    group = write_image(tmp_path / "image.zarr", compressors=None, **layout)
    server.takes_ranges = takes_ranges
    np.testing.assert_array_equal(read(f"{server.url}/image.zarr"), PIXELS[2])
    if takes_ranges:
        assert server.sent_bytes < PIXELS[2].nbytes + 8000
    assert group["0"].shards == (4, 40, 60)  # type: ignore[union-attr]


def test_a_missing_chunk_is_the_fill_value(server: FileServer, tmp_path: Path) -> None:
    write_image(tmp_path / "image.zarr", fill_value=7)
    (tmp_path / "image.zarr/0/c/2/1/0").unlink()
    plane = read(f"{server.url}/image.zarr")
    np.testing.assert_array_equal(plane[:20], PIXELS[2, :20])
    assert (plane[20:] == 7).all()


@pytest.mark.parametrize("statuses", [[503], [500, 502, 429, 504], [408]])
def test_a_busy_server_is_asked_again(
    server: FileServer, tmp_path: Path, statuses: list[int]
) -> None:
    write_image(tmp_path / "image.zarr")
    server.statuses = {"c/2/0/0": list(statuses), "image.zarr/zarr.json": list(statuses)}
    np.testing.assert_array_equal(read(f"{server.url}/image.zarr"), PIXELS[2])
    assert server.asked["image.zarr/0/c/2/0/0"] == len(statuses) + 1


def test_a_connection_that_breaks_is_tried_again(server: FileServer, tmp_path: Path) -> None:
    write_image(tmp_path / "image.zarr")
    server.cut = {"c/2/0/0": 2}
    np.testing.assert_array_equal(read(f"{server.url}/image.zarr"), PIXELS[2])


def test_a_server_that_is_silent_is_not_waited_for(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "READ_TIMEOUT_S", 1.0)
    write_image(tmp_path / "image.zarr")
    server.silent = ("c/2/0/0",)
    with pytest.raises(ImageUnread, match=r"0/c/2/0/0 could not be read \(.+, 5 times\)"):
        read(f"{server.url}/image.zarr")
    assert server.asked["image.zarr/0/c/2/0/0"] == 5


@pytest.mark.parametrize(
    ("status", "tries", "words"),
    [
        (503, 5, r"answered 503, 5 times"),
        (500, 5, r"answered 500, 5 times"),
        (403, 1, r"answered 403 \(forbidden; S3 also for a missing chunk, where the bucket"),
        (401, 1, r"answered 401"),
        (410, 1, r"answered 410"),
    ],
)
def test_a_chunk_that_is_refused_is_an_error_and_never_zeros(
    server: FileServer, tmp_path: Path, status: int, tries: int, words: str
) -> None:
    write_image(tmp_path / "image.zarr")
    server.statuses = {"c/2/1/0": [-status]}
    with pytest.raises(ImageUnread, match=rf"image\.zarr: 0/c/2/1/0 could not be read.*{words}"):
        read(f"{server.url}/image.zarr")
    assert server.asked["image.zarr/0/c/2/1/0"] == tries


def test_after_a_chunk_that_failed_no_other_is_waited_for(
    server: FileServer, tmp_path: Path
) -> None:
    write_image(tmp_path / "image.zarr", chunks=(1, 5, 5))
    server.statuses = {"": []} | {f"{y}/{x}": [-503] for y in range(8) for x in range(12)}
    with pytest.raises(ImageUnread):
        read(f"{server.url}/image.zarr")
    assert sum(server.asked.values()) < 96 * 5


def test_a_missing_url_is_a_missing_image(server: FileServer) -> None:
    message = r"nothing\.zarr: no Zarr there, expected an OME-Zarr, the only format"
    with pytest.raises(ImageMissing, match=message):
        read(f"{server.url}/nothing.zarr")


def test_a_page_instead_of_metadata_is_one_line(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "image.zarr").mkdir()
    (tmp_path / "image.zarr/zarr.json").write_text("<html>please log in</html>")
    with pytest.raises(ImageUnfit, match=r"image\.zarr: damaged Zarr \(") as refused:
        read(f"{server.url}/image.zarr")
    assert "\n" not in str(refused.value)


def test_a_server_that_does_not_listen(tmp_path: Path) -> None:
    with serving(tmp_path) as stopped:
        pass
    with pytest.raises(
        ImageUnread, match=r"image\.zarr: .* could not be read .*5 times"
    ) as refused:
        read(f"{stopped.url}/image.zarr")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_server_that_answers_403_for_a_missing_image(
    server: FileServer, tmp_path: Path, zarr_format: int
) -> None:
    """S3 does where the bucket may not be listed: the other format's metadata are not there."""
    write_image(tmp_path / "image.zarr", zarr_format)
    server.missing = 403
    np.testing.assert_array_equal(read(f"{server.url}/image.zarr"), PIXELS[2])
    with pytest.raises(ImageUnread, match=r"other\.zarr: the server answered 403 .* zarr\.json"):
        read(f"{server.url}/other.zarr")
    prefix = "c/" if zarr_format == 3 else ""
    (tmp_path / f"image.zarr/0/{prefix}2/0/0").unlink()
    with pytest.raises(ImageUnread, match=r"2/0/0 could not be read \(the server answered 403"):
        read(f"{server.url}/image.zarr")


def test_metadata_that_may_not_be_read_are_the_reason(server: FileServer, tmp_path: Path) -> None:
    write_image(tmp_path / "image.zarr", 2)
    server.statuses = {"image.zarr/.zattrs": [-403]}
    with pytest.raises(ImageUnread, match=r"without multiscales.*answered 403.*\.zattrs"):
        read(f"{server.url}/image.zarr")


def test_signature_and_password_go_with_every_request_and_into_no_message(
    server: FileServer, tmp_path: Path
) -> None:
    write_image(tmp_path / "image.zarr")
    server.query, server.password = "sv=1&sig=SECRET%2Bx%3D", "PASSWORD"
    whole = server.url.replace("//", "//ann:PASSWORD@") + "/image.zarr?" + server.query
    np.testing.assert_array_equal(read(whole), PIXELS[2])
    server.statuses = {"c/2/1/0": [-503]}
    with pytest.raises(ImageUnread) as refused:
        read(whole)
    for wrong in (whole.replace("SECRET", "SECRET2"), whole.replace("PASSWORD", "PASSWORD2")):
        with pytest.raises(ImageUnread) as denied:
            read(wrong)
        for text in (str(refused.value), str(denied.value), repr(denied.value)):
            assert "SECRET" not in text and "PASSWORD" not in text and "***" in text


def test_a_url_without_its_signature_is_not_asked_for(server: FileServer) -> None:
    shown = str(RemoteImage(f"{server.url}/image.zarr?sig=SECRET"))
    with pytest.raises(ImageUnread, match="were left out of this copy, expected the whole URL"):
        read(shown)
    assert not server.asked


def test_scenes_are_found_without_a_listing(server: FileServer, tmp_path: Path) -> None:
    root = tmp_path / "several.zarr"
    for name in ("0", "1"):
        write_image(root / name)
    zarr.open_group(root, mode="a", zarr_format=3).attrs["ome"] = {"bioformats2raw.layout": 3}
    location = RemoteImage(f"{server.url}/several.zarr")
    with pytest.raises(ImageUnfit, match=r"is one of several, expected scene 0 to 1"):
        read(location)
    np.testing.assert_array_equal(read(location, Selection(1, z=Z2.z)), PIXELS[2])


@pytest.mark.parametrize("module", ["aiohttp", "fsspec"])
def test_without_the_extra_one_line_names_the_command_to_install_it(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.delitem(sys.modules, "samcourier.images.readers.remote")
    monkeypatch.setitem(sys.modules, module, None)
    if module == "fsspec":
        monkeypatch.setitem(sys.modules, "fsspec.asyn", None)
    with pytest.raises(ImageUnread, match=r"needs .*: pip install 'samcourier\[remote\]'"):
        read("https://example.org/image.zarr")


BUCKET = "images"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield f"http://127.0.0.1:{running.get_host_and_port()[1]}"
    running.stop()


@pytest.fixture
def s3(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an S3 server to which the environment points."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "SECRET",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    remote.has_s3_credentials.cache_clear()
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    for each in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=each["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()


def upload(client: Any, folder: Path, prefix: str, **options: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            key = f"{prefix}/{file.relative_to(folder)}"
            client.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes(), **options)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_s3_is_read(s3: Any, tmp_path: Path, zarr_format: int) -> None:
    write_image(tmp_path / "image.zarr", zarr_format)
    upload(s3, tmp_path / "image.zarr", "deep/image.zarr")
    np.testing.assert_array_equal(read(f"s3://{BUCKET}/deep/image.zarr"), PIXELS[2])


def test_s3_shards_and_missing_chunks(s3: Any, tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", chunks=(1, 20, 20), shards=(4, 40, 60))
    upload(s3, tmp_path / "a.zarr", "a.zarr")
    np.testing.assert_array_equal(read(f"s3://{BUCKET}/a.zarr"), PIXELS[2])
    write_image(tmp_path / "b.zarr", fill_value=9)
    (tmp_path / "b.zarr/0/c/2/0/0").unlink()
    upload(s3, tmp_path / "b.zarr", "b.zarr")
    assert (read(f"s3://{BUCKET}/b.zarr")[:20] == 9).all()


def test_a_missing_s3_key(s3: Any) -> None:
    with pytest.raises(ImageMissing, match=r"s3://images/no\.zarr: no Zarr there"):
        read(f"s3://{BUCKET}/no.zarr")
    with pytest.raises(ImageMissing, match=r"s3://nobody/no\.zarr: no Zarr there"):
        read("s3://nobody/no.zarr")


@pytest.mark.parametrize(("status", "tries"), [(503, 5), (500, 5), (403, 1)])
def test_s3_errors_are_no_zeros(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, tries: int
) -> None:
    """The answers of an S3 server that fails come from the HTTP server: a bucket is a folder."""
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "SECRET",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    remote.has_s3_credentials.cache_clear()
    write_image(tmp_path / BUCKET / "image.zarr")
    np.testing.assert_array_equal(read(f"s3://{BUCKET}/image.zarr"), PIXELS[2])
    server.asked.clear()
    server.statuses = {"c/2/1/0": [-status]}
    with pytest.raises(ImageUnread, match=rf"s3://images/image\.zarr: 0/c/2/1/0 .*{status}"):
        read(f"s3://{BUCKET}/image.zarr")
    assert server.asked[f"{BUCKET}/image.zarr/0/c/2/1/0"] == tries


def test_s3_without_credentials_is_asked_without_a_signature(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "image.zarr")
    upload(s3, tmp_path / "image.zarr", "image.zarr", ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    remote.has_s3_credentials.cache_clear()
    assert not remote.has_s3_credentials()
    np.testing.assert_array_equal(read(f"s3://{BUCKET}/image.zarr"), PIXELS[2])
