"""What is found in folders, patterns and plates, and the ids it gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samcourier.errors import InputError
from samcourier.samples.discovery import find_images, is_sheet, make_id
from samcourier.samples.format import known_rows, write_found_sheet
from samcourier.samples.sheet import SAFE_ID, ImageRow, read_sheet


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a folder ``data``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def add(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def add_zarr(path: Path, attributes: object, version: str = "0.4") -> None:
    path.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        (path / ".zattrs").write_text(json.dumps(attributes))
    else:
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": attributes}}
        (path / "zarr.json").write_text(json.dumps(group))


def add_plate(path: Path, wells: dict[str, int], version: str = "0.4") -> None:
    add_zarr(path, {"plate": {"wells": [{"path": well} for well in wells]}}, version)
    for well, fields in wells.items():
        images = [{"path": str(field)} for field in range(fields)]
        add_zarr(path / well, {"well": {"images": images}}, version)


def found(*inputs: str, known: list[ImageRow] | None = None) -> dict[str, str]:
    """Return {id: path}."""
    return {row.image: str(row.path) for row in find_images(inputs, known or []).rows}


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("A1.tif", "A1"),
        ("A1.TIF", "A1"),
        ("A1.tiff", "A1.tiff"),
        ("A1.ome.tif", "A1"),
        ("A1.OME.TIFF", "A1"),
        ("A1.ome.btf", "A1"),
        ("A1.companion.ome", "A1"),
        ("A1.png.ome.tif", "A1.png-9d1a8964"),
        ("A1.png", "A1.png"),
        ("A1.ome.zarr", "A1"),
        ("plate 7/A1.tif", "plate_7__A1-c97773c4"),
        ("plate7/A1.tif", "plate7__A1"),
        ("plate7/day2/A1.tif", "plate7__day2__A1"),
        ("plate7__A1.tif", "plate7__A1-b949466e"),
        ("plate7_/A1.tif", "plate7___A1-1aa1494e"),
        ("A1.png.tif", "A1.png-afdc2a5c"),
        ("é (2).tif", "e_2_-206bd207"),
        ("-a.tif", "a-28503a5b"),
        ("細胞.tif", "image-d3549486"),
        ("...tif", "image-ff6f8f59"),
    ],
)
def test_an_id_is_made_of_the_name_alone(name: str, image: str) -> None:
    assert make_id(name) == image


@given(st.text(st.sampled_from("aB_-. é/%"), min_size=1, max_size=12), st.sampled_from(
    ["", ".tif", ".png", ".tiff"]
))  # fmt: skip
def test_an_id_is_safe_and_of_no_other_name(name: str, suffix: str) -> None:
    image = make_id(name + suffix)
    assert SAFE_ID.fullmatch(image)
    assert image != make_id(f"{name}{suffix}x")
    assert image != make_id(f"{name.replace('/', '__')}{suffix}") or "/" not in name


def test_a_name_of_255_bytes_has_a_short_id(folder: Path) -> None:
    add(folder, "x" * 251 + ".tif", "y" + "x" * 250 + ".tif")
    assert sorted(map(len, found("data"))) == [159, 159]


def test_a_folder_is_searched_with_its_folders(folder: Path) -> None:
    add(folder, "b.tif", "a.png", "plate7/a.tif", "plate8/a.tif", "plate8/x/a.jpg")
    add(folder, "notes.txt", ".hidden.tif", "._a.tif", ".cache/c.tif", "plate7/thumbs.db")
    result = find_images(["data"])
    assert {row.image: str(row.path) for row in result.rows} == {
        "a.png": "data/a.png",
        "b": "data/b.tif",
        "plate7__a": "data/plate7/a.tif",
        "plate8__a": "data/plate8/a.tif",
        "plate8__x__a.jpg": "data/plate8/x/a.jpg",
    }
    assert [str(path) for path in result.skipped] == ["data/notes.txt", "data/plate7/thumbs.db"]
    assert found("data/") == found("data")
    assert found(str(folder)).keys() == found("data").keys()


@pytest.mark.parametrize(
    ("pattern", "images"),
    [
        ("data/*.tif", {"a": "data/a.tif", "b": "data/b.tif"}),
        ("data/*/a.tif", {"p__a": "data/p/a.tif", "q__a": "data/q/a.tif"}),
        ("data/p/*", {"a": "data/p/a.tif", "raw.dat": "data/p/raw.dat"}),
        ("data/**/a.tif", {"a": "data/a.tif", "p__a": "data/p/a.tif", "q__a": "data/q/a.tif"}),
    ],
)
def test_a_pattern_takes_what_it_matches(
    folder: Path, pattern: str, images: dict[str, str]
) -> None:
    add(folder, "a.tif", "b.tif", "p/a.tif", "p/raw.dat", "q/a.tif", "q/r/x.png")
    assert found(pattern) == images


def test_a_name_with_a_wildcard_in_it_is_a_name(folder: Path) -> None:
    add(folder, "a[1].tif", "a1.tif")
    assert list(found("data/a[1].tif").values()) == ["data/a[1].tif"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_has_a_row_for_each_field(folder: Path, version: str) -> None:
    add_plate(folder / "p.zarr", {"A/1": 2, "B/12": 1}, version)
    inside = {"A_1_0": "A/1/0", "A_1_1": "A/1/1", "B_12_0": "B/12/0"}
    assert found("data/p.zarr") == {image: f"data/p.zarr/{path}" for image, path in inside.items()}
    for text in ("data", "data/*.zarr"):
        assert found(text) == {
            f"p.zarr__{image}": f"data/p.zarr/{path}" for image, path in inside.items()
        }


def test_what_a_damaged_plate_does_not_say_is_left_to_fail_by_name(folder: Path) -> None:
    add_plate(folder / "p.zarr", {"A/1": 1, "B/2": 0, "../x": 1, "/etc": 1})
    (folder / "p.zarr/A/1/.zattrs").write_text("{")
    assert found("data/p.zarr") == {"A_1": "data/p.zarr/A/1", "B_2": "data/p.zarr/B/2"}
    (folder / "p.zarr/A/1/.zattrs").write_text('{"well": "x"}')
    assert found("data/p.zarr") == {"A_1": "data/p.zarr/A/1", "B_2": "data/p.zarr/B/2"}
    add_plate(folder / "q.zarr", {})
    add_zarr(folder / "q2.zarr", {"plate": [1]})
    assert found("data/q*") == {"q.zarr": "data/q.zarr", "q2.zarr": "data/q2.zarr"}


def test_an_ome_zarr_is_an_image_unless_it_holds_labels(folder: Path) -> None:
    add_zarr(folder / "a.ome.zarr", {"multiscales": []})
    add(folder, "a.ome.zarr/0/0/0.tif")
    add_zarr(folder / "cells.ome.zarr", {"multiscales": [], "image-label": {}})
    add_zarr(folder / "new.zarr", {"multiscales": []}, "0.5")
    (folder / "broken.zarr").mkdir()
    (folder / "broken.zarr/zarr.json").write_text("[1")
    assert list(found("data")) == ["a", "broken.zarr", "new.zarr"]
    assert found("data/a.ome.zarr") == {"a": "data/a.ome.zarr"}


def test_files_of_one_stem_do_not_collide(folder: Path) -> None:
    add(folder, "p/x.tif", "q/x.tif", "x.tif", "x.png", "x.ome.tif", "p__x.tif")
    ids = found("data")
    assert len(ids) == 6
    assert found("data/p/x.tif", "data/q/x.tif") == {
        "x": "data/p/x.tif",
        "x-f00b6673": "data/q/x.tif",
    }


def test_ids_that_differ_only_in_case_are_made_distinct(folder: Path) -> None:
    add(folder, "A.tif", "a.tif")
    ids = found("data")
    assert ids["A"] == "data/A.tif"
    assert len({image.casefold() for image in ids}) == 2


def test_what_is_named_twice_is_one_image(folder: Path) -> None:
    add(folder, "a.tif")
    assert found("data/a.tif", "./data", "data//", "data/*.tif") == {"a": "data/a.tif"}


@pytest.mark.parametrize("where", ["data", "./data", "data/", "./data/*.tif"])
def test_a_place_written_oddly_is_the_same_place(folder: Path, where: str) -> None:
    add(folder, "b.tif", "c.tif")
    known = find_images([where]).rows
    add(folder, "a.tif")
    assert list(found(where, known=known)) == ["b", "c", "a"]


# The first look scans the installed packages.
@settings(deadline=None)
@given(
    before=st.sets(st.sampled_from(["a", "b", "A", "c.d", "e/a", "e/b", "é", "f__a"]), min_size=1),
    added=st.sets(st.sampled_from(["a", "b", "A", "c.d", "e/a", "e/b", "é", "f__a", "0", "zz"])),
)
def test_adding_files_renames_none_and_comes_after(
    before: set[str], added: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("found")
    add(root, *(f"{name}.tif" for name in before))
    first = find_images([str(root)]).rows
    write_found_sheet(root / "results/images.tsv", first)
    add(root, *(f"{name}.tif" for name in added))
    second = find_images([str(root)], known_rows(root / "results/images.tsv")).rows
    assert second[: len(first)] == first
    assert len({row.image.casefold() for row in second}) == len(second) == len(before | added)
    # Without the sheet of the first look only names that differ in case depend on each other.
    if "A" not in before | added:
        again = {row.path: row.image for row in find_images([str(root)]).rows}
        assert all(again[row.path] == row.image for row in first)


def test_a_file_that_is_gone_leaves_the_others_as_they_were(folder: Path) -> None:
    add(folder, "a.tif", "b.tif", "c.tif")
    known = find_images(["data"]).rows
    (folder / "b.tif").unlink()
    assert list(found("data", known=known)) == ["a", "c"]


@pytest.mark.parametrize("target", ["..", ".", "../data", "self"])
def test_a_link_that_leads_around_is_not_followed(folder: Path, target: str) -> None:
    add(folder, "p/a.tif")
    (folder / "p/self").symlink_to(target)
    assert found("data").get("p__a") == "data/p/a.tif"
    assert len(found("data")) == 1


def test_a_link_to_a_folder_elsewhere_is_followed(folder: Path) -> None:
    add(folder.parent / "other", "a.tif")
    (folder / "link").symlink_to("../other")
    assert found("data") == {"link__a": "data/link/a.tif"}


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems hold UTF-8 names only")
@pytest.mark.parametrize(
    ("name", "shown"),
    [(b"caf\xe9.tif", r"caf\xe9.tif"), (b"a\nb.tif", r"a\x0ab.tif"), (b"a\tb.tif", r"a\x09b.tif")],
)
def test_a_name_that_no_sheet_can_hold_keeps_its_row(folder: Path, name: bytes, shown: str) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"")
    add(folder, "a.tif")
    rows = find_images(["data"]).rows
    assert {str(row.path) for row in rows} == {"data/a.tif", f"data/{shown}"}
    write_found_sheet(folder / "images.tsv", rows)
    assert read_sheet(folder / "images.tsv") == rows


def test_a_found_sheet_that_is_not_text_is_written_again(folder: Path) -> None:
    add(folder, "a.tif")
    rows, kept = find_images(["data"]).rows, folder / "images.tsv"
    kept.write_bytes(b"image\tpath\n\xff\n")
    assert known_rows(kept) == []
    write_found_sheet(kept, rows)
    assert read_sheet(kept) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data", "data: no image found, expected files ending in .tif"),
        ("data/*.tif", "data/*.tif: no image found"),
        ("data/none/*", "data/none/*: no image found"),
        ("data/p.zarr", "data/p.zarr: no image found"),
    ],
)
def test_where_there_is_no_image_is_said(folder: Path, text: str, message: str) -> None:
    add(folder, "notes.txt")
    if text == "data/p.zarr":
        add_plate(folder / "p.zarr", {})
    with pytest.raises(InputError) as caught:
        find_images([text])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("images.tsv", True),
        ("images.txt", True),
        ("none", True),
        ("data", False),
        ("data/*.tif", False),
        ("a.tif", False),
    ],
)
def test_a_sheet_is_distinguished_from_a_folder_or_pattern(
    folder: Path, text: str, is_one: bool
) -> None:
    assert is_sheet(text) is is_one


def test_finding_imports_nothing_heavy() -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; old = set(sys.modules); "
    code += "import samcourier.samples.discovery, samcourier.samples.format; "
    code += "print(*{name.partition('.')[0] for name in set(sys.modules) - old})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= sys.stdlib_module_names | {"samcourier", "samservice"}
