"""Tests of the comparison of the transports: its table, skipped sizes, and failures.

A scripted transport takes the place of the real ones, which tests/live measures.
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
    reason_to_skip,
    write_comparison,
)
from samcourier.benchmark.plot import plot_table
from samcourier.benchmark.table import (
    Case,
    Direction,
    Record,
    Row,
    print_table,
    remark_lines,
    size_text,
    table_rows,
    table_tsv,
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
    """Return a record with equal times in both directions and a median round trip of 10 ms."""
    samples = {
        Case(direction, payload_bytes): [
            Sample(Payload(payload_bytes, payload_bytes), each / 2, each / 2) for each in times_s
        ]
        for (direction, payload_bytes), times_s in seconds.items()
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
def test_each_size_is_four_times_the_one_before(max_mib: int, sizes: list[str]) -> None:
    assert [size_text(each) for each in payload_sizes(max_mib * MIB)] == sizes


@pytest.mark.parametrize(
    ("known", "case", "reason"),
    [
        (record("http", {}), Case("up", MIB), None),
        (record("http", {("up", MIB): [7.4]}), Case("up", 4 * MIB), None),
        (
            record("http", {("up", MIB): [7.6]}),
            Case("up", 4 * MIB),
            "skipped: a call would take 30.4 s, over 30 s",
        ),
        # The prediction uses the median, not the slowest call.
        (record("http", {("up", MIB): [1, 1, 50]}), Case("up", 4 * MIB), None),
        # It uses the largest measured size of the same direction.
        (record("http", {("up", MIB): [20]}), Case("down", 4 * MIB), None),
        (record("http", {("up", MIB): [20], ("up", 4 * MIB): [1]}), Case("up", 16 * MIB), None),
        # It ignores sizes that are equal or larger.
        (record("http", {("up", 4 * MIB): [50]}), Case("up", 4 * MIB), None),
        # It ignores a skipped size and uses the largest measured one.
        (
            record("http", {("up", MIB): [10]}, skipped={Case("up", 4 * MIB): "long"}),
            Case("up", 16 * MIB),
            "skipped: a call would take 160 s, over 30 s",
        ),
        (
            record("http", {("up", MIB): [1]}, failures={Case("up", 4 * MIB): "failed: reset"}),
            Case("up", 16 * MIB),
            "skipped: 4 MiB failed",
        ),
        (
            record("http", {}, failures={Case("up", 4 * MIB): "failed: reset"}),
            Case("down", 16 * MIB),
            None,
        ),
    ],
)
def test_a_size_that_would_take_too_long_is_skipped(
    known: Record, case: Case, reason: str | None
) -> None:
    assert reason_to_skip(known, case, call_limit_s=30) == reason


RECORDS = [
    record(
        "websocket",
        {("both", MIB): [0.25, 0.2, 0.1], ("up", MIB): [0.1], ("up", 64 * KIB): [0.02]},
    ),
    record("webrtc", {("up", MIB): [0.8]}, failures={Case("both", MIB): "failed: reset"}),
    Record("http", failure="needs service.workspace"),
    record("naive", {("both", MIB): [0.6], ("up", MIB): [0.4]}),
]


def test_the_table_has_medians_throughput_and_the_speedup_over_naive() -> None:
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


def test_a_table_without_the_naive_client_has_no_speedup() -> None:
    assert {row.times_naive for row in table_rows(RECORDS[:2])} == {None}


def test_unknown_values_are_empty_in_the_tsv() -> None:
    read = list(csv.DictReader(io.StringIO(table_tsv(table_rows(RECORDS))), delimiter="\t"))
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


def test_the_printed_tables_have_a_row_per_transport() -> None:
    assert printed(table_rows(RECORDS)) == [
        "MB/s to the service",
        "transport round trip 64 KiB 1 MiB",
        "websocket 10.0 ms 3.28 10.5",
        "webrtc 10.0 ms – 1.31",
        "naive 10.0 ms – 2.62",
        "ms per call, payload in both directions",
        "transport round trip 1 MiB",
        "websocket 10.0 ms 200",
        "webrtc 10.0 ms –",
        "naive 10.0 ms 600",
        "times as fast as naive, payload in both directions",
        "transport round trip 1 MiB",
        "websocket 10.0 ms 3.0",
        "webrtc 10.0 ms –",
        "naive 10.0 ms 1.0",
        "webrtc both 1 MiB: failed: reset",
        "http: does not work: needs service.workspace",
    ]


def test_equal_remarks_share_a_line() -> None:
    reason = "skipped: 1 MiB failed"
    rows = [
        Row("http", direction, mib * MIB, "random bytes", remark=reason)
        for direction, mib in (("up", 4), ("up", 16), ("down", 4))
    ] + [Row("http", "down", MIB, "random bytes")]
    assert remark_lines(rows) == [f"http up 4 MiB, 16 MiB: {reason}", f"http down 4 MiB: {reason}"]


def test_a_remark_is_printed_unchanged() -> None:
    remark = f"failed: [red]{'long ' * 40}end"
    assert printed([Row("http", None, None, "random bytes", remark=remark)]) == [f"http: {remark}"]


# Measuring.


@pytest.fixture
def service() -> Iterable[SegmentationService]:
    made = SegmentationService(WatershedEngine())
    yield made
    made.close()


async def test_all_transports_are_measured_in_each_round(
    service: SegmentationService, log: pytest.LogCaptureFixture
) -> None:
    transports = [FakeTransport(service, name="http"), FakeTransport(service, name="naive")]
    compared = await compare_transports(transports, SMALL)
    assert log.messages == ["measuring 64 KiB", "measuring 256 KiB"]
    assert compared.description["engine"] == "watershed"
    assert compared.has_measurements
    assert len(compared.rows) == 2 * 3 * 2
    for row in compared.rows:
        assert (row.runs, row.remark) == (SMALL.runs, "")
        assert row.seconds is not None and row.round_trip_s is not None
    for transport in transports:
        # Two sizes in three directions, each in the warm-up round and in two counted rounds.
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
async def test_a_transport_that_does_not_work_has_a_line_with_the_reason(
    service: SegmentationService, script: dict[str, Any], reason: str
) -> None:
    broken = FakeTransport(service, name="http", **script)
    works = FakeTransport(service, name="websocket")
    compared = await compare_transports([broken, works], SMALL)
    assert remark_lines(compared.rows) == [f"http: does not work: {reason}"]
    assert broken.history[-1] == "close"
    assert compared.has_measurements


async def test_without_a_working_transport_nothing_is_measured(
    service: SegmentationService, log: pytest.LogCaptureFixture
) -> None:
    broken = FakeTransport(service, opens=[Scripted(error=TransportFailed("refused"))])
    compared = await compare_transports([broken], SMALL)
    assert log.messages == []
    assert not compared.has_measurements
    assert broken.history == ["open", "close", "close"]


async def test_the_naive_client_does_not_count_as_a_working_transport(
    service: SegmentationService,
) -> None:
    broken = FakeTransport(service, opens=[Scripted(error=TransportFailed("refused"))])
    compared = await compare_transports([broken, FakeTransport(service, name="naive")], SMALL)
    assert not compared.has_measurements
    assert any(row.runs for row in compared.rows)


@pytest.mark.parametrize(
    ("failing_call", "reopens", "remarks"),
    [
        (
            0,
            [],
            ["http up 64 KiB: failed: reset", "http up 256 KiB: skipped: 64 KiB failed"],
        ),
        # The call fails in the second counted round; the results of the first one remain.
        (
            7,
            [],
            ["http down 64 KiB: failed: reset", "http down 256 KiB: skipped: 64 KiB failed"],
        ),
        (
            7,
            [Scripted(error=TransportFailed("refused"))],
            [
                "http down 64 KiB: failed: reset",
                "http: failed during the measurement: refused",
            ],
        ),
    ],
)
async def test_after_a_failed_call_its_direction_is_skipped_with_a_remark(
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


async def test_a_call_over_the_time_limit_fails(service: SegmentationService) -> None:
    calls = [*[Scripted()] * CALLS_BEFORE_SIZES, Scripted(delay_s=60)]
    transport = FakeTransport(service, name="http", manager_calls=calls)
    settings = SpeedSettings(runs=2, max_bytes=64 * KIB, call_limit_s=0.2)
    compared = await compare_transports([transport], settings)
    assert remark_lines(compared.rows) == ["http up 64 KiB: failed: no answer within 0.2 s"]


async def test_a_reply_of_the_wrong_size_is_a_failure() -> None:
    class ShorteningService(SegmentationService):
        async def probe(self, payload: bytes, reply_bytes: int = 0, context: Any = None) -> Any:
            answer = await super().probe(payload, reply_bytes)
            return answer | {"data": answer["data"][:10]}

    service = ShorteningService(WatershedEngine())
    compared = await compare_transports([FakeTransport(service)], SMALL)
    service.close()
    assert "fake down 64 KiB: failed: (0, 10) bytes arrived up and down, expected (0, 65536)" in (
        remark_lines(compared.rows)
    )


async def test_sizes_over_the_limit_of_the_service_are_skipped_with_a_note() -> None:
    service = SegmentationService(WatershedEngine(), Limits(max_probe_bytes=100 * KIB))
    compared = await compare_transports([FakeTransport(service)], SpeedSettings(2, MIB))
    service.close()
    assert {row.payload_bytes for row in compared.rows} == {64 * KIB}
    assert compared.notes[-1] == (
        "The service accepts at most 100 KiB in a probe; skipped: 256 KiB, 1 MiB."
    )


async def test_the_transports_are_closed_after_an_unexpected_error(
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


def test_the_files_have_the_table_and_the_settings_but_no_token(tmp_path: Path) -> None:
    compared = Comparison({"engine": "watershed"}, table_rows(RECORDS), ["a note"])
    write_comparison(tmp_path / "new", compared, ENDPOINT, SMALL)
    text = (tmp_path / "new" / "bench.json").read_text()
    content = json.loads(text)
    assert [Row(**row) for row in content["rows"]] == compared.rows
    assert content["settings"] == {"runs": 2, "max_bytes": 256 * KIB, "call_limit_s": 30.0}
    assert content["notes"] == ["a note"]
    assert content["client"]["cpus"] > 0
    assert "secret" not in text
    assert (tmp_path / "new" / "table.tsv").read_text() == table_tsv(compared.rows)


@pytest.mark.parametrize("records", [RECORDS, RECORDS[:1], RECORDS[3:]])
def test_the_plot_names_each_measured_transport(tmp_path: Path, records: list[Record]) -> None:
    pytest.importorskip("matplotlib", reason="the extra [plot] is not installed")
    plot_table(table_rows(records), tmp_path)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    # The letters are drawn as paths; the comments before them have their text.
    svg = (tmp_path / "plot.svg").read_text()
    for name in ("websocket", "webrtc", "http", "naive (hypha-rpc with its defaults)"):
        measured = any(each.samples and name.startswith(each.transport) for each in records)
        assert (f"<!-- {name} -->" in svg) == measured, name


def test_without_matplotlib_there_is_no_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError):
        plot_table(table_rows(RECORDS), tmp_path)
    assert list(tmp_path.iterdir()) == []
