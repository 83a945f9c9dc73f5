"""Measure the transports against one service by payload size, one call at a time.

Within a round every transport carries the same bytes in turn, so that a disturbance of the
machine or the network meets all of them. The first round of each size is thrown away.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..connection.probe import Probed, probe_transport
from ..connection.time_limits import Policy
from ..errors import CourierError
from ..files.atomic import write_atomic
from ..files.strict_json import write_json
from ..formatting import plain
from ..results.service_description import ServiceDescription, checked_description
from ..results.timestamps import utc_now
from ..transports.base import Endpoint, Transport
from .table import BASELINE, DIRECTIONS, Case, Record, Row, as_tsv, size_text, table_rows

logger = logging.getLogger("samcourier.benchmark")

BENCH_SCHEMA = "samcourier/bench/1"

SMALLEST_BYTES = 64 << 10
SIZE_FACTOR = 4

NOTES = (
    "Every payload is random bytes, which no transport can compress.",
    "One call at a time. Figures are medians; the service's own seconds are left out."
    " MB are 1e6 bytes.",
    "naive is hypha-rpc as it comes, with deflate on the client's connection;"
    " the service's connection is the same for all.",
)


@dataclass(frozen=True)
class SpeedSettings:
    """``runs`` counted rounds a size; no call may take longer than ``call_limit_s``."""

    runs: int = 5
    max_bytes: int = 64 << 20
    call_limit_s: float = 30.0


@dataclass(frozen=True)
class Comparison:
    """What came out: the service's description, the table, and what has to be said to it."""

    description: dict[str, Any]
    rows: list[Row]
    notes: list[str]

    @property
    def any_works(self) -> bool:
        """Whether a transport was measured; the baseline alone does not count."""
        return any(row.runs and row.transport != BASELINE for row in self.rows)


def payload_sizes(max_bytes: int) -> list[int]:
    """Return 64 KiB and its multiples by powers of 4, up to ``max_bytes``."""
    sizes = [SMALLEST_BYTES]
    while sizes[-1] * SIZE_FACTOR <= max_bytes:
        sizes.append(sizes[-1] * SIZE_FACTOR)
    return sizes


def why_left_out(record: Record, case: Case, call_limit_s: float) -> str | None:
    """Return why ``case`` is not worth trying after what its smaller sizes showed, else None.

    The prediction is in proportion to the largest size measured: too long where a round trip
    has a part in it, which for calls of many seconds is nothing.
    """
    smaller = [
        each
        for each in (*record.samples, *record.failures)
        if each.direction == case.direction and each.payload_bytes < case.payload_bytes
    ]
    if not smaller:
        return None
    largest = max(smaller, key=lambda each: each.payload_bytes)
    if largest in record.failures:
        return f"left out: {size_text(largest.payload_bytes)} failed"
    measured_s = record.median_s(largest)
    if measured_s is None:
        return None
    predicted_s = measured_s * case.payload_bytes / largest.payload_bytes
    if predicted_s <= call_limit_s:
        return None
    return f"left out: a call would take {predicted_s:.3g} s, over {call_limit_s:g} s"


class _Lane:
    """One transport under measurement."""

    def __init__(self, transport: Transport, policy: Policy, call_limit_s: float) -> None:
        self.record = Record(transport.name)
        self._transport = transport
        self._policy = policy
        self._call_limit_s = call_limit_s

    async def open(self) -> dict[str, Any]:
        """Return the service's description; empty, with the reason recorded, when it fails."""
        try:
            await self._transport.open(self._policy.open_timeout_for(self.record.transport))
            described = await self._transport.call("describe", {}, self._policy.open_timeout_s)
            return checked_description(described)
        except CourierError as error:
            self.record.failure = self._reason(error)
            # WebSocket and WebRTC share a session: a broken one must not be used again.
            await self.close()
            return {}

    async def close(self) -> None:
        """Close the transport."""
        await self._transport.close()

    async def ping(self) -> Probed | None:
        """Return an empty call; None, with the reason recorded, when the transport fails."""
        if self.record.failure is not None:
            return None
        try:
            return await probe_transport(self._transport, b"", 0, self._call_limit_s)
        except CourierError as error:
            self.record.failure = self._reason(error)
            return None

    async def measure(
        self, case: Case, payload: bytes, clock_offset_s: float, *, keep: bool
    ) -> None:
        """Measure one call; a failed one ends its direction, not the transport."""
        record = self.record
        if record.failure is not None or case in record.failures:
            return
        reason = why_left_out(record, case, self._call_limit_s)
        if reason is not None:
            record.left_out[case] = reason
            return
        try:
            carried = await probe_transport(
                self._transport,
                b"" if case.direction == "down" else payload,
                0 if case.direction == "up" else case.payload_bytes,
                self._call_limit_s,
                clock_offset_s,
            )
        except CourierError as error:
            is_late = error.kind == "transport" and error.name == "TimeoutError"
            late = f"no answer within {self._call_limit_s:g} s"
            record.failures[case] = f"failed: {late if is_late else self._reason(error)}"
            # What is still on its way must not disturb the next call.
            await self.close()
            await self.open()
            return
        if keep:
            record.samples.setdefault(case, []).append(carried.sample)

    def _reason(self, error: CourierError) -> str:
        """Return the error's text without the transport's name, which stands beside it."""
        return plain(str(error)).removeprefix(f"{self.record.transport}: ")


