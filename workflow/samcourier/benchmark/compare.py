"""Measure the transports with one service by payload size, one call at a time.

In each round, every transport in turn sends the same bytes, so that a disturbance of the machine or
the network affects all of them. The first round of each size is a warm-up and is not counted.
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
from .table import BASELINE, DIRECTIONS, Case, Record, Row, size_text, table_rows, table_tsv

logger = logging.getLogger("samcourier.benchmark")

BENCH_SCHEMA = "samcourier/bench/1"

SMALLEST_BYTES = 64 << 10
SIZE_FACTOR = 4

NOTES = (
    "All payloads are random bytes, which no transport can compress.",
    "One call runs at a time. The values are medians without the service's own time."
    " 1 MB is 1e6 bytes.",
    "naive is hypha-rpc with its default settings, with deflate on the client's connection;"
    " the service's connection is the same for all transports.",
)


@dataclass(frozen=True)
class SpeedSettings:
    """The settings of a comparison.

    ``runs`` is the number of counted rounds per payload size, ``max_bytes`` the largest payload,
    ``call_limit_s`` the time limit of a call in seconds.
    """

    runs: int = 5
    max_bytes: int = 64 << 20
    call_limit_s: float = 30.0


@dataclass(frozen=True)
class Comparison:
    """The result: the service's description, the rows of the table, and notes on them."""

    description: dict[str, Any]
    rows: list[Row]
    notes: list[str]

    @property
    def has_measurements(self) -> bool:
        """Whether a transport other than the baseline was measured."""
        return any(row.runs and row.transport != BASELINE for row in self.rows)


def payload_sizes(max_bytes: int) -> list[int]:
    """Return payload sizes in bytes: 64 KiB, then each 4 times the one before, to ``max_bytes``."""
    sizes = [SMALLEST_BYTES]
    while sizes[-1] * SIZE_FACTOR <= max_bytes:
        sizes.append(sizes[-1] * SIZE_FACTOR)
    return sizes


def reason_to_skip(record: Record, case: Case, call_limit_s: float) -> str | None:
    """Return the reason to skip ``case`` after the results of its smaller sizes, else None.

    The predicted time is proportional to the largest measured size. It is too long by a part of the
    round trip, which is negligible for calls of many seconds.
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
        return f"skipped: {size_text(largest.payload_bytes)} failed"
    measured_s = record.median_s(largest)
    if measured_s is None:
        return None
    predicted_s = measured_s * case.payload_bytes / largest.payload_bytes
    if predicted_s <= call_limit_s:
        return None
    return f"skipped: a call would take {predicted_s:.3g} s, over {call_limit_s:g} s"


class _MeasuredTransport:
    """A transport and the record of its measurements."""

    def __init__(self, transport: Transport, policy: Policy, call_limit_s: float) -> None:
        self.record = Record(transport.name)
        self._transport = transport
        self._policy = policy
        self._call_limit_s = call_limit_s

    async def open(self) -> dict[str, Any]:
        """Open the transport and return the service's description.

        If this fails, record the reason and return an empty description.
        """
        try:
            await self._transport.open(self._policy.open_timeout_for(self.record.transport))
            described = await self._transport.call("describe", {}, self._policy.open_timeout_s)
            return checked_description(described)
        except CourierError as error:
            self.record.failure = self._reason(error)
            # WebSocket and WebRTC share a session, and a broken session must not be used again.
            await self.close()
            return {}

    async def close(self) -> None:
        """Close the transport."""
        await self._transport.close()

    async def ping(self) -> Probed | None:
        """Send an empty probe; if it fails, record the reason and return None."""
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
        """Measure one call and store it if ``keep``.

        After a failed call, the transport is measured only in the other directions.
        """
        record = self.record
        if record.failure is not None or case in record.failures:
            return
        reason = reason_to_skip(record, case, self._call_limit_s)
        if reason is not None:
            record.skipped[case] = reason
            return
        try:
            probed = await probe_transport(
                self._transport,
                b"" if case.direction == "down" else payload,
                0 if case.direction == "up" else case.payload_bytes,
                self._call_limit_s,
                clock_offset_s,
            )
        except CourierError as error:
            is_timeout = error.kind == "transport" and error.name == "TimeoutError"
            timeout_text = f"no answer within {self._call_limit_s:g} s"
            record.failures[case] = f"failed: {timeout_text if is_timeout else self._reason(error)}"
            # Bytes of the failed call that still arrive must not disturb the next call.
            await self.close()
            await self.open()
            return
        if keep:
            record.samples.setdefault(case, []).append(probed.sample)

    def _reason(self, error: CourierError) -> str:
        """Return the error's text without the transport's name, which the table has already."""
        return plain(str(error)).removeprefix(f"{self.record.transport}: ")


async def compare_transports(
    transports: Sequence[Transport],
    settings: SpeedSettings,
    policy: Policy | None = None,
) -> Comparison:
    """Measure all transports, log each payload size, and close the transports.

    A transport that fails is a row of the table with the reason, not an error.
    """
    measured = [
        _MeasuredTransport(each, policy or Policy(), settings.call_limit_s) for each in transports
    ]
    try:
        description: dict[str, Any] = {}
        for transport in measured:
            # They open one after another, since the naive client must not connect beside others.
            description = await transport.open() or description
        clock_offset_s = await _ping_all(measured, settings.runs)
        sizes = payload_sizes(settings.max_bytes)
        limits = ServiceDescription.of(description).limits
        limit_bytes = limits.max_probe_bytes or settings.max_bytes
        for payload_bytes in (each for each in sizes if each <= limit_bytes):
            if all(transport.record.failure is not None for transport in measured):
                break
            fields = {"payload_bytes": payload_bytes}
            logger.info("measuring %s", size_text(payload_bytes), extra=fields)
            payload = os.urandom(payload_bytes)
            for round_number in range(settings.runs + 1):
                for direction in DIRECTIONS:
                    for transport in measured:
                        case = Case(direction, payload_bytes)
                        await transport.measure(
                            case, payload, clock_offset_s, keep=round_number > 0
                        )
    finally:
        # They close only now, since WebRTC sends its offer over the session of WebSocket.
        for transport in measured:
            await transport.close()
    notes = list(NOTES)
    too_large = [size_text(each) for each in sizes if each > limit_bytes]
    if too_large:
        notes.append(
            f"The service accepts at most {size_text(limit_bytes)} in a probe;"
            f" skipped: {', '.join(too_large)}."
        )
    return Comparison(description, table_rows([transport.record for transport in measured]), notes)


async def _ping_all(measured: Sequence[_MeasuredTransport], runs: int) -> float:
    """Record the round trips and return the service's clock minus ours, in seconds.

    The offset is measured by the fastest round trip; it is the same for all transports, since it
    depends only on the two machines.
    """
    pings: list[Probed] = []
    for round_number in range(runs + 1):
        for transport in measured:
            ping = await transport.ping()
            if ping is not None and round_number > 0:
                transport.record.round_trips_s.append(ping.travel_s)
                pings.append(ping)
    return min(pings, key=lambda ping: ping.travel_s).clock_offset_s if pings else 0.0


def write_comparison(
    directory: Path, comparison: Comparison, endpoint: Endpoint, settings: SpeedSettings
) -> None:
    """Write ``table.tsv`` and ``bench.json``; the latter also has the endpoint and the settings.

    No file has the token of ``endpoint``.
    """
    write_atomic(directory / "table.tsv", table_tsv(comparison.rows))
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
