"""Test every transport of a service in both directions with a payload larger than one chunk."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from msgspec import to_builtins

from samservice.contract.engine_description import known_engines

from ..connection.probe import Probed, probe_transport
from ..connection.throughput import Payload, Sample
from ..connection.time_limits import Policy
from ..errors import CourierError, RequestRefused, TransportFailed
from ..failure import Failure
from ..results.service_description import ServiceDescription, checked_description
from ..results.timestamps import utc_now
from ..transports.base import Endpoint, Transport
from ..transports.known_defects import Step, find_defect

SERVICE_SCHEMA = "samcourier/service/3"

#: Within one chunk of every transport (60 KiB over WebRTC).
SMALL_PAYLOAD = Payload(32 << 10, 32 << 10)
#: Far above one chunk of any transport (500 000 B), so that chunking itself is tested.
LARGE_PAYLOAD = Payload(4 << 20, 4 << 20)

#: A direct path that moves no byte for this long, while an answer is awaited, counts as failed.
SILENCE_S = 5.0

T = TypeVar("T")


class _FailedAt(Exception):
    def __init__(self, step: Step, cause: CourierError) -> None:
        super().__init__(str(cause))
        self.step: Step = step
        self.cause = cause


async def verify_service(
    endpoint: Endpoint,
    transports: Sequence[Transport],
    policy: Policy | None = None,
    measuring: asyncio.Lock | None = None,
) -> dict[str, Any]:
    """Return the verdict as plain JSON: the service's description and each transport's figures.

    A failed transport is part of the verdict, not an error. Concurrent calls of this function that
    share ``measuring`` send their payloads one after the other.
    """
    policy, measuring = policy or Policy(), measuring or asyncio.Lock()
    description: dict[str, Any] = {}
    verdicts: dict[str, Any] = {}
    try:
        for transport in transports:
            try:
                described = await _open(transport, policy)
                async with measuring:
                    verdicts[transport.name] = await _measure(transport, bool(described), policy)
                description = description or described
            except _FailedAt as failed:
                verdicts[transport.name] = _failure_verdict(transport.name, failed)
    finally:
        # Closed only at the end: WebSocket's session carries WebRTC's offer.
        for transport in transports:
            await transport.close()
    return {
        "schema": SERVICE_SCHEMA,
        "verified_at": utc_now(),
        "server_url": endpoint.server_url,
        "workspace": endpoint.workspace,
        "service_id": endpoint.service_id,
        "description": description,
        "transports": verdicts,
    }


async def _open(transport: Transport, policy: Policy) -> dict[str, Any]:
    """Open the transport; return the service's description, {} if it has no ``describe``."""
    await _step("open", transport.open(policy.open_timeout_for(transport.name)))
    try:
        return checked_description(await transport.call("describe", {}, policy.open_timeout_s))
    except CourierError as error:
        if error.name == "NoSuchMethod":
            return {}
        raise _FailedAt("small", error) from error


async def _measure(transport: Transport, has_probe: bool, policy: Policy) -> dict[str, Any]:
    if not has_probe:
        return await _measure_plain(transport, policy)
    timeout_s = policy.probe_timeout_s
    ping = await _step("small", probe_transport(transport, b"", 0, timeout_s))

    def carry(payload: bytes, reply_bytes: int) -> Awaitable[Probed]:
        return probe_transport(transport, payload, reply_bytes, timeout_s, ping.clock_offset_s)

    small_payload, payload = map(random.randbytes, (SMALL_PAYLOAD.up_bytes, LARGE_PAYLOAD.up_bytes))
    small = await _step("small", carry(small_payload, SMALL_PAYLOAD.down_bytes))
    try:
        large = await _unless_silent(transport, carry(payload, LARGE_PAYLOAD.down_bytes))
    except CourierError as error:
        raise await _find_failed_step(transport, payload, policy, error) from error
    caller = large.answer.get("caller")
    return {
        "works": True,
        "round_trip_s": ping.travel_s,
        "small": _figures(small.sample),
        "large": _figures(large.sample),
        "caller": caller if isinstance(caller, str) else None,
    }


