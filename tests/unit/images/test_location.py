from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from samcourier.formatting import redacted
from samcourier.images.location import RemoteImage, image_location, whole_text

SIGNED = "https://data.org/a/b.zarr?sv=1&sig=SECRET%2B"
MARK = "***" + hashlib.sha256(b"sv=1&sig=SECRET%2B").hexdigest()[:12]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://data.org/a/b.zarr", "https://data.org/a/b.zarr"),
        ("s3://bucket/a.zarr", "s3://bucket/a.zarr"),
        (SIGNED, f"https://data.org/a/b.zarr?{MARK}"),
        ("https://ann:SECRET@data.org/b.zarr", "https://***@data.org/b.zarr"),
        ("https://ann@SECRET:x@data.org:80/b.zarr", "https://***@data.org:80/b.zarr"),
        ("http://h/%7Bb%7D/ä.zarr", "http://h/%7Bb%7D/ä.zarr"),
        ("no URL at all: a@b?c", "no URL at all: a@b?c"),
        (f"404, url='{SIGNED}'", f"404, url='https://data.org/a/b.zarr?{MARK}'"),
        (f'{{"a": "{SIGNED}"}}', f'{{"a": "https://data.org/a/b.zarr?{MARK}"}}'),
        (f"x\t{SIGNED}\ty", f"x\thttps://data.org/a/b.zarr?{MARK}\ty"),
        ("ftp://u:SECRET@h/x", "ftp://***@h/x"),
    ],
)
def test_secrets_are_left_out_of_urls(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown
    assert "SECRET" not in redacted(text)


def test_a_fragment_is_left_out() -> None:
    assert "SECRET" not in redacted("https://h/a.zarr#SECRET")


def test_urls_that_differ_in_the_query_alone_stay_different() -> None:
    assert len({redacted(f"https://h/a.zarr?id={number}") for number in range(100)}) == 100


def test_a_location_is_shown_redacted_and_keeps_its_full_url() -> None:
    location = image_location(SIGNED)
    assert isinstance(location, RemoteImage)
    assert str(location) == f"{location}" == f"https://data.org/a/b.zarr?{MARK}"
    assert "SECRET" not in f"{location!r} {location!s}"
    assert whole_text(location) == SIGNED
    assert (location.name, location.has_full_url) == ("b.zarr", True)
    assert location.child("A/1/0").url == "https://data.org/a/b.zarr/A/1/0?sv=1&sig=SECRET%2B"
    assert not RemoteImage.parse(str(location)).has_full_url


@pytest.mark.parametrize(
    "text", ["a.tif", "/data/a b.zarr", "C:/a.tif", "C://a.tif", "https:/h/a", "a?b@c"]
)
def test_a_location_without_a_scheme_is_a_path(text: str) -> None:
    assert image_location(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://h/a.zarr/", "https://h/a.zarr"),
        ("HTTPS://h/a.zarr", "https://h/a.zarr"),
        ("s3://bucket", "s3://bucket"),
        ("http://127.0.0.1:80/a.zarr", "http://127.0.0.1:80/a.zarr"),
    ],
)
def test_a_url_is_taken(text: str, expected: str) -> None:
    assert whole_text(image_location(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gs://SECRET/a.zarr", "scheme 'gs', expected a path, or an OME-Zarr at an https"),
        ("ftp://SECRET/a.zarr", "scheme 'ftp'"),
        ("file:///SECRET", "scheme 'file'"),
        ("https:///SECRET", "without a host"),
        ("https://SECRET:word@h:port/a.zarr", "without a valid host and port"),
        ("https://SECRET:pass/word@h/a.zarr", "without a valid host and port"),
        ("https://h/a.zarr#SECRET", "a space, a quote, #"),
        ("https://h/a.zarr?SECRET x", "a space"),
        ("https://h/a.zarr?'SECRET'", "a quote"),
        ("s3://SECRET:key@bucket/a.zarr", "more than bucket and path"),
        ("s3://bucket/a.zarr?SECRET=1", "more than bucket and path"),
    ],
)
def test_other_urls_are_refused_and_not_shown(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        image_location(text)
    assert "SECRET" not in str(refused.value)
