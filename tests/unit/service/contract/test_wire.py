"""The wire format: any array survives, hostile bytes are refused before they cost memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samservice.contract import wire

MAX_BYTES = 1 << 20

dtypes = st.one_of(
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    st.just(np.dtype(bool)),
)
arrays = hnp.arrays(dtypes, hnp.array_shapes(max_dims=4, min_side=0, max_side=9))


@given(array=arrays, codec=st.sampled_from(wire.CODECS))
@settings(deadline=None)
def test_any_array_comes_back_equal(array: np.ndarray, codec: str) -> None:
    back = wire.unpack_array(wire.pack_array(array, codec), MAX_BYTES)
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("<")
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array)


def packed(**changes: object) -> dict[str, object]:
    array = np.arange(64, dtype="<u2").reshape(8, 8)
    return wire.pack_array(array, "blosc-lz4") | changes


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"wire": 2}, "wire version 2"),
        ({"codec": "pickle"}, "codec 'pickle'"),
        ({"dtype": "|O"}, "dtype '|O'"),
        ({"dtype": ">u2"}, "dtype '>u2'"),
        ({"dtype": "<c8"}, "dtype '<c8'"),
        ({"dtype": "<U9"}, "dtype '<U9'"),
        ({"dtype": 7}, "dtype 7"),
        ({"shape": [8, 9]}, "needs 144"),
        ({"shape": [8, -8]}, "shape must be"),
        ({"shape": [8.0, 8]}, "shape must be"),
        ({"shape": "64"}, "shape must be"),
        ({"shape": [1] * 9}, "9 axes"),
        ({"shape": [1 << 40, 1 << 40]}, f"limit {MAX_BYTES}"),
        ({"data": b""}, "too short"),
        ({"data": "text"}, "must be bytes"),
        ({"data": b"\x00" * 64}, "packed data"),
        ({"codec": "zstd"}, "not a Zstandard frame"),
        ({"codec": "raw"}, "needs 128"),
        ({"extra": 1}, "needs the keys"),
    ],
)
def test_a_malformed_array_is_refused_in_words(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(wire.WireError, match=None) as caught:
        wire.unpack_array(packed(**changes), MAX_BYTES)
    assert complaint in str(caught.value)


@given(
    codec=st.sampled_from(wire.CODECS),
    position=st.floats(0, 1, exclude_max=True),
    flip=st.integers(1, 255),
    cut=st.integers(0, 40),
)
@settings(deadline=None, max_examples=400)
def test_damaged_bytes_never_crash_the_decoder(
    codec: str, position: float, flip: int, cut: int
) -> None:
    array = np.arange(3000, dtype="<u4").reshape(50, 60) // 7
    whole = wire.pack_array(array, codec)
    data = bytearray(whole["data"])
    data[int(position * len(data))] ^= flip
    damaged = whole | {"data": bytes(data[: len(data) - cut])}
    try:
        back = wire.unpack_array(damaged, MAX_BYTES)
    except wire.WireError:
        return
    assert back.shape == array.shape


def test_a_bomb_is_refused_by_its_declared_size() -> None:
    bomb = wire.pack_array(np.zeros(1 << 24, np.uint8), "zstd")
    assert wire.packed_nbytes(bomb) < 10_000
    with pytest.raises(wire.WireError, match="limit"):
        wire.unpack_array(bomb, MAX_BYTES)
    with pytest.raises(wire.WireError, match="hold 16777216 bytes"):
        wire.unpack_array(bomb | {"shape": [16]}, MAX_BYTES)
