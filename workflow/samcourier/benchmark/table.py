"""Make the table of a comparison of the transports, as rows, TSV, or text for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from ..connection.throughput import Sample
from ..formatting import format_tsv

Direction = Literal["up", "down", "both"]
DIRECTIONS: tuple[Direction, ...] = ("up", "down", "both")

#: The transport with which the others are compared.
BASELINE = "naive"

#: The payload of every probe, which no transport can compress.
CONTENT = "random bytes"


class Case(NamedTuple):
    """A kind of call: ``payload_bytes`` in one direction, or the same number in both directions."""

    direction: Direction
    payload_bytes: int


@dataclass
class Record:
    """The measurements of one transport.

    ``failures`` and ``skipped`` have the reasons why a case has no or fewer measurements;
    ``failure`` is the reason why the transport was not measured further.
    """

    transport: str
    round_trips_s: list[float] = field(default_factory=list)
    samples: dict[Case, list[Sample]] = field(default_factory=dict)
    failures: dict[Case, str] = field(default_factory=dict)
    skipped: dict[Case, str] = field(default_factory=dict)
    failure: str | None = None

    def median_s(self, case: Case) -> float | None:
        """Return the median seconds of a call without the service's own time, None without any."""
        transfers_s = [_transfer_s(each) for each in self.samples.get(case, [])]
        return statistics.median(transfers_s) if transfers_s else None


@dataclass(frozen=True)
class Row:
    """A row of the table; the fields are its columns, and None means not measured.

    ``seconds`` is the median time of a call without the service's own time, ``send_s`` and
    ``receive_s`` are its two parts. ``mb_per_s`` is the number of transferred bytes in 1e6, divided
    by ``seconds``. ``times_naive`` is the time of the naive client divided by ``seconds``.
    """

    transport: str
    direction: Direction | None
    payload_bytes: int | None
    content: str
    round_trip_s: float | None = None
    runs: int = 0
    seconds: float | None = None
    fastest_s: float | None = None
    slowest_s: float | None = None
    send_s: float | None = None
    receive_s: float | None = None
    mb_per_s: float | None = None
    times_naive: float | None = None
    remark: str = ""


def table_rows(records: Sequence[Record]) -> list[Row]:
    """Return the rows, sorted by transport, direction and size.

    A transport that failed has one more row with the reason.
    """
    naive = next((each for each in records if each.transport == BASELINE), None)
    rows = []
    for record in records:
        cases = {*record.samples, *record.failures, *record.skipped}
        ordered = sorted(
            cases, key=lambda case: (DIRECTIONS.index(case.direction), case.payload_bytes)
        )
        rows += [_row(record, case, naive) for case in ordered]
        if record.failure is not None:
            state = "failed during the measurement" if record.samples else "does not work"
            remark = f"{state}: {record.failure}"
            rows.append(Row(record.transport, None, None, CONTENT, remark=remark))
    return rows


def _row(record: Record, case: Case, naive: Record | None) -> Row:
    row = Row(
        record.transport,
        case.direction,
        case.payload_bytes,
        CONTENT,
        round_trip_s=statistics.median(record.round_trips_s) if record.round_trips_s else None,
        remark=record.failures.get(case) or record.skipped.get(case, ""),
    )
    samples = record.samples.get(case, [])
    seconds = record.median_s(case)
    if seconds is None:
        return row
    transfers_s = [_transfer_s(each) for each in samples]
    transferred_bytes = case.payload_bytes * (2 if case.direction == "both" else 1)
    naive_s = naive.median_s(case) if naive else None
    return Row(
        **asdict(row)
        | {
            "runs": len(samples),
            "seconds": seconds,
            "fastest_s": min(transfers_s),
            "slowest_s": max(transfers_s),
            "send_s": statistics.median(each.send_s for each in samples),
            "receive_s": statistics.median(each.receive_s for each in samples),
            "mb_per_s": transferred_bytes / seconds / 1e6 if seconds else None,
            "times_naive": naive_s / seconds if naive_s and seconds else None,
        }
    )


def _transfer_s(sample: Sample) -> float:
    return sample.send_s + sample.receive_s


def table_tsv(rows: Iterable[Row]) -> str:
    """Return the table as tab-separated text with a header; a value of None is empty."""
    header = [each.name for each in fields(Row)]
    return format_tsv([header, *(map(_tsv_text, asdict(row).values()) for row in rows)])


def _tsv_text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def size_text(payload_bytes: int) -> str:
    """Return a number of bytes as text, e.g. ``64 KiB`` or ``16 MiB``."""
    mib = payload_bytes / (1 << 20)
    return f"{mib:g} MiB" if mib >= 1 else f"{payload_bytes / 1024:g} KiB"


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Print a table for each direction with a row per transport and a column per size.

    Lines below the tables name the missing values and the reasons.
    """
    measured = [row for row in rows if row.direction is not None]
    for direction, title, text in (
        ("up", "MB/s to the service", _rate_text),
        ("down", "MB/s from the service", _rate_text),
        ("both", "ms per call, payload in both directions", _call_text),
        ("both", "times as fast as naive, payload in both directions", _speedup_text),
    ):
        shown = [row for row in measured if row.direction == direction]
        if not shown:
            continue
        sizes = sorted({row.payload_bytes or 0 for row in shown})
        table = Table(box=None, pad_edge=False)
        table.add_column("transport")
        table.add_column("round trip", justify="right")
        for size in sizes:
            table.add_column(size_text(size), justify="right", no_wrap=True)
        for transport in dict.fromkeys(row.transport for row in shown):
            by_size = {row.payload_bytes: row for row in shown if row.transport == transport}
            round_trip_s = next(iter(by_size.values())).round_trip_s
            cells = [text(by_size[size]) if size in by_size else "–" for size in sizes]
            table.add_row(transport, _milliseconds(round_trip_s), *cells)
        console.print(title, style="bold", highlight=False)
        console.print(table)
        console.print()
    for line in remark_lines(rows):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def remark_lines(rows: Iterable[Row]) -> list[str]:
    """Return lines ``transport direction sizes: remark``; rows with equal remarks share a line."""
    sizes_of: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        if row.remark:
            sizes = sizes_of.setdefault((row.transport, row.direction or "", row.remark), [])
            sizes += [row.payload_bytes] if row.payload_bytes else []
    return [
        " ".join(filter(None, [transport, direction, ", ".join(map(size_text, sizes))]))
        + f": {remark}"
        for (transport, direction, remark), sizes in sizes_of.items()
    ]


def _rate_text(row: Row) -> str:
    return "–" if row.mb_per_s is None else f"{row.mb_per_s:.3g}"


def _call_text(row: Row) -> str:
    return "–" if row.seconds is None else _in_ms(row.seconds)


def _speedup_text(row: Row) -> str:
    return "–" if row.times_naive is None else f"{row.times_naive:.1f}"


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{_in_ms(seconds)} ms"


def _in_ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"
