"""The comparison of the transports: its table, what it leaves out, and what it makes of failures.

A scripted transport stands for the real ones, which tests/live measures.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from samcourier.benchmark.compare import (
    Comparison,
    SpeedSettings,
    compare_transports,
    payload_sizes,
    why_left_out,
    write_comparison,
)
from samcourier.benchmark.plot import plot_table
from samcourier.benchmark.table import (
    Case,
    Direction,
    Record,
    Row,
    as_tsv,
    print_table,
    remark_lines,
    size_text,
    table_rows,
)
from samcourier.connection.throughput import Payload, Sample
from samcourier.errors import Denied, ServiceFailed, TransportFailed
from samcourier.testing.fake import FakeTransport, Scripted
from samcourier.transports.base import Endpoint
from samservice.engines.watershed import WatershedEngine
from samservice.server.app import Limits, SegmentationService

KIB = 1 << 10
MIB = 1 << 20
SMALL = SpeedSettings(runs=2, max_bytes=256 * KIB)

#: Calls of one transport before the first size: describe, and an empty one in each of 3 rounds.
CALLS_BEFORE_SIZES = 1 + 3


def record(
    transport: str, seconds: dict[tuple[Direction, int], list[float]], **others: Any
) -> Record:
    """Return what a transport took, up and down alike; the round trip is 10 ms."""
    samples = {
        Case(direction, payload_bytes): [
            Sample(Payload(payload_bytes, payload_bytes), each / 2, each / 2) for each in travels_s
        ]
        for (direction, payload_bytes), travels_s in seconds.items()
    }
    return Record(transport, [0.01, 0.01, 0.5], samples, **others)


@pytest.mark.parametrize(
    ("max_mib", "sizes"),
    [
        (1, ["64 KiB", "256 KiB", "1 MiB"]),
        (3, ["64 KiB", "256 KiB", "1 MiB"]),
        (4, ["64 KiB", "256 KiB", "1 MiB", "4 MiB"]),
        (64, ["64 KiB", "256 KiB", "1 MiB", "4 MiB", "16 MiB", "64 MiB"]),
    ],
)
def test_sizes_rise_by_powers_of_four(max_mib: int, sizes: list[str]) -> None:
    assert [size_text(each) for each in payload_sizes(max_mib * MIB)] == sizes


@pytest.mark.parametrize(
    ("known", "case", "reason"),
    [
        (record("http", {}), Case("up", MIB), None),
        (record("http", {("up", MIB): [7.4]}), Case("up", 4 * MIB), None),
        (
            record("http", {("up", MIB): [7.6]}),
            Case("up", 4 * MIB),
            "left out: a call would take 30.4 s, over 30 s",
        ),
        # The median decides, not the slowest.
        (record("http", {("up", MIB): [1, 1, 50]}), Case("up", 4 * MIB), None),
        # Each direction for itself, the largest size of it.
        (record("http", {("up", MIB): [20]}), Case("down", 4 * MIB), None),
        (record("http", {("up", MIB): [20], ("up", 4 * MIB): [1]}), Case("up", 16 * MIB), None),
        # What is as large, or larger, says nothing.
        (record("http", {("up", 4 * MIB): [50]}), Case("up", 4 * MIB), None),
        # A size left out is jumped over: the one measured before it still tells.
        (
            record("http", {("up", MIB): [10]}, left_out={Case("up", 4 * MIB): "long"}),
            Case("up", 16 * MIB),
            "left out: a call would take 160 s, over 30 s",
        ),
        (
            record("http", {("up", MIB): [1]}, failures={Case("up", 4 * MIB): "failed: reset"}),
            Case("up", 16 * MIB),
            "left out: 4 MiB failed",
        ),
        (
            record("http", {}, failures={Case("up", 4 * MIB): "failed: reset"}),
            Case("down", 16 * MIB),
            None,
        ),
    ],
)
def test_what_would_take_too_long_is_left_out(
    known: Record, case: Case, reason: str | None
) -> None:
    assert why_left_out(known, case, call_limit_s=30) == reason


RECORDS = [
    record(
        "websocket",
        {("both", MIB): [0.25, 0.2, 0.1], ("up", MIB): [0.1], ("up", 64 * KIB): [0.02]},
    ),
    record("webrtc", {("up", MIB): [0.8]}, failures={Case("both", MIB): "failed: reset"}),
    Record("http", failure="needs service.workspace"),
    record("naive", {("both", MIB): [0.6], ("up", MIB): [0.4]}),
]


def test_the_table_holds_medians_rates_and_the_gain_over_naive() -> None:
    rows = {(row.transport, row.direction, row.payload_bytes): row for row in table_rows(RECORDS)}
    assert list(rows) == [
        ("websocket", "up", 64 * KIB),
        ("websocket", "up", MIB),
        ("websocket", "both", MIB),
        ("webrtc", "up", MIB),
        ("webrtc", "both", MIB),
        ("http", None, None),
        ("naive", "up", MIB),
        ("naive", "both", MIB),
    ]
    both = rows["websocket", "both", MIB]
    assert (both.runs, both.seconds, both.fastest_s, both.slowest_s) == (3, 0.2, 0.1, 0.25)
    assert (both.send_s, both.receive_s, both.round_trip_s) == (0.1, 0.1, 0.01)
    assert both.mb_per_s == pytest.approx(2 * MIB / 0.2 / 1e6)
    assert both.times_naive == pytest.approx(3)
    assert rows["websocket", "up", MIB].mb_per_s == pytest.approx(MIB / 0.1 / 1e6)
    assert rows["webrtc", "up", MIB].times_naive == pytest.approx(0.5)
    assert rows["naive", "up", MIB].times_naive == 1
    assert rows["websocket", "up", 64 * KIB].times_naive is None


def test_a_table_without_the_naive_client_has_no_gain_over_it() -> None:
    assert {row.times_naive for row in table_rows(RECORDS[:2])} == {None}


def test_the_tsv_reads_back_and_leaves_empty_what_is_not_known() -> None:
    read = list(csv.DictReader(io.StringIO(as_tsv(table_rows(RECORDS))), delimiter="\t"))
    assert {row["content"] for row in read} == {"random bytes"}
    assert (read[2]["transport"], read[2]["seconds"], read[2]["mb_per_s"]) == (
        "websocket",
        "0.2",
        "10.4858",
    )
    failed, broken = read[4], read[5]
    assert (failed["seconds"], failed["runs"], failed["remark"]) == ("", "0", "failed: reset")
    assert (broken["direction"], broken["payload_bytes"]) == ("", "")
    assert broken["remark"] == "does not work: needs service.workspace"


def printed(rows: list[Row]) -> list[str]:
    stream = io.StringIO()
    print_table(rows, Console(file=stream, width=100))
    return [" ".join(line.split()) for line in stream.getvalue().splitlines() if line.strip()]


def test_the_printed_table_sets_the_transports_side_by_side() -> None:
    assert printed(table_rows(RECORDS)) == [
        "MB/s to the service",
        "transport round trip 64 KiB 1 MiB",
        "websocket 10.0 ms 3.28 10.5",
        "webrtc 10.0 ms – 1.31",
        "naive 10.0 ms – 2.62",
        "ms a call, payload both ways",
        "transport round trip 1 MiB",
        "websocket 10.0 ms 200",
        "webrtc 10.0 ms –",
        "naive 10.0 ms 600",
        "times as fast as naive, payload both ways",
        "transport round trip 1 MiB",
        "websocket 10.0 ms 3.0",
        "webrtc 10.0 ms –",
        "naive 10.0 ms 1.0",
        "webrtc both 1 MiB: failed: reset",
        "http: does not work: needs service.workspace",
    ]


def test_equal_remarks_share_a_line() -> None:
    reason = "left out: 1 MiB failed"
    rows = [
        Row("http", direction, mib * MIB, "random bytes", remark=reason)
        for direction, mib in (("up", 4), ("up", 16), ("down", 4))
    ] + [Row("http", "down", MIB, "random bytes")]
    assert remark_lines(rows) == [f"http up 4 MiB, 16 MiB: {reason}", f"http down 4 MiB: {reason}"]


def test_a_remark_is_printed_as_it_is() -> None:
    remark = f"failed: [red]{'long ' * 40}end"
    assert printed([Row("http", None, None, "random bytes", remark=remark)]) == [f"http: {remark}"]


# Measuring.


@pytest.fixture
def service() -> Iterable[SegmentationService]:
    made = SegmentationService(WatershedEngine())
    yield made
    made.close()


async def test_every_transport_is_measured_in_turn(
    service: SegmentationService, log: pytest.LogCaptureFixture
) -> None:
    transports = [FakeTransport(service, name="http"), FakeTransport(service, name="naive")]
    compared = await compare_transports(transports, SMALL)
    assert log.messages == ["measuring 64 KiB", "measuring 256 KiB"]
    assert compared.description["engine"] == "watershed"
    assert compared.any_works
    assert len(compared.rows) == 2 * 3 * 2
    for row in compared.rows:
        assert (row.runs, row.remark) == (SMALL.runs, "")
        assert row.seconds is not None and row.round_trip_s is not None
    for transport in transports:
        # Both sizes in three directions, each in the round thrown away and two that count.
        probes = CALLS_BEFORE_SIZES - 1 + 2 * 3 * 3
        assert transport.history == ["open", "describe", *["probe"] * probes, "close"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"opens": [Scripted(error=Denied("http: no entry"))]}, "no entry"),
        ({"manager_calls": [Scripted(error=ServiceFailed("no describe"))]}, "no describe"),
        ({"manager_calls": [Scripted(), Scripted(error=TransportFailed("http: reset"))]}, "reset"),
        ({"opens": [Scripted(error=TransportFailed("two\nlines"))]}, "two lines"),
    ],
)
async def test_a_transport_that_does_not_work_is_a_line(
    service: SegmentationService, script: dict[str, Any], reason: str
) -> None:
    broken = FakeTransport(service, name="http", **script)
    works = FakeTransport(service, name="websocket")
    compared = await compare_transports([broken, works], SMALL)
    assert remark_lines(compared.rows) == [f"http: does not work: {reason}"]
    assert broken.history[-1] == "close"
    assert compared.any_works


async def test_nothing_is_measured_when_nothing_works(
    service: SegmentationService, log: pytest.LogCaptureFixture
) -> None:
    broken = FakeTransport(service, opens=[Scripted(error=TransportFailed("refused"))])
    compared = await compare_transports([broken], SMALL)
    assert log.messages == []
    assert not compared.any_works
    assert broken.history == ["open", "close", "close"]


async def test_the_naive_client_alone_is_no_transport_that_works(
    service: SegmentationService,
) -> None:
    broken = FakeTransport(service, opens=[Scripted(error=TransportFailed("refused"))])
    compared = await compare_transports([broken, FakeTransport(service, name="naive")], SMALL)
    assert not compared.any_works
    assert any(row.runs for row in compared.rows)


@pytest.mark.parametrize(
    ("failing_call", "reopens", "remarks"),
    [
        (
            0,
            [],
            ["http up 64 KiB: failed: reset", "http up 256 KiB: left out: 64 KiB failed"],
        ),
        # In the second round that counts: the first one's figures stay.
        (
            7,
            [],
            ["http down 64 KiB: failed: reset", "http down 256 KiB: left out: 64 KiB failed"],
        ),
        (
            7,
            [Scripted(error=TransportFailed("refused"))],
            ["http down 64 KiB: failed: reset", "http: was lost: refused"],
        ),
    ],
)
async def test_a_failed_call_ends_its_direction_and_is_said(
    service: SegmentationService,
    failing_call: int,
    reopens: list[Scripted],
    remarks: list[str],
) -> None:
    before = [Scripted()] * (CALLS_BEFORE_SIZES + failing_call)
    transport = FakeTransport(
        service,
        name="http",
        opens=[Scripted(), *reopens],
        manager_calls=[*before, Scripted(error=TransportFailed("http: reset"))],
    )
    compared = await compare_transports([transport], SMALL)
    assert remark_lines(compared.rows) == remarks
    runs = {(row.direction, row.payload_bytes): row.runs for row in compared.rows}
    assert runs.get(("down", 64 * KIB)) == (1 if failing_call else SMALL.runs)
    assert runs.get(("both", 256 * KIB)) == (None if reopens else SMALL.runs)


async def test_a_call_over_the_limit_is_given_up(service: SegmentationService) -> None:
    calls = [*[Scripted()] * CALLS_BEFORE_SIZES, Scripted(delay_s=60)]
    transport = FakeTransport(service, name="http", manager_calls=calls)
    settings = SpeedSettings(runs=2, max_bytes=64 * KIB, call_limit_s=0.2)
    compared = await compare_transports([transport], settings)
    assert remark_lines(compared.rows) == ["http up 64 KiB: failed: no answer within 0.2 s"]


async def test_a_service_that_answers_with_other_bytes_has_failed() -> None:
    class Shortens(SegmentationService):
        async def probe(self, payload: bytes, reply_bytes: int = 0, context: Any = None) -> Any:
            answer = await super().probe(payload, reply_bytes)
            return answer | {"data": answer["data"][:10]}

    service = Shortens(WatershedEngine())
    compared = await compare_transports([FakeTransport(service)], SMALL)
    service.close()
    assert "fake down 64 KiB: failed: (0, 10) bytes arrived up and down, expected (0, 65536)" in (
        remark_lines(compared.rows)
    )


async def test_sizes_the_service_does_not_take_are_left_out_and_said() -> None:
    service = SegmentationService(WatershedEngine(), Limits(max_probe_bytes=100 * KIB))
    compared = await compare_transports([FakeTransport(service)], SpeedSettings(2, MIB))
    service.close()
    assert {row.payload_bytes for row in compared.rows} == {64 * KIB}
    assert compared.notes[-1] == (
        "The service takes at most 100 KiB in a probe; left out: 256 KiB, 1 MiB."
    )


async def test_an_error_that_is_not_expected_still_closes_the_transports(
    service: SegmentationService,
) -> None:
    class Bug(Exception):
        pass

    class Buggy(FakeTransport):
        async def call(self, method: str, arguments: dict[str, Any], timeout_s: float) -> Any:
            raise Bug

    transports = [FakeTransport(service), Buggy(service)]
    with pytest.raises(Bug):
        await compare_transports(transports, SMALL)
    assert [transport.history[-1] for transport in transports] == ["close", "close"]


# Files.

ENDPOINT = Endpoint("http://127.0.0.1:9", "lab", "samservice", "samservice-rtc", "secret")


def test_the_files_hold_the_table_and_how_it_was_made_but_no_token(tmp_path: Path) -> None:
    compared = Comparison({"engine": "watershed"}, table_rows(RECORDS), ["a note"])
    write_comparison(tmp_path / "new", compared, ENDPOINT, SMALL)
    text = (tmp_path / "new" / "bench.json").read_text()
    content = json.loads(text)
    assert [Row(**row) for row in content["rows"]] == compared.rows
    assert content["settings"] == {"runs": 2, "max_bytes": 256 * KIB, "call_limit_s": 30.0}
    assert content["notes"] == ["a note"]
    assert content["client"]["cpus"] > 0
    assert "secret" not in text
    assert (tmp_path / "new" / "table.tsv").read_text() == as_tsv(compared.rows)


@pytest.mark.parametrize("records", [RECORDS, RECORDS[:1], RECORDS[3:]])
def test_the_plot_names_each_transport_measured(tmp_path: Path, records: list[Record]) -> None:
    pytest.importorskip("matplotlib", reason="the extra [plot] is not installed")
    plot_table(table_rows(records), tmp_path)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    # Its letters are paths; the comments before them say which text they are.
    svg = (tmp_path / "plot.svg").read_text()
    for name in ("websocket", "webrtc", "http", "naive (hypha-rpc as it comes)"):
        measured = any(each.samples and name.startswith(each.transport) for each in records)
        assert (f"<!-- {name} -->" in svg) == measured, name


def test_without_matplotlib_there_is_no_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError):
        plot_table(table_rows(RECORDS), tmp_path)
    assert list(tmp_path.iterdir()) == []
