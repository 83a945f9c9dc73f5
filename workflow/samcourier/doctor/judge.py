"""Facts -> lines, each ok, a warning or a failure with what to do. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ..defects import CONTEXT_MISSING, CONTEXT_REQUIRED, ICE_FAILED, MESSAGE_TOO_LARGE, REPLY_LOST
from ..monitor_view import duration
from .estimate import estimate_bytes, estimate_run
from .facts import Facts, Unknown

Status = Literal["ok", "warning", "failure"]

#: A token that ends within twice the run's time, or this long, deserves a word.
SHORT_TOKEN_S = 3600.0
#: Tokens are judged by the server's clock.
CLOCK_DIFFERS_S = 60.0
#: So many times what the run is expected to write should be free.
ROOM_FACTOR = 2.0
#: What Hypha allows by default (0.21.137); a server's own settings cannot be asked for.
DEFAULT_CONNECTIONS = 200
DEFAULT_LIMITS = (
    "the server does not tell its own; Hypha's defaults are 200 connections a user, 200 messages/s"
    " over WebSocket, and 1000 requests/s over HTTP with a token, 100 without"
)

_WHAT_THE_SERVICE_DOES = {
    each.name for each in (CONTEXT_REQUIRED, CONTEXT_MISSING, MESSAGE_TOO_LARGE, REPLY_LOST)
}


@dataclass(frozen=True)
class Line:
    """One judgement: on what, how it stands, what was found, and what to do about it."""

    topic: str
    status: Status
    said: str
    advice: str = ""


def judge(facts: Facts) -> list[Line]:
    """Return a line for everything that was looked at, in the order in which to mend it."""
    judges: tuple[Callable[[Facts], Iterable[Line]], ...] = (
        _server,
        _token,
        _service,
        _transports,
        _udp,
        _ice_servers,
        _limits,
        _images,
        _disk,
        _versions,
        _model,
        _time,
    )
    return [line for each in judges for line in each(facts)]


def has_failed(lines: Iterable[Line]) -> bool:
    """Tell whether the run would fail."""
    return any(line.status == "failure" for line in lines)


def _server(facts: Facts) -> Iterator[Line]:
    server = facts.server
    if isinstance(server, Unknown):
        if server.kind == "not_asked":
            yield Line("server", "warning", server.why)
            return
        advice = "is service.server_url right, is a proxy needed (HTTPS_PROXY), is the server up?"
        if "certificate" in server.why.lower():
            advice = "name the site's certificates in network.ca_bundle"
        yield Line("server", "failure", server.why, advice)
        return
    version = "" if isinstance(facts.caller, Unknown) else facts.caller.server_version
    said = f"{server.url} answers in {server.seconds * 1000:.0f} ms"
    said += f", Hypha {version}" if version else ""
    if not server.is_hypha:
        yield Line(
            "server",
            "warning",
            f"{server.url} answers {server.answer}, not as a Hypha server does",
            "is this a proxy's page? Check service.server_url and HTTPS_PROXY",
        )
    elif server.clock_ahead_s is not None and abs(server.clock_ahead_s) > CLOCK_DIFFERS_S:
        way = "ahead of" if server.clock_ahead_s > 0 else "behind"
        differs = f"its clock is {duration(abs(server.clock_ahead_s))} {way} this machine's"
        yield Line("server", "warning", f"{said}; {differs}", "set this machine's clock")
    else:
        yield Line("server", "ok", said)


def _token(facts: Facts) -> Iterator[Line]:
    caller = facts.caller
    if isinstance(caller, Unknown):
        if caller.kind == "denied":
            yield Line("token", "failure", caller.why, "the run would stop at its first call")
        else:
            yield Line("token", "warning", f"not known: {caller.why}")
        return
    right = f", may {caller.right} there" if caller.right else ""
    who = f"{'anonymous, ' if caller.is_anonymous else ''}{caller.user}"
    who += f", a token of {caller.parent}," if caller.parent else ""
    said = f"{who} in workspace {caller.workspace}{right}"
    if caller.expires_unix_s is None:
        yield Line("token", "ok", f"{said}, without an end")
        return
    left_s = caller.expires_unix_s - facts.now_unix_s
    until = f"{datetime.fromtimestamp(caller.expires_unix_s, UTC):%Y-%m-%d %H:%M} UTC"
    said = f"{said}, until {until} ({duration(max(left_s, 0))})"
    run = estimate_run(facts)
    needed_s = 2 * run.seconds if run else SHORT_TOKEN_S
    if caller.is_anonymous or left_s > needed_s:
        yield Line("token", "ok", said)
    else:
        why = f"it ends before a run of {duration(run.seconds)} is safely over" if run else "soon"
        yield Line("token", "warning", f"{said}: {why}", "get one that lives longer")


def _service(facts: Facts) -> Iterator[Line]:
    if isinstance(facts.service, Unknown):
        is_late = facts.service.kind == "late" and facts.asked.target == "local"
        yield Line(
            "service",
            "warning" if is_late else "failure",
            facts.service.why,
            "it loads its model; ask again" if is_late else "",
        )
        return
    if facts.service == "not_yet":
        yield Line(
            "service",
            "warning",
            "not there yet: the run brings it up",
            "snakemake deploy brings it up now; then ask again, to see it proved",
        )
        return
    works = [each for each in facts.verdicts.values() if _works(each)]
    if not works:
        yield Line(
            "service",
            "failure",
            "no transport reaches it; each one's reason stands below",
            "is it running, and is service.service_id what its start said?",
        )
        return
    described = facts.description
    if not described:
        yield Line(
            "service",
            "warning",
            "there, but it does not describe itself: it is no service of samcourier",
            "runs work; no cache of masks can tell its models apart",
        )
    else:
        named = f"{described.get('engine')}, {described.get('model')}"
        version = described.get("service_version")
        replicas = 1 if isinstance(facts.replica_ids, Unknown) else len(facts.replica_ids)
        count = f", {replicas} replicas" if replicas > 1 else ""
        yield Line("service", "ok", f"there: {named}, version {version}{count}")
    for refusal in facts.refusals:
        yield Line("service", "failure", refusal)
    yield from _patched(facts)


def _patched(facts: Facts) -> Iterator[Line]:
    webrtc = facts.verdicts.get("webrtc")
    if not isinstance(webrtc, dict):
        return
    if webrtc["works"]:
        yield Line("patched", "ok", "large arrays go both ways over WebRTC with the caller known")
    elif webrtc["defect"] in _WHAT_THE_SERVICE_DOES:
        yield Line("patched", "warning", webrtc["defect"], webrtc["advice"])


def _transports(facts: Facts) -> Iterator[Line]:
    any_works = any(_works(each) for each in facts.verdicts.values())
    for name, verdict in facts.verdicts.items():
        if isinstance(verdict, Unknown):
            status: Status = "warning" if any_works or verdict.kind == "not_asked" else "failure"
            yield Line(name, status, verdict.why)
        elif verdict["works"]:
            yield _working(facts, name, verdict)
        else:
            others = "the others carry the images" if any_works else ""
            known = verdict["defect"] != "other"
            advice = verdict["advice"] if known or not any_works else others
            message = verdict["failure"]["message"].removeprefix(f"{name}: ")
            yield Line(name, "warning" if any_works else "failure", message, advice)


def _working(facts: Facts, name: str, verdict: dict[str, object]) -> Line:
    large = verdict["large"]
    assert isinstance(large, dict)
    if large["send_s"] is None:
        return Line(name, "ok", "4 MiB up; the service has no probe to measure with")
    up, down = (
        large[size] / 1e6 / max(large[seconds], 1e-6)
        for size, seconds in (("bytes_up", "send_s"), ("bytes_down", "receive_s"))
    )
    said = f"4 MiB up at {up:,.1f} MB/s, down at {down:,.1f} MB/s"
    caller, taken_for = facts.caller, verdict.get("caller")
    if isinstance(caller, Unknown) or caller.is_anonymous or taken_for in (None, caller.user):
        return Line(name, "ok", said)
    return Line(
        name,
        "warning",
        f"{said}; the service takes us for {taken_for}, the server for {caller.user}",
        "whoever restricts the service by user should look into this",
    )


def _udp(facts: Facts) -> Iterator[Line]:
    webrtc = facts.verdicts.get("webrtc")
    if not isinstance(webrtc, dict):
        return
    if webrtc["works"]:
        yield Line("udp", "ok", "open: a direct path to the service was found")
    elif webrtc["defect"] == ICE_FAILED.name:
        yield Line("udp", "warning", "no direct path to the service", ICE_FAILED.advice)


def _ice_servers(facts: Facts) -> Iterator[Line]:
    for answer in facts.ice_servers:
        if answer.failure is None:
            yield Line("ice server", "ok", f"{answer.url} answers")
        else:
            yield Line(
                "ice server",
                "warning",
                f"{answer.url}: {answer.failure}",
                "check network.ice_servers and its variables; is UDP to it open?",
            )


def _limits(facts: Facts) -> Iterator[Line]:
    limits = facts.description.get("limits") or {}
    taken = [
        f"{name} {limits[key]:,}"
        for key, name in (
            ("max_pixels", "pixels a call"),
            ("max_image_bytes", "bytes a call"),
            ("max_queue", "images waiting"),
        )
        if key in limits
    ]
    if taken:
        yield Line("limits", "ok", f"of the service: {', '.join(taken)}")
    caller = facts.caller
    if isinstance(caller, Unknown):
        return
    used = caller.workspace_clients
    in_use = "" if used is None else f"{used} clients are in the workspace; "
    wanted = facts.asked.connections + (used or 0)
    if wanted > DEFAULT_CONNECTIONS:
        yield Line(
            "limits",
            "warning",
            f"{in_use}{facts.asked.connections} connections of the run come to them, and"
            f" {DEFAULT_LIMITS}",
            f"set network.connections to {max(DEFAULT_CONNECTIONS - (used or 0) - 10, 1)} or less,"
            " unless the server takes more",
        )
    else:
        yield Line("limits", "ok", f"{in_use}{DEFAULT_LIMITS}")


def _images(facts: Facts) -> Iterator[Line]:
    ahead, asked = facts.forecast, facts.asked
    if isinstance(ahead, Unknown):
        yield Line("images", "warning", f"not looked at: {ahead.why}")
        return
    done = asked.images - asked.images_left
    said = f"{asked.images_left:,} to segment" + (f", {done:,} have a mask" if done else "")
    if not ahead.unopened:
        yield Line("images", "ok", said)
        return
    yield Line(
        "images",
        "warning",
        f"{said}; of {ahead.looked_at} looked at {len(ahead.unopened)} cannot be opened:"
        f" {ahead.unopened[0]}",
        "the run names each and goes on with the others",
    )


def _disk(facts: Facts) -> Iterator[Line]:
    disk, ahead = facts.disk, facts.forecast
    if isinstance(disk, Unknown):
        yield Line("disk", "failure", disk.why, "is the file system of the results folder there?")
        return
    if not disk.is_writable:
        yield Line("disk", "failure", f"{disk.path} cannot be written", "whose folder is it?")
        return
    if isinstance(ahead, Unknown):
        yield Line("disk", "warning", f"{_gb(disk.free_bytes)} free; what is needed is not known")
        return
    needed = estimate_bytes(facts, ahead)
    said = f"{_gb(disk.free_bytes)} free, the run writes roughly {_gb(needed)}"
    yield Line(
        "disk",
        _room(disk.free_bytes, needed),
        said,
        "" if _room(disk.free_bytes, needed) == "ok" else "make room, or name another folder",
    )
    if disk.free_files is None:
        yield Line("files", "ok", f"{ahead}; this file system does not limit their number")
        return
    status = _room(disk.free_files, ahead.files)
    yield Line(
        "files",
        status,
        f"{ahead}; {disk.free_files:,} free (a quota of yours may be less)",
        "" if status == "ok" else "set mask_container: zip",
    )


def _room(free: float, needed: float) -> Status:
    if free < needed:
        return "failure"
    return "warning" if free < ROOM_FACTOR * needed else "ok"


def _versions(facts: Facts) -> Iterator[Line]:
    versions = facts.versions
    if isinstance(versions, Unknown):
        yield Line("versions", "warning", versions.why)
        return
    broken = [each for each in versions if not each.is_met]
    untested = [
        each for each in versions if each.is_met and each.tested not in (None, each.installed)
    ]
    for each in broken:
        yield Line(
            "versions",
            "failure",
            f"{each.package} {each.installed or 'is not installed'}, expected {each.required}",
            f"pip install '{each.package}{each.required}'",
        )
    if untested:
        named = ", ".join(f"{each.package} {each.installed} ({each.tested})" for each in untested)
        yield Line(
            "versions",
            "warning",
            f"others than those tested with, which stand in brackets: {named}",
            "if something fails, install requirements.lock",
        )
    if not broken and not untested:
        named = ", ".join(f"{each.package} {each.installed}" for each in versions)
        yield Line("versions", "ok", named)


def _model(facts: Facts) -> Iterator[Line]:
    described = facts.description
    if not described:
        return
    device = described.get("device")
    if device is None:
        yield Line("model", "warning", "the service does not say what it runs on")
        return
    gpu = described.get("gpu")
    cache = described.get("model_cache")
    weights = f"; weights from {cache}" if cache else ""
    if gpu:
        memory = f", {gpu['memory_bytes'] / 1e9:.0f} GB"
        yield Line("model", "ok", f"on {gpu['name']}{memory} ({device}){weights}")
    elif str(device).startswith("cuda"):
        yield Line(
            "model",
            "warning",
            f"on {device}, of which the service does not say what it is{weights}",
            "an older service: update it",
        )
    elif described.get("engine") == "microsam":
        yield Line(
            "model",
            "warning",
            f"on {device}: an image takes up to half a minute there{weights}",
            "a GPU: service.gpu_memory_mb, or service.slurm.gres",
        )
    else:
        yield Line("model", "ok", f"on {device}, which suits {described.get('engine')}{weights}")


def _time(facts: Facts) -> Iterator[Line]:
    if not facts.asked.images_left:
        yield Line("time", "ok", "nothing to segment: every image has its mask")
        return
    run = estimate_run(facts)
    if run is None:
        yield Line(
            "time",
            "warning",
            "not known: nothing was segmented yet by which to tell",
            "segment a few (images in the config), then ask again",
        )
        return
    yield Line("time", "ok", f"about {duration(run.seconds)}: {run.because}")


def _works(verdict: dict[str, object] | Unknown) -> bool:
    return not isinstance(verdict, Unknown) and bool(verdict["works"])


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.1f} MB"
