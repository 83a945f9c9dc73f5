"""What a header says about the values of a file is followed, or refused by name.

The files are written byte by byte or by Pillow (libtiff, libpng), the right values by hand.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile

from samcourier.errors import ImageUnfit
from samcourier.images.label_image import read_label_image
from samcourier.images.planes import open_planes

#: Rows of 8 pixels.
BYTES = [[0, 1, 2, 100, 127, 128, 254, 255], [255, 0, 7, 7, 9, 9, 0, 3]]
TAGS = {
    "width": 256, "length": 257, "bits": 258, "compression": 259, "photometric": 262,
    "fill_order": 266, "description": 270, "offsets": 273, "samples": 277, "counts": 279,
    "predictor": 317, "colours": 320, "sample_format": 339,
}  # fmt: skip


def write_bytes(
    path: Path, data: bytes, height: int, order: str = "<", width: int = 8, **tags: Any
) -> None:
    """Write an uncompressed TIFF of one strip; ``tags`` of the value None are left out."""
    values: dict[str, Any] = {
        **{"width": width, "length": height, "bits": 8, "compression": 1, "photometric": 1},
        **{"samples": 1, "counts": len(data), "offsets": 8, **tags},
    }
    entries, after = b"", b""
    used = sorted((TAGS[name], value) for name, value in values.items() if value is not None)
    start = 8 + len(data) + len(data) % 2
    rest = start + 2 + 12 * len(used) + 4
    for tag, value in used:
        if isinstance(value, bytes):
            kind, count, content = 2, len(value), value
        else:
            numbers = value if isinstance(value, list) else [value]
            kind, count = 3, len(numbers)
            content = struct.pack(f"{order}{count}H", *numbers)
        if len(content) > 4:
            content, after = (
                struct.pack(order + "I", rest + len(after)),
                after + content + b"\0" * (len(content) % 2),
            )
        entries += struct.pack(order + "HHI", tag, kind, count) + content.ljust(4, b"\0")
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    ifd = struct.pack(order + "H", len(used)) + entries + bytes(4)
    path.write_bytes(header + data + b"\0" * (len(data) % 2) + ifd + after)


def read(path: Path) -> np.ndarray:
    with open_planes(path) as planes:
        whole = planes.read().pixels
        part = planes.read_part(0, slice(0, 1), slice(1, 4))
        assert np.array_equal(part, whole[..., 0:1, 1:4])
        assert whole.dtype == planes.dtype
        return whole


def packed(order: str, code: str, rows: list[list[Any]]) -> bytes:
    return b"".join(struct.pack(f"{order}{len(row)}{code}", *row) for row in rows)


INVERTED = [[255 - value for value in row] for row in BYTES]
BITS = [[1, 0, 1, 1, 0, 0, 0, 1], [0, 1, 1, 1, 1, 1, 1, 0]]
FLIPPED_BITS = [[1 - bit for bit in row] for row in BITS]
SHORTS = [[0, 1, 256, 4095, 65534, 65535, 7, 8]]
NOT_SHORTS = [[65535, 65534, 65279, 61440, 1, 0, 65528, 65527]]
NIBBLES = [[0, 1, 2, 3, 12, 13, 14, 15]]
SIGNED = [[-32768, -1, 0, 1, 32767, 5, -5, 9]]
FLOATS = [[0.0, 0.5, -2.0, 65504.0, 1.0, 2.0, 3.0, 4.0]]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("code", "rows", "tags", "expected"),
    [
        ("B", BYTES, {}, BYTES),
        ("B", BYTES, {"photometric": None}, BYTES),
        ("B", BYTES, {"photometric": 0}, INVERTED),
        ("B", BYTES, {"photometric": 0, "description": b"ImageJ=1.54f\n\0"}, BYTES),
        ("H", SHORTS, {"bits": 16}, SHORTS),
        ("H", SHORTS, {"bits": 16, "photometric": 0}, NOT_SHORTS),
        ("h", SIGNED, {"bits": 16, "sample_format": 2}, SIGNED),
        ("H", SHORTS, {"bits": 16, "sample_format": 4}, SHORTS),
        ("e", FLOATS, {"bits": 16, "sample_format": 3}, FLOATS),
        ("f", FLOATS, {"bits": 32, "sample_format": 3}, FLOATS),
        ("d", FLOATS, {"bits": 64, "sample_format": 3}, FLOATS),
    ],
)
def test_values_of_whole_bytes(
    tmp_path: Path, order: str, code: str, rows: Any, tags: dict[str, Any], expected: Any
) -> None:
    path = tmp_path / "a.tif"
    write_bytes(path, packed(order, code, rows), len(rows), order, **tags)
    assert read(path).tolist() == expected


BIT_ROWS = [0b10110001, 0b01111110]
NIBBLE_ROWS = bytes([0x01, 0x23, 0xCD, 0xEF])


@pytest.mark.parametrize(
    ("data", "tags", "expected"),
    [
        (bytes(BIT_ROWS), {"bits": 1}, BITS),
        (bytes(BIT_ROWS), {"bits": None}, BITS),
        (bytes(BIT_ROWS), {"bits": 1, "photometric": 0}, FLIPPED_BITS),
        (bytes([0b10001101, 0b01111110]), {"bits": 1, "fill_order": 2}, BITS),
        (NIBBLE_ROWS, {"bits": 4}, NIBBLES),
        (NIBBLE_ROWS, {"bits": 4, "photometric": 0}, [[15 - each for each in NIBBLES[0]]]),
        (bytes([0b10000000]) * 8, {"fill_order": 2}, [[1] * 8]),
    ],
)
def test_values_of_bits(tmp_path: Path, data: bytes, tags: dict[str, Any], expected: Any) -> None:
    path = tmp_path / "a.tif"
    write_bytes(path, data, len(expected), **tags)
    assert read(path).tolist() == expected


def twelve_bits(values: list[int]) -> bytes:
    bits = "".join(f"{value:012b}" for value in values)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def test_white_is_zero_in_12_bits_is_the_largest_value_of_12_bits(tmp_path: Path) -> None:
    values = [0, 1, 4095, 4094, 100, 2, 3, 4]
    write_bytes(tmp_path / "a.tif", twelve_bits(values), 1, bits=12, photometric=0)
    assert read(tmp_path / "a.tif").tolist() == [[4095 - value for value in values]]


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("ome", [False, True])
def test_white_is_zero_in_stacks(tmp_path: Path, compression: Any, ome: bool) -> None:
    stack = np.arange(3 * 32 * 40, dtype=np.uint16).reshape(3, 32, 40)
    options: dict[str, Any] = {"photometric": "miniswhite", "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", stack, ome=ome, metadata={"axes": "ZYX"}, **options)
    from samcourier.images.selection import Pick, Selection

    with open_planes(tmp_path / "a.tif", Selection(z=Pick("index", 2, 2), axes="ZYX")) as planes:
        assert np.array_equal(planes.read().pixels, 65535 - stack[2])


def test_a_foreground_in_which_white_is_zero_is_inside_where_it_is_white(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.tif", bytes(BIT_ROWS), 2, bits=1, photometric=0)
    assert (read_label_image(tmp_path / "a.tif") != 0).astype(int).tolist() == FLIPPED_BITS


@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"ome": True}])
def test_booleans_of_tifffile_are_read_back(tmp_path: Path, options: Any) -> None:
    given = np.array(BITS, bool)
    tifffile.imwrite(tmp_path / "a.tif", given, **options)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages.first.photometric == 0, "white is zero"
    assert read_label_image(tmp_path / "a.tif").tolist() == given.tolist()


PALETTE = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (10, 20, 30)]
INDICES = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)


def indexed(palette: list[tuple[int, ...]]) -> PIL.Image.Image:
    image = PIL.Image.fromarray(INDICES).convert("P")
    image.putdata(INDICES.ravel().tolist())
    image.putpalette([component for colour in palette for component in colour])
    return image


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_palette_is_its_colours(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    indexed(PALETTE).save(path)
    assert np.moveaxis(read(path), 0, -1).tolist() == [
        [list(PALETTE[index]) for index in row] for row in INDICES.tolist()
    ]


def test_the_labels_of_a_palette_are_its_indices(tmp_path: Path) -> None:
    indexed(PALETTE).save(tmp_path / "a.tif")
    assert read_label_image(tmp_path / "a.tif").tolist() == INDICES.tolist()


def scale(kind: str) -> list[int]:
    """Return 3 x 256 components: all red, then all green, then all blue."""
    up, zero = [257 * n for n in range(256)], [0] * 256
    return {
        "grey": [*up, *up, *up],
        "green": [*zero, *up, *zero],
        "inverted": [*up[::-1], *up[::-1], *up[::-1]],
        "odd": [*up, *up[::-1], *zero],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "tags", "expected"),
    [
        ("grey", {}, BYTES),
        ("green", {}, BYTES),
        ("inverted", {}, INVERTED),
        ("inverted", {"description": b"ImageJ=1.54f\n\0"}, BYTES),
        ("odd", {"description": b"ImageJ=1.54f\n\0"}, BYTES),
        ("odd", {}, [BYTES, INVERTED, [[0] * 8] * 2]),
    ],
)
def test_a_palette_that_only_shows_intensities_leaves_them(
    tmp_path: Path, kind: str, tags: dict[str, Any], expected: Any
) -> None:
    data = packed("<", "B", BYTES)
    write_bytes(tmp_path / "a.tif", data, 2, photometric=3, colours=scale(kind), **tags)
    assert read(tmp_path / "a.tif").tolist() == expected


def colours() -> np.ndarray:
    """Return smooth colours, (64, 96, 3), which JPEG keeps."""
    y, x = np.mgrid[:64, :96]
    return np.stack([x * 2, y * 3, 255 - x * 2], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_ycbcr_in_jpeg_equals_libtiff(tmp_path: Path, subsampling: Any) -> None:
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"compression": "jpeg", "subsampling": subsampling}
    tifffile.imwrite(path, colours(), photometric="ycbcr", **options)
    expected = np.asarray(PIL.Image.open(path)).astype(int)
    assert np.abs(np.moveaxis(read(path), 0, -1).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_samples_beside_or_after_each_other_are_channels(tmp_path: Path, planar: Any) -> None:
    data = colours() if planar == "contig" else np.moveaxis(colours(), -1, 0)
    options: dict[str, Any] = {"photometric": "rgb", "planarconfig": planar, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", data, **options)
    assert np.array_equal(read(tmp_path / "a.tif"), np.moveaxis(colours(), -1, 0))


BY = packed("<", "B", BYTES)
RGB = BY + BY + BY


@pytest.mark.parametrize(
    ("data", "tags", "message"),
    [
        (packed("<", "f", FLOATS), {"bits": 32, "sample_format": 3, "photometric": 0}, (
            "white is zero in pixels of float32, expected unsigned integers, or black as zero"
        )),
        (packed("<", "h", SIGNED), {"bits": 16, "sample_format": 2, "photometric": 0}, (
            "white is zero in pixels of int16, expected unsigned integers"
        )),
        (BY, {"photometric": 3}, "a palette TIFF without its colours, expected grey or RGB"),
        (RGB, {"photometric": 6, "samples": 3, "bits": [8, 8, 8]}, "a YCbCr TIFF without JPEG"),
        (RGB, {"photometric": 8, "samples": 3, "bits": [8, 8, 8]}, "a CIELab TIFF, whose values"),
        (BY, {"photometric": 32803}, "a TIFF of a colour filter array"),
        (BY, {"photometric": 32844}, "a LogL TIFF, whose values are logarithms"),
        (BY, {"photometric": 999}, "photometric interpretation 999, expected grey or RGB"),
        (BY, {"compression": 34661}, "the compression JBIG cannot be decoded"),
        (BY, {"compression": 999}, "the compression 999 cannot be decoded"),
        (BY, {"compression": 8, "predictor": 77}, "the predictor 77 cannot be decoded"),
        (BY + bytes(48), {"bits": 64, "sample_format": 6}, "pixels are complex64, expected"),
        (BY, {"bits": 8, "sample_format": 3}, "8 bits in the sample format IEEEFP, expected"),
    ],
)  # fmt: skip
def test_an_unknown_header_is_refused_by_name(
    tmp_path: Path, data: bytes, tags: dict[str, Any], message: str
) -> None:
    write_bytes(tmp_path / "a.tif", data, 1 if "bits" in tags else 2, **tags)
    with pytest.raises(ImageUnfit) as refused:
        read(tmp_path / "a.tif")
    assert message in str(refused.value) and "\n" not in str(refused.value)


def stack_of_palettes(path: Path) -> None:
    first, *others = [indexed(PALETTE) for _ in range(3)]
    first.save(path, save_all=True, append_images=others)


def test_a_stack_of_palettes_is_refused(tmp_path: Path) -> None:
    stack_of_palettes(tmp_path / "a.tif")
    with pytest.raises(ImageUnfit, match="3 pages of palette colours"):
        read(tmp_path / "a.tif")


def of_pillow(array: np.ndarray, mode: str | None = None, **options: Any) -> Callable[[Path], None]:
    return lambda path: PIL.Image.fromarray(array, mode).save(path, **options)


TWO_COLUMNS = np.array([[0, 200], [7, 255]], np.uint8)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (of_pillow(TWO_COLUMNS > 100), [[0, 255], [0, 255]]),
        (of_pillow(TWO_COLUMNS), TWO_COLUMNS.tolist()),
        (of_pillow(TWO_COLUMNS, transparency=7), TWO_COLUMNS.tolist()),
        (of_pillow(TWO_COLUMNS.astype(np.uint16) * 256), [[0, 51200], [1792, 65280]]),
        (of_pillow(np.stack([TWO_COLUMNS, 255 - TWO_COLUMNS], -1), "LA"), TWO_COLUMNS.tolist()),
        (of_pillow(np.stack([TWO_COLUMNS] * 4, -1)), [TWO_COLUMNS.tolist()] * 3),
    ],
    ids=["1 bit", "8 bits", "transparent value", "16 bits", "alpha", "RGBA"],
)
def test_values_of_a_png(tmp_path: Path, write: Callable[[Path], None], expected: Any) -> None:
    write(tmp_path / "a.png")
    with open_planes(tmp_path / "a.png") as planes:
        assert planes.read().pixels.tolist() == expected
