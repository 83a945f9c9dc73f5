"""What a comparison of the transports measured, as a table. Pure: no clock, no I/O but text."""

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

#: What others are compared with.
BASELINE = "naive"

#: What every probe carries: nothing that a transport's compression could shrink.
CONTENT = "random bytes"


class Case(NamedTuple):
    """One thing measured: so many bytes one way, or the same number both ways in one call."""

    direction: Direction
    payload_bytes: int


@dataclass
class Record:
    """What was measured of one transport.

    ``failures`` and ``left_out`` say why a case has no figures, or fewer; ``failure`` why the
    transport has no more.
    """

    transport: str
    round_trips_s: list[float] = field(default_factory=list)
    samples: dict[Case, list[Sample]] = field(default_factory=dict)
    failures: dict[Case, str] = field(default_factory=dict)
    left_out: dict[Case, str] = field(default_factory=dict)
    failure: str | None = None

    def median_s(self, case: Case) -> float | None:
        """Return the seconds of one call, the service's own left out; None when not measured."""
        travels_s = [_travel_s(each) for each in self.samples.get(case, [])]
        return statistics.median(travels_s) if travels_s else None


@dataclass(frozen=True)
class Row:
    """One line of the table; the fields are its columns. None stands for not measured.

    ``seconds`` is the median of one call without the service's own time, ``send_s`` and
    ``receive_s`` its two ways; ``mb_per_s`` are all bytes carried, in 1e6, over ``seconds``;
    ``times_naive`` says how many times faster than the naive client.
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
    """Return the rows by transport, direction and size; one row for a transport without any."""
    naive = next((each for each in records if each.transport == BASELINE), None)
    rows = []
    for record in records:
        cases = {*record.samples, *record.failures, *record.left_out}
        ordered = sorted(
            cases, key=lambda case: (DIRECTIONS.index(case.direction), case.payload_bytes)
        )
        rows += [_row(record, case, naive) for case in ordered]
        if record.failure is not None:
            state = "was lost" if record.samples else "does not work"
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
        remark=record.failures.get(case) or record.left_out.get(case, ""),
    )
    samples = record.samples.get(case, [])
    seconds = record.median_s(case)
    if seconds is None:
        return row
    travels_s = [_travel_s(each) for each in samples]
    carried_bytes = case.payload_bytes * (2 if case.direction == "both" else 1)
    naive_s = naive.median_s(case) if naive else None
    return Row(
        **asdict(row)
        | {
            "runs": len(samples),
            "seconds": seconds,
            "fastest_s": min(travels_s),
            "slowest_s": max(travels_s),
            "send_s": statistics.median(each.send_s for each in samples),
            "receive_s": statistics.median(each.receive_s for each in samples),
            "mb_per_s": carried_bytes / seconds / 1e6 if seconds else None,
            "times_naive": naive_s / seconds if naive_s and seconds else None,
        }
    )


def _travel_s(sample: Sample) -> float:
    return sample.send_s + sample.receive_s


def as_tsv(rows: Iterable[Row]) -> str:
    """Return the table, tab separated, below a header; empty where there is nothing."""
    header = [each.name for each in fields(Row)]
    return format_tsv([header, *(map(_tsv_text, asdict(row).values()) for row in rows)])


def _tsv_text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def size_text(payload_bytes: int) -> str:
    """Return e.g. ``64 KiB`` or ``16 MiB``."""
    mib = payload_bytes / (1 << 20)
    return f"{mib:g} MiB" if mib >= 1 else f"{payload_bytes / 1024:g} KiB"


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Print a block for each direction, transports below each other, sizes side by side.

    Below them stands, in a line each, what has no figure and why.
    """
    measured = [row for row in rows if row.direction is not None]
    for direction, title, text in (
        ("up", "MB/s to the service", _rate_text),
        ("down", "MB/s from the service", _rate_text),
        ("both", "ms a call, payload both ways", _call_text),
        ("both", "times as fast as naive, payload both ways", _gain_text),
    ):
        block = [row for row in measured if row.direction == direction]
        if not block:
            continue
        sizes = sorted({row.payload_bytes or 0 for row in block})
        table = Table(box=None, pad_edge=False)
        table.add_column("transport")
        table.add_column("round trip", justify="right")
        for size in sizes:
            table.add_column(size_text(size), justify="right", no_wrap=True)
        for transport in dict.fromkeys(row.transport for row in block):
            of_transport = {r.payload_bytes: r for r in block if r.transport == transport}
            round_trip_s = next(iter(of_transport.values())).round_trip_s
            cells = [text(of_transport[size]) if size in of_transport else "–" for size in sizes]
            table.add_row(transport, _milliseconds(round_trip_s), *cells)
        console.print(title, style="bold", highlight=False)
        console.print(table)
        console.print()
    for line in remark_lines(rows):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def remark_lines(rows: Iterable[Row]) -> list[str]:
    """Return ``transport direction sizes: remark``, rows of the same remark in one line."""
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


def _gain_text(row: Row) -> str:
    return "–" if row.times_naive is None else f"{row.times_naive:.1f}"


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{_in_ms(seconds)} ms"


def _in_ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"
