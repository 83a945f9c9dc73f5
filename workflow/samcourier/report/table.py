"""Define the columns of the report's table, which the page and the TSV file share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..evaluation.accuracy import Accuracy
from ..evaluation.outcome import Outcome
from ..formatting import format_tsv, plain
from ..results.image_log import Attempt, CallBytes, CallSeconds

#: A spreadsheet reads a cell with one of these first characters as a formula.
_FORMULA_STARTS = ("=", "+", "-", "@")

Value = str | int | float | None


@dataclass(frozen=True)
class Column:
    """A column of the table.

    ``name``, with its unit, is the header in the TSV; the page shows ``heading`` within ``group``.
    ``value`` computes the cell of an image. A column of numbers has ``decimals``, and the page
    shows its values divided by ``page_unit``.
    """

    name: str
    group: str
    heading: str
    value: Callable[[Outcome], Value]
    decimals: int | None = None
    page_unit: float = 1

    def cell_text(self, outcome: Outcome) -> str:
        """Return the cell for the TSV, empty without a value."""
        value = self.value(outcome)
        if value is None:
            return ""
        if isinstance(value, str):
            text = plain(value)
            is_formula = text.startswith(_FORMULA_STARTS) and not _is_number(text)
            return f"'{text}" if is_formula else text
        return str(round(value, 6))


def table_tsv(outcomes: Sequence[Outcome]) -> str:
    """Return the table as tab-separated text: a header and one row per image.

    The properties of the images come last, so that the other columns keep their positions.
    """
    columns = (*COLUMNS, *property_columns(outcomes))
    header = [column.name for column in columns]
    cells = ([column.cell_text(outcome) for column in columns] for outcome in outcomes)
    return format_tsv([header, *cells])


def property_columns(outcomes: Iterable[Outcome]) -> tuple[Column, ...]:
    """Return a column for each property of the images, in the order of the sheet."""
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.properties)
    return tuple(Column(name, "", name, _property(name)) for name in names)


def _property(name: str) -> Callable[[Outcome], Value]:
    return lambda outcome: outcome.properties.get(name) or None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _attempts(outcome: Outcome) -> tuple[Attempt, ...]:
    return outcome.log.attempts if outcome.log else ()


def _transports(outcome: Outcome) -> str:
    """Return the transports of the calls in their order, with the number of equal ones in a row."""
    results = (
        each.transport if each.outcome == "ok" else f"{each.transport} failed"
        for each in _attempts(outcome)
    )
    counted = ((result, len(list(repeats))) for result, repeats in groupby(results))
    return ", ".join(
        f"{result} {count} times" if count > 1 else result for result, count in counted
    )


def _reason(outcome: Outcome) -> str | None:
    """Return why the transport of the last call was chosen."""
    attempts = _attempts(outcome)
    return attempts[-1].reason if attempts else None


def _predicted_s(outcome: Outcome) -> float | None:
    """Return the predicted transfer time of the last call in seconds."""
    attempts = _attempts(outcome)
    return attempts[-1].predicted_s if attempts else None


def _stage(name: str) -> Callable[[Outcome], Value]:
    """Return a function that gives the seconds of stage ``name`` from the image log."""

    def value(outcome: Outcome) -> Value:
        seconds: float | None = getattr(outcome.log.seconds, name) if outcome.log else None
        return seconds

    return value


def _call(part: Callable[[CallSeconds], float | None]) -> Callable[[Outcome], Value]:
    """Return a function that sums a part of all calls for the image, failed ones included."""

    def value(outcome: Outcome) -> Value:
        known = [s for each in _attempts(outcome) if (s := part(each.seconds)) is not None]
        return sum(known) if known else None

    return value


def _bytes(part: Callable[[CallBytes], int]) -> Callable[[Outcome], Value]:
    """Return a function that sums bytes of all calls for the image, failed ones included."""

    def value(outcome: Outcome) -> Value:
        attempts = _attempts(outcome)
        return sum(part(each.bytes) for each in attempts) if attempts else None

    return value


def _seconds(name: str, heading: str, value: Callable[[Outcome], Value]) -> Column:
    return Column(name, "Seconds", heading, value, decimals=2)


def _accuracy(
    name: str, heading: str, part: Callable[[Accuracy], float | None], decimals: int = 0
) -> Column:
    def value(outcome: Outcome) -> Value:
        return part(outcome.accuracy) if outcome.accuracy else None

    return Column(name, "Accuracy", heading, value, decimals)


COLUMNS = (
    Column("image", "", "Image", lambda outcome: outcome.image),
    Column("batch", "", "Batch", lambda outcome: outcome.batch_id),
    Column("status", "", "Status", lambda outcome: outcome.status),
    Column("object_count", "", "Objects", lambda outcome: outcome.object_count, decimals=0),
    _accuracy("ap50", "AP50", lambda found: found.at_50.average_precision, decimals=3),
    _accuracy("ap75", "AP75", lambda found: found.at_75.average_precision, decimals=3),
    _accuracy("mean_matched_iou", "IoU", lambda found: found.mean_matched_iou, decimals=3),
    _accuracy("missed", "Missed", lambda found: found.missed),
    _accuracy("split", "Split", lambda found: found.split),
    _accuracy("merged", "Merged", lambda found: found.merged),
    Column("transport", "Transport", "Used", _transports),
    Column("why", "Transport", "Chosen because", _reason),
    Column("attempts", "Transport", "Calls", lambda outcome: len(_attempts(outcome)), decimals=0),
    Column("predicted_s", "Seconds", "Predicted", _predicted_s, decimals=2),
    _seconds("read_s", "Read", _stage("read")),
    _seconds("pack_s", "Pack", _stage("pack")),
    _seconds("send_s", "Send", _call(lambda seconds: seconds.send)),
    _seconds("queue_s", "Queue", _call(lambda seconds: seconds.queue)),
    _seconds("service_s", "Service", _call(lambda seconds: seconds.service)),
    _seconds("receive_s", "Receive", _call(lambda seconds: seconds.receive)),
    _seconds("unpack_s", "Unpack", _stage("unpack")),
    _seconds("write_s", "Write", _stage("write")),
    _seconds("total_s", "Total", _stage("total")),
    Column("up_bytes", "MB", "Up", _bytes(lambda size: size.up), decimals=2, page_unit=1e6),
    Column("down_bytes", "MB", "Down", _bytes(lambda size: size.down), decimals=2, page_unit=1e6),
    Column("remark", "", "Remark", lambda outcome: outcome.remark),
)
