from __future__ import annotations

import stat
from pathlib import Path

import pytest

from samcourier.errors import InputError
from samcourier.images.location import RemoteImage
from samcourier.samples.discovery import is_sheet
from samcourier.samples.format import format_found_sheet, format_sheet, lines
from samcourier.samples.private_urls import (
    private_urls_path,
    with_private_urls,
    write_private_urls,
)
from samcourier.samples.sheet import ImageRow, parse_sheet, redacted_sheet, rows_digest

SHEET = Path("images.tsv")
TEXT = (
    "image\tpath\ttruth\n"
    "one\thttps://ann:SECRET@h.org/a.zarr\t\n"
    "two\thttps://h.org/a.zarr?sig=SECRET2\ttruth.tif\n"
    "three\thttps://h.org/a.zarr?sig=SECRET3\thttps://h.org/t.zarr?sig=SECRET\n"
    "four\tdata/a.tif\t\n"
    "five\ts3://bucket/a.zarr\t\n"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(content: bytes) -> list[ImageRow]:
    return parse_sheet(content, SHEET)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_redacted_sheet_has_the_same_rows_and_the_jobs_find_the_urls(encoding: str) -> None:
    content = TEXT.encode(encoding)
    rows = rows_of(content)
    redacted = redacted_sheet(content, rows, SHEET)
    assert b"SECRET" not in redacted
    shown = rows_of(redacted)
    assert rows_digest(shown) == rows_digest(rows)
    assert [row.image for row in shown] == [row.image for row in rows]
    assert shown != rows
    write_private_urls("cells", rows)
    assert with_private_urls("cells", shown) == rows
    assert stat.S_IMODE(private_urls_path("cells").stat().st_mode) == 0o600


def test_a_sheet_without_secrets_stays_as_it_is_and_leaves_no_file() -> None:
    content = "image\tpath\none\thttps://h.org/a.zarr\ntwo\ta?b.tif\n".encode("utf-16")
    rows = rows_of(content)
    assert redacted_sheet(content, rows, SHEET) is content
    write_private_urls("cells", rows_of(TEXT.encode()))
    write_private_urls("cells", rows)
    assert not private_urls_path("cells").exists()
    assert with_private_urls("cells", rows) == rows


def test_without_the_private_file_a_url_stays_redacted() -> None:
    rows = rows_of(TEXT.encode())
    shown = rows_of(redacted_sheet(TEXT.encode(), rows, SHEET))
    assert with_private_urls("cells", shown) == shown


def test_sheets_that_are_kept_are_redacted_and_the_users_own_is_not() -> None:
    rows = rows_of(TEXT.encode())
    for kept in (format_sheet(rows), format_found_sheet(rows)):
        assert "SECRET" not in kept
        assert [str(row.path) for row in rows_of(kept.encode())] == [str(row.path) for row in rows]
    assert lines(rows, ["image", "path"]).count("SECRET") == 3


def test_another_query_is_another_batch_and_a_password_is_not() -> None:
    def digest(url: str) -> str:
        return rows_digest([ImageRow("one", RemoteImage.parse(url))])

    first = digest("https://ann:one@h.org/a.zarr?id=1")
    assert digest("https://ann:two@h.org/a.zarr?id=1") == first
    assert digest("https://ann:one@h.org/a.zarr?id=2") != first


@pytest.mark.parametrize("column", ["path", "foreground", "truth"])
def test_a_url_that_cannot_be_read_is_refused_by_line_and_column(column: str) -> None:
    cells = {"image": "one", "path": "a.tif"} | {column: "gs://SECRET/a.zarr"}
    content = "\t".join(cells) + "\n" + "\t".join(cells.values()) + "\n"
    with pytest.raises(InputError) as refused:
        rows_of(content.encode())
    assert f"images.tsv, line 2: {column}: a URL with the scheme 'gs'" in str(refused.value)
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("text", ["https://h/plate.zarr", "s3://b/plate.zarr?x", "http://h/a.tsv"])
def test_a_url_names_images_and_no_sheet(text: str) -> None:
    assert not is_sheet(text)
