"""Runs of one regime -> its table, its figures, its ratios."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from figures import Figures
from regimes import Regime
from runs import Outcome

FIXED = ("websocket", "webrtc", "http")

#: Heading, width and format of a client's columns, in the order of :func:`_cells`.
_COLUMNS = (
    ("total s", 7, ".2f"),
    ("first call s", 12, ".2f"),
    ("first answer s", 14, ".2f"),
    ("switches", 8, "g"),
    ("lost", 4, "g"),
    ("twice", 5, "g"),
    ("recovery s", 10, ".2f"),
    ("pause s", 7, ".2f"),
)

#: Figure and unit, in the same order.
_FIGURES = (
    ("total", "s"),
    ("first_call_starts", "s"),
    ("first_answer", "s"),
    ("switches", "switches"),
    ("images_lost", "images"),
    ("masks_written_twice", "masks"),
    ("slowest_recovery", "s"),
    ("longest_pause", "s"),
)


def _cells(outcomes: Sequence[Outcome]) -> list[float | None]:
    """Return medians of times and switches, sums of images, the worst recovery and pause."""
    runs = [outcome.measured for outcome in outcomes]
    recoveries = [seconds for outcome in outcomes for seconds in outcome.recoveries_s]
    pauses = [each.longest_pause_s for each in outcomes if each.longest_pause_s is not None]
    return [
        median_total_s(outcomes),
        _median([run.first_start_s for run in runs]),
        _median([run.first_answer_s for run in runs]),
        _median([run.switch_count for run in runs]),
        sum(run.lost_count for run in runs),
        sum(run.written_twice_count for run in runs),
        max(recoveries, default=None),
        max(pauses, default=None),
    ]


def median_total_s(outcomes: Sequence[Outcome]) -> float | None:
    """Return the median over the runs; None when there is none or one of them failed."""
    if any(outcome.measured.failure for outcome in outcomes):
        return None
    return _median([outcome.measured.total_s for outcome in outcomes])


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def table(regime: Regime, by_client: Mapping[str, Sequence[Outcome]]) -> Iterator[str]:
    """Yield the lines of a regime's table."""
    heading = "  ".join(name.rjust(width) for name, width, _ in _COLUMNS)
    yield f"{regime.name:16}  {heading}  masks by transport"
    for client, outcomes in by_client.items():
        cells = "  ".join(
            "-".rjust(width) if value is None else format(value, form).rjust(width)
            for value, (_, width, form) in zip(_cells(outcomes), _COLUMNS, strict=True)
        )
        carried: Counter[str] = Counter()
        for outcome in outcomes:
            carried.update(outcome.measured.images_by_transport)
        ways = ", ".join(f"{name} {count}" for name, count in carried.most_common())
        failures = [each.measured.failure for each in outcomes if each.measured.failure]
        failed = f"; {len(failures)} of {len(outcomes)} failed: " if failures else ""
        yield f"  {client:14}  {cells}  {ways}{failed}{''.join(failures[:1])[:160]}"


def add_figures(
    figures: Figures, regime: Regime, by_client: Mapping[str, Sequence[Outcome]]
) -> None:
    """Add what the table shows, except what no run told."""
    for client, outcomes in by_client.items():
        for value, (name, unit) in zip(_cells(outcomes), _FIGURES, strict=True):
            if value is not None:
                figures.add(f"{regime.name}.{client}.{name}", value, unit)


def comparisons(
    regime: Regime, by_client: Mapping[str, Sequence[Outcome]]
) -> Iterator[tuple[str, float, str]]:
    """Yield name, value and unit of what sets one client against another.

    The oracle of a steady regime is the best fixed transport.
    """
    totals = {client: median_total_s(outcomes) for client, outcomes in by_client.items()}
    fixed = [seconds for name in FIXED if (seconds := totals.get(name)) is not None]
    best_fixed_s = min(fixed, default=None)
    auto_s = totals.get("auto")
    for name, seconds, against_s in (
        ("auto_to_best_fixed", auto_s, best_fixed_s),
        ("auto_to_oracle", auto_s, totals.get("oracle") if regime.events else best_fixed_s),
        ("naive_to_auto", totals.get("naive"), auto_s),
    ):
        if seconds is not None and against_s is not None:
            yield f"{regime.name}.{name}", seconds / against_s, "x"
    auto_start_s, websocket_start_s = (
        _median([each.measured.first_start_s for each in by_client.get(name, ())])
        for name in ("auto", "websocket")
    )
    if auto_start_s is not None and websocket_start_s is not None:
        delay_s = auto_start_s - websocket_start_s
        yield f"{regime.name}.auto_first_call_after_websocket", delay_s, "s"
