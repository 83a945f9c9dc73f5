"""Assess the connection to the service: server, token, service, transports, limits. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from ...formatting import duration
from ...transports.known_defects import (
    CONTEXT_MISSING,
    CONTEXT_REQUIRED,
    ICE_FAILED,
    MESSAGE_TOO_LARGE,
    OTHER,
    REPLY_LOST,
)
from .facts import Facts, Unknown
from .lines import Line, Status
from .run_time import estimate_run

#: A token that expires within twice the run's duration, or within this time if the duration is
#: unknown, gives a warning.
SHORT_TOKEN_S = 3600.0
#: A larger difference of the clocks gives a warning, since tokens expire by the server's clock.
CLOCK_DIFFERS_S = 60.0
#: Hypha's default limits (0.21.137); a server does not report its own settings.
DEFAULT_CONNECTIONS = 200
DEFAULT_LIMITS = (
    "the server does not report its limits; Hypha's defaults are 200 connections per user,"
    " 200 messages/s over WebSocket, and 1000 requests/s over HTTP with a token, 100 without"
)

#: Defects whose cause is the service.
_SERVICE_DEFECTS = {
    each.name for each in (CONTEXT_REQUIRED, CONTEXT_MISSING, MESSAGE_TOO_LARGE, REPLY_LOST)
}


def assess_server(facts: Facts) -> Iterator[Line]:
    server = facts.server
    if isinstance(server, Unknown):
        if server.kind == "not_checked":
            yield Line("server", "warning", server.why)
            return
        advice = "check service.server_url, whether a proxy is needed (HTTPS_PROXY), and the server"
        if "certificate" in server.why.lower():
            advice = "set network.ca_bundle to a file with your site's certificates"
        yield Line("server", "failure", server.why, advice)
        return
    version = "" if isinstance(facts.caller, Unknown) else facts.caller.server_version
    message = f"{server.url} answers in {server.seconds * 1000:.0f} ms"
    message += f", Hypha {version}" if version else ""
    if not server.is_hypha:
        yield Line(
            "server",
            "warning",
            f"{server.url} answers {server.answer}, not as a Hypha server does",
            "check service.server_url and HTTPS_PROXY: this may be a proxy's page",
        )
    elif server.clock_ahead_s is not None and abs(server.clock_ahead_s) > CLOCK_DIFFERS_S:
        direction = "ahead of" if server.clock_ahead_s > 0 else "behind"
        difference = (
            f"its clock is {duration(abs(server.clock_ahead_s))} {direction} this machine's"
        )
        yield Line("server", "warning", f"{message}; {difference}", "set this machine's clock")
    else:
        yield Line("server", "ok", message)


def assess_token(facts: Facts) -> Iterator[Line]:
    caller = facts.caller
    if isinstance(caller, Unknown):
        if caller.kind == "denied":
            yield Line("token", "failure", caller.why, "the run would stop at its first call")
        else:
            why = caller.why.removeprefix("websocket: ").strip(": ")
            why = "no answer in time" if why == "TimeoutError" else why
            yield Line("token", "warning", f"could not be checked: {why}")
        return
    right = f", with the right {caller.right} there" if caller.right else ""
    user = f"{'anonymous, ' if caller.is_anonymous else ''}{caller.user}"
    user += f", a token of {caller.parent}," if caller.parent else ""
    message = f"{user} in workspace {caller.workspace}{right}"
    if caller.expires_unix_s is None:
        yield Line("token", "ok", f"{message}, never expires")
        return
    left_s = caller.expires_unix_s - facts.now_unix_s
    until = f"{datetime.fromtimestamp(caller.expires_unix_s, UTC):%Y-%m-%d %H:%M} UTC"
    message = f"{message}, until {until} ({duration(max(left_s, 0))})"
    run = estimate_run(facts)
    needed_s = 2 * run.seconds if run else SHORT_TOKEN_S
    if caller.is_anonymous or left_s > needed_s:
        yield Line("token", "ok", message)
    else:
        why = (
            f"it may expire before a run of {duration(run.seconds)} ends"
            if run
            else "it expires soon"
        )
        yield Line("token", "warning", f"{message}: {why}", "get a token that is valid longer")


def assess_service(facts: Facts) -> Iterator[Line]:
    if isinstance(facts.service, Unknown):
        is_late = facts.service.kind == "late" and facts.request.target == "local"
        yield Line(
            "service",
            "warning" if is_late else "failure",
            facts.service.why,
            "it loads its model; run the doctor again" if is_late else "",
        )
        return
    if facts.service == "not_yet":
        yield Line(
            "service",
            "warning",
            "not started yet: the run starts it",
            "to check it before the run, start it with snakemake --cores 1 deploy, then run the"
            " doctor again",
        )
        return
    works = [each for each in facts.verdicts.values() if _works(each)]
    if not works:
        yield Line(
            "service",
            "failure",
            "no transport reaches it; the lines below give the reasons",
            "check that it runs, and that service.service_id is the id that it logged at its start",
        )
        return
    description = facts.description
    if description.is_empty:
        yield Line(
            "service",
            "warning",
            "reached, but it does not describe itself: it is not a service of samcourier",
            "runs work, but they cannot notice that its model changed",
        )
    else:
        engine = f"{description.engine}, {description.model}"
        replicas = 1 if isinstance(facts.replica_ids, Unknown) else len(facts.replica_ids)
        count = f", {replicas} replicas" if replicas > 1 else ""
        message = f"reached: {engine}, version {description.service_version}{count}"
        yield Line("service", "ok", message)
    for refusal in facts.refusals:
        yield Line("service", "failure", refusal)
    yield from _patched(facts)


def _patched(facts: Facts) -> Iterator[Line]:
    webrtc = facts.verdicts.get("webrtc")
    if not isinstance(webrtc, dict):
        return
    if webrtc["works"]:
        yield Line(
            "patched",
            "ok",
            "large arrays pass both ways over WebRTC, and the service knows the caller",
        )
    elif webrtc["defect"] in _SERVICE_DEFECTS:
        yield Line("patched", "warning", webrtc["defect"], webrtc["advice"])


def assess_transports(facts: Facts) -> Iterator[Line]:
    any_works = any(_works(each) for each in facts.verdicts.values())
    for name, verdict in facts.verdicts.items():
        if isinstance(verdict, Unknown):
            status: Status = "warning" if any_works or verdict.kind == "not_checked" else "failure"
            yield Line(name, status, verdict.why)
        elif verdict["works"]:
            yield _working(facts, name, verdict)
        else:
            yield Line(
                name,
                "warning" if any_works else "failure",
                *_why_not(name, verdict, has_handshake=_has_handshake(facts)),
            )


def _has_handshake(facts: Facts) -> bool:
    """Return whether WebRTC could be tried: the WebSocket carries its handshake."""
    websocket = facts.verdicts.get("websocket")
    return websocket is None or _works(websocket)


def _why_not(name: str, verdict: dict[str, Any], *, has_handshake: bool) -> tuple[str, str]:
    """Return why a transport does not work, and what to do."""
    if name == "webrtc" and not has_handshake:
        return "not tried: its handshake goes over the WebSocket, which does not work", ""
    message = verdict["failure"]["message"].removeprefix(f"{name}: ").strip(": ")
    advice = verdict["advice"] if verdict["defect"] != OTHER.name else ""
    if "needs service.workspace" in message:
        advice = "only over HTTP: set service.workspace"
    elif message == "TimeoutError":
        message = "no answer in time"
    return message, advice


def _working(facts: Facts, name: str, verdict: dict[str, object]) -> Line:
    large = verdict["large"]
    assert isinstance(large, dict)
    if large["send_s"] is None:
        return Line(name, "ok", "4 MiB up; the service has no probe to measure speed with")
    up, down = (
        large[size] / 1e6 / max(large[seconds], 1e-6)
        for size, seconds in (("bytes_up", "send_s"), ("bytes_down", "receive_s"))
    )
    message = f"4 MiB up at {up:,.1f} MB/s, down at {down:,.1f} MB/s"
    caller, user_at_service = facts.caller, verdict.get("caller")
    if isinstance(caller, Unknown) or caller.is_anonymous or user_at_service in (None, caller.user):
        return Line(name, "ok", message)
    return Line(
        name,
        "warning",
        f"{message}; the service identifies the caller as {user_at_service}, the server as"
        f" {caller.user}",
        "if the service is restricted to some users, its owner should check this",
    )


def assess_udp(facts: Facts) -> Iterator[Line]:
    webrtc = facts.verdicts.get("webrtc")
    if not isinstance(webrtc, dict):
        return
    if webrtc["works"]:
        yield Line("udp", "ok", "open: a direct path to the service was found")
    elif webrtc["defect"] == ICE_FAILED.name and _has_handshake(facts):
        yield Line("udp", "warning", "no direct path to the service", ICE_FAILED.advice)


def assess_ice_servers(facts: Facts) -> Iterator[Line]:
    for answer in facts.ice_servers:
        if answer.failure is None:
            yield Line("ice server", "ok", f"{answer.url} answers")
        else:
            yield Line(
                "ice server",
                "warning",
                f"{answer.url}: {answer.failure}",
                "check network.ice_servers, its environment variables, and that a firewall lets UDP"
                " to it pass",
            )


def assess_limits(facts: Facts) -> Iterator[Line]:
    limits = facts.description.limits
    known = [
        f"{name} {limit:,}"
        for limit, name in (
            (limits.max_pixels, "pixels per call"),
            (limits.max_image_bytes, "bytes per call"),
            (limits.max_queue, "images in the queue"),
        )
        if limit is not None
    ]
    if known:
        yield Line("limits", "ok", f"of the service: {', '.join(known)}")
    caller = facts.caller
    if isinstance(caller, Unknown):
        return
    used = caller.workspace_clients
    in_use = "" if used is None else f"the workspace has {used} clients; "
    total = facts.request.connections + (used or 0)
    if total > DEFAULT_CONNECTIONS:
        yield Line(
            "limits",
            "warning",
            f"{in_use}the run adds {facts.request.connections} connections, and {DEFAULT_LIMITS}",
            f"set network.connections to {max(DEFAULT_CONNECTIONS - (used or 0) - 10, 1)} or less,"
            " unless the server allows more",
        )
    else:
        yield Line("limits", "ok", f"{in_use}{DEFAULT_LIMITS}")


def _works(verdict: dict[str, object] | Unknown) -> bool:
    return not isinstance(verdict, Unknown) and bool(verdict["works"])
