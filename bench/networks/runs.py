"""One regime: its clients beside each other, each run disturbed in the same way."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from client import Job, Measured, SeenAttempt
from lab import GATE_PORT, RELAY_ADDRESS, Lab, built_lab
from namespaces import end
from regimes import Event, Regime, RestartRelay
from servers import Servers, running_servers, spawn, tell

#: A client that was told to stop has so long to close its connections.
CLOSE_PATIENCE_S = 30.0

WARM_UP_IMAGES = 3


@dataclass(frozen=True)
class Outcome:
    """One run of one client. ``changed_unix_s`` are the moments of the regime's events.

    ``longest_pause_s`` is the longest time after the first of them in which no image was done;
    None without events, or when no image was done any more.
    """

    client: str
    measured: Measured
    changed_unix_s: list[float]
    recoveries_s: list[float]
    longest_pause_s: float | None


@dataclass(frozen=True)
class Plan:
    """What to run in every regime."""

    clients: Sequence[str]
    images: Sequence[Path]
    mask: Path
    run_count: int
    limit_s: float


def run_regime(regime: Regime, plan: Plan, scratch: Path) -> Iterator[Outcome]:
    """Yield every run of a regime, the clients taking turns.

    A client that fails in its first run has shown what it does there and is left out after it,
    unless it is the one that must not fail.
    """
    clients = [name for name in plan.clients if name != "oracle" or regime.oracle]
    with built_lab(regime) as lab, running_servers(lab, plan.mask) as servers:
        _run_client(regime, (), lab, servers, "auto", plan, WARM_UP_IMAGES, scratch)
        for run in range(plan.run_count):
            for client in list(clients):
                lab.restore()
                if servers.relay_restarted:
                    servers.renew()
                outcome = _run_client(
                    regime, regime.events, lab, servers, client, plan, len(plan.images), scratch
                )
                if run == 0 and outcome.measured.failure is not None and client != "auto":
                    clients.remove(client)
                yield outcome


def _run_client(
    regime: Regime,
    events: Sequence[Event],
    lab: Lab,
    servers: Servers,
    client: str,
    plan: Plan,
    image_count: int,
    scratch: Path,
) -> Outcome:
    out = scratch / "out"
    out.mkdir()
    endpoint = dict(servers.endpoint)
    if regime.http_only:
        endpoint["server_url"] = f"http://{RELAY_ADDRESS}:{GATE_PORT}"
    job = Job(
        client=client,
        endpoint=endpoint,
        images=[str(path) for path in plan.images[:image_count]],
        out=str(out),
        limit_s=plan.limit_s,
        phases=[
            (_after(phase.until_share, image_count), phase.transport) for phase in regime.oracle
        ],
    )
    waiting = [(_after(event.after_share, image_count), event.change) for event in events]
    changed_unix_s: list[float] = []
    measured = Measured(failure="did not end", lost_count=image_count)
    for message in _conversation(lab, job, scratch / f"{client}.log"):
        if "measured" in message:
            measured = Measured(**message["measured"])
            measured.attempts = [SeenAttempt(**each) for each in message["measured"]["attempts"]]
        while waiting and message.get("answered", 0) >= waiting[0][0]:
            changed_unix_s.append(time.time())
            _, change = waiting.pop(0)
            if isinstance(change, RestartRelay):
                servers.restart_relay()
            else:
                lab.apply(change)
    shutil.rmtree(out)
    recoveries: list[float] = []
    pause_s = None
    if changed_unix_s:
        pause_s = longest_pause_s(measured.done_unix_s, changed_unix_s[0])
        if regime.lost is not None:
            recoveries = list(recoveries_s(measured.attempts, regime.lost, changed_unix_s[0]))
    return Outcome(client, measured, changed_unix_s, recoveries, pause_s)


def _conversation(lab: Lab, job: Job, log_path: Path) -> Iterator[dict[str, Any]]:
    """Start the client with its job and yield what it says until it ends."""
    script = Path(__file__).with_name("client.py")
    process = spawn(lab, "client", script, log=log_path, environment=dict(os.environ))
    assert process.stdout is not None
    killing = threading.Timer(job.limit_s + CLOSE_PATIENCE_S, process.kill)
    killing.start()
    try:
        tell(process, json.dumps(asdict(job)))
        for line in process.stdout:
            # A library may print as well.
            if line.startswith("{"):
                yield json.loads(line)
    finally:
        killing.cancel()
        end(process)


def _after(share: float, image_count: int) -> int:
    return round(share * image_count)


def longest_pause_s(done_unix_s: Sequence[float], since_unix_s: float) -> float | None:
    """Return the longest wait for the next image, from this moment on."""
    later = [moment for moment in done_unix_s if moment > since_unix_s]
    waits = [end - begin for begin, end in pairwise([since_unix_s, *later])]
    return max(waits, default=None)


def recoveries_s(attempts: Sequence[SeenAttempt], lost: str, lost_unix_s: float) -> Iterator[float]:
    """Yield, for every call that failed by the loss, the seconds until its image went on.

    They count from the loss, or from the start of a call begun after it, to the start of the
    same image's next call over another transport.
    """
    attempts = sorted(attempts, key=lambda attempt: attempt.started_unix_s)
    for index, failed in enumerate(attempts):
        if failed.transport != lost or failed.error is None or failed.ended_unix_s < lost_unix_s:
            continue
        for later in attempts[index + 1 :]:
            if later.image == failed.image and later.transport != lost:
                yield later.started_unix_s - max(lost_unix_s, failed.started_unix_s)
                break
