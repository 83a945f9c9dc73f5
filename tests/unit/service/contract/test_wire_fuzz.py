"""The wire decoders under hostile input: an array within the limit or a refusal, nothing else.

A few cases by default; `make fuzz` runs FUZZ_CASES of them in an address space of 3 GB.
"""

from __future__ import annotations

import os
import random
import resource
import struct
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from samcourier.transports.http import _unpack
from samservice.contract.wire import CODECS, WireError, pack_array, unpack_array

CASES = int(os.environ.get("FUZZ_CASES", "150"))
#: Hypothesis keeps every case of a round in memory.
CASES_A_ROUND = min(CASES, 5000)
ROUNDS = range(CASES // CASES_A_ROUND)
LIMIT_BYTES = 1 << 20
#: What numpy, the codecs and Hypothesis take beside one array of the limit.
SLACK_BYTES = 256 << 20

HUGE = [2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**64, 10**30]
LENGTHS = st.integers(-2, 70) | st.sampled_from(HUGE)
DTYPES = st.sampled_from(
    ["<u2", "|u1", "<u4", "<f4", "<f8", "<i8", "|b1", "|O", ">u2", "<U9", "V8", "u2,u2", "(9,)u1"]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=40) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
HEADERS = st.one_of(
    # Blosc: versions, flags, typesize, then nbytes, blocksize, cbytes as declared.
    st.builds(
        lambda head, sizes: bytes(head) + struct.pack("<III", *sizes),
        st.tuples(*[st.integers(0, 255)] * 4),
        st.tuples(*[st.integers(0, 2**32 - 1) | st.sampled_from([0, 16, 4096])] * 3),
    ),
    # Zstandard: magic, descriptor, content size.
    st.builds(
        lambda descriptor, size: b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + size,
        st.integers(0, 255),
        st.binary(max_size=14),
    ),
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """Return a packed array with one to three things wrong, or nothing."""
    shape = tuple(draw(st.lists(st.integers(0, 40), min_size=1, max_size=3)))
    dtype = draw(st.sampled_from(["u1", "u2", "f4", "?"]))
    array = np.resize(np.arange(draw(st.integers(1, 300))), shape).astype(dtype)
    packed = pack_array(array, draw(st.sampled_from(CODECS)))
    for _ in range(draw(st.integers(0, 3))):
        match draw(st.integers(0, 7)):
            case 0:
                packed["shape"] = draw(st.lists(LENGTHS, max_size=9) | ANYTHING)
            case 1:
                packed["dtype"] = draw(DTYPES | ANYTHING)
            case 2:
                packed["codec"] = draw(st.sampled_from([*CODECS, "pickle"]) | ANYTHING)
            case 3:
                packed["data"] = draw(HEADERS) + packed["data"][16:]
            case 4:
                packed["data"] = draw(st.binary(max_size=200) | ANYTHING)
            case 5 if isinstance(packed.get("data"), bytes) and packed["data"]:
                data = bytearray(packed["data"])
                data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
                packed["data"] = bytes(data)
            case 6 if isinstance(packed.get("data"), bytes):
                packed["data"] = packed["data"][: draw(st.integers(0, len(packed["data"])))]
            case _:
                packed[draw(st.sampled_from(["wire", "extra", "shape"]))] = draw(ANYTHING)
        if not isinstance(packed.get("data"), bytes):
            break
    return packed


WHOLE = [
    pack_array(np.resize(np.arange(97), shape).astype(dtype), codec)
    for shape in ((0,), (1,), (40,), (7, 9), (3, 5, 11))
    for dtype in ("u1", "u2", "f4", "?")
    for codec in CODECS
]


def mutated(number: int) -> dict[str, Any]:
    """Return a packed array with one to four bytes, lengths or fields wrong, by a seed.

    One draw a case: Hypothesis makes these thirty times as fast as those of ``damaged``.
    """
    chance = random.Random(number)
    packed = dict(chance.choice(WHOLE))
    data = bytearray(packed["data"])
    for _ in range(chance.randint(1, 4)):
        match chance.randrange(8):
            case 0 | 1 if data:
                # The codec's own header declares sizes in the first bytes.
                data[chance.randrange(min(len(data), 20))] = chance.randrange(256)
            case 2 | 3 if data:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 4 if data:
                del data[chance.randrange(len(data)) :]
            case 5:
                data += chance.randbytes(chance.randrange(40))
            case 6:
                lengths = [chance.choice([0, 1, 2, 97, -1, *HUGE]) for _ in packed["shape"]]
                packed["shape"] = lengths[: chance.randrange(4)] or packed["shape"]
            case _:
                other = chance.choice(WHOLE)
                packed[chance.choice(["dtype", "codec", "shape"])] = other[
                    chance.choice(["dtype", "codec", "shape"])
                ]
    return packed | {"data": bytes(data)}


def check_unpack(packed: Any) -> None:
    try:
        array = unpack_array(packed, LIMIT_BYTES)
    except WireError:
        return
    assert array.nbytes <= LIMIT_BYTES
    assert (list(array.shape), array.dtype.str) == (list(packed["shape"]), packed["dtype"])


def check_answer(answer: Any) -> None:
    """What :meth:`HttpTransport.call` translates is a refusal; anything else would end a batch."""
    try:
        _unpack(answer)
    except (ValueError, KeyError, TypeError):
        return


ANSWERS = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda value, dtype, shape: msgpack.packb(
            {"_rtype": "ndarray", "_rvalue": value, "_rdtype": dtype, "_rshape": shape},
            default=str,
        ),
        st.binary(max_size=64) | st.text(max_size=9) | st.none(),
        DTYPES | st.text(max_size=12) | st.none() | st.lists(st.text(max_size=3), max_size=3),
        st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 9), max_size=9) | st.none(),
    ),
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", ROUNDS)
@pytest.mark.parametrize(
    ("cases", "check"),
    [
        (st.integers(0, 2**64).map(mutated), check_unpack),
        (damaged() | ANYTHING, check_unpack),
        (ANSWERS, check_answer),
    ],
    ids=["mutated", "built", "http-answer"],
)
def test_hostile_input_is_an_array_within_the_limit_or_refused(
    cases: st.SearchStrategy[Any], check: Any, number: int
) -> None:
    before_bytes = peak_bytes()

    @seed(number)
    @settings(
        max_examples=CASES_A_ROUND,
        deadline=2000,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def round_of_cases(case: Any) -> None:
        check(case)

    round_of_cases()
    assert peak_bytes() - before_bytes < LIMIT_BYTES + SLACK_BYTES


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