def _figures(sample: Sample) -> dict[str, Any]:
    return {
        "bytes_up": sample.payload.up_bytes,
        "bytes_down": sample.payload.down_bytes,
        "send_s": sample.send_s,
        "receive_s": sample.receive_s,
    }


async def _measure_plain(transport: Transport, policy: Policy) -> dict[str, Any]:
    """Test sending to a service without ``probe``; any reply counts.

    The payload is not an image, so every service refuses it at once, and that answer proves the
    connection. An image would cost a minute of the model's time.
    """
    carried: dict[str, Any] = {}
    steps: tuple[tuple[str, Step, Payload], ...] = (
        ("small", "small", SMALL_PAYLOAD),
        ("large", "large_up", LARGE_PAYLOAD),
    )
    for name, step, payload in steps:
        arguments = {"image_or_embedding": bytes(payload.up_bytes)}
        try:
            await transport.call("segment_all", arguments, policy.probe_timeout_s)
        except CourierError as error:
            if error.kind in ("transport", "denied") or error.name == "NoSuchMethod":
                raise _FailedAt(step, error) from error
        carried[name] = {
            "bytes_up": payload.up_bytes,
            "bytes_down": 0,
            "send_s": None,
            "receive_s": None,
        }
    return {"works": True, "round_trip_s": None, **carried, "caller": None}


async def _find_failed_step(
    transport: Transport, payload: bytes, policy: Policy, both_ways: CourierError
) -> _FailedAt:
    """Return the step at which a transport fails that cannot carry a large payload both ways."""
    timeout_s, reply_bytes = policy.probe_timeout_s, LARGE_PAYLOAD.down_bytes
    try:
        await _unless_silent(transport, probe_transport(transport, payload, 0, timeout_s))
    except CourierError as error:
        return _FailedAt("large_up", error)
    moved = transport.progress()
    try:
        await _unless_silent(transport, probe_transport(transport, b"", reply_bytes, timeout_s))
    except CourierError as error:
        has_come = transport.progress() - moved > reply_bytes // 2
        return _FailedAt("large_answer" if has_come else "large_down", error)
    return _FailedAt("large_up", both_ways)


async def _unless_silent(transport: Transport, work: Awaitable[T]) -> T:
    """Await ``work``. Raises TransportFailed if a direct path moves no byte for SILENCE_S."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    moved, moved_at = transport.progress(), loop.time()
    try:
        while not (await asyncio.wait({task}, timeout=0.5))[0]:
            if transport.progress() != moved:
                moved, moved_at = transport.progress(), loop.time()
            if transport.name == "webrtc" and loop.time() - moved_at > SILENCE_S:
                raise TransportFailed(
                    f"{transport.name}: no answer, and no byte for {SILENCE_S:g} s"
                )
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _step(step: Step, work: Awaitable[T]) -> T:
    try:
        return await work
    except CourierError as error:
        raise _FailedAt(step, error) from error


def _failure_verdict(transport: str, failed: _FailedAt) -> dict[str, Any]:
    failure = Failure.of(failed.cause)
    defect = find_defect(failure, transport, failed.step)
    return {
        "works": False,
        "failed_at": failed.step,
        "defect": defect.name,
        "advice": defect.advice,
        "failure": to_builtins(failure),
    }


def check_engine_described(name: str, description: ServiceDescription) -> None:
    """Raise RequestRefused if a service describes another engine than ``name``.

    A service that describes no engine is accepted.
    """
    described = description.engine
    if described not in (None, name):
        raise RequestRefused(
            f"service.engine is {name!r}, but the service runs {described!r}; engines known here: "
            f"{', '.join(known_engines())}",
            name="WrongParameter",
        )


def working_transports(verdict: dict[str, Any]) -> list[str]:
    """Return the names of the transports that work, from a verdict of :func:`verify_service`."""
    return [name for name, each in verdict["transports"].items() if each["works"]]