async def compare_transports(
    transports: Sequence[Transport],
    settings: SpeedSettings,
    policy: Policy | None = None,
) -> Comparison:
    """Measure all transports and close them; log which size is being measured.

    A transport that fails is part of the table, not an error.
    """
    lanes = [_Lane(each, policy or Policy(), settings.call_limit_s) for each in transports]
    try:
        description: dict[str, Any] = {}
        for lane in lanes:
            # One after another: the naive client must not connect while others do.
            description = await lane.open() or description
        clock_offset_s = await _ping_all(lanes, settings.runs)
        sizes = payload_sizes(settings.max_bytes)
        limits = ServiceDescription.of(description).limits
        limit_bytes = limits.max_probe_bytes or settings.max_bytes
        for payload_bytes in (each for each in sizes if each <= limit_bytes):
            if all(lane.record.failure is not None for lane in lanes):
                break
            fields = {"payload_bytes": payload_bytes}
            logger.info("measuring %s", size_text(payload_bytes), extra=fields)
            payload = os.urandom(payload_bytes)
            for round_number in range(settings.runs + 1):
                for direction in DIRECTIONS:
                    for lane in lanes:
                        case = Case(direction, payload_bytes)
                        await lane.measure(case, payload, clock_offset_s, keep=round_number > 0)
    finally:
        # Not one by one: WebSocket's session is the one that carries WebRTC's offer.
        for lane in lanes:
            await lane.close()
    notes = list(NOTES)
    too_large = [size_text(each) for each in sizes if each > limit_bytes]
    if too_large:
        notes.append(
            f"The service takes at most {size_text(limit_bytes)} in a probe;"
            f" left out: {', '.join(too_large)}."
        )
    return Comparison(description, table_rows([lane.record for lane in lanes]), notes)


async def _ping_all(lanes: Sequence[_Lane], runs: int) -> float:
    """Record the round trips and return the service's clock less ours, by the fastest one.

    The offset is one of two machines, so the fastest transport tells it for all.
    """
    pings: list[Probed] = []
    for round_number in range(runs + 1):
        for lane in lanes:
            ping = await lane.ping()
            if ping is not None and round_number > 0:
                lane.record.round_trips_s.append(ping.travel_s)
                pings.append(ping)
    return min(pings, key=lambda ping: ping.travel_s).clock_offset_s if pings else 0.0


def write_comparison(
    directory: Path, comparison: Comparison, endpoint: Endpoint, settings: SpeedSettings
) -> None:
    """Write ``table.tsv`` and ``bench.json``, which holds where and how it was measured too."""
    write_atomic(directory / "table.tsv", as_tsv(comparison.rows))
    write_json(
        directory / "bench.json",
        {
            "schema": BENCH_SCHEMA,
            "measured_at": utc_now(),
            "server_url": endpoint.server_url,
            "workspace": endpoint.workspace,
            "service_id": endpoint.service_id,
            "description": comparison.description,
            "settings": asdict(settings),
            "client": {
                "system": platform.system(),
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
                "python": platform.python_version(),
            }
            | {name: version(name) for name in ("aiortc", "hypha-rpc", "websockets")},
            "notes": comparison.notes,
            "rows": [asdict(row) for row in comparison.rows],
        },
    )
