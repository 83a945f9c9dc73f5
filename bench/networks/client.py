"""One run of one client, in the client's namespace.

Takes a :class:`Job` as one JSON line on standard input, says ``{"answered": N}`` after every
image, and ends with ``{"measured": {...}}``, a :class:`Measured`. Times are Unix seconds or
seconds since the run began, which is before anything is connected.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from naive import naive_service

from samcourier.connection import connected
from samcourier.masks.integrity import MASK_SUFFIX, is_whole
from samcourier.results.connection_log import ConnectionJournal, connection_events
from samcourier.results.image_log import ImageLog, read_image_log
from samcourier.results.layout import log_path, mask_path
from samcourier.results.timestamps import parse_time
from samcourier.samples.sheet import Batch, ImageRow
from samcourier.segmentation.batch import BatchRun
from samcourier.segmentation.settings import BatchSettings
from samcourier.settings.run_settings import RunSettings
from samcourier.transports import Endpoint, build_transports
from samcourier.transports.description import AUTO, TRANSPORTS


@dataclass(frozen=True)
class Job:
    """What to do. ``phases`` are the oracle's: how many images until its end, and over what."""

    client: str
    endpoint: dict[str, Any]
    images: list[str]
    out: str
    limit_s: float
    phases: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class SeenAttempt:
    """One call for one image, as its log tells."""

    image: str
    transport: str
    started_unix_s: float
    ended_unix_s: float
    error: str | None


@dataclass
class Measured:
    """One run. ``failure`` says why not every image has a mask; None when each has.

    ``done_unix_s`` are the moments at which images were done, their masks written.
    """

    failure: str | None = None
    total_s: float = 0.0
    close_s: float = 0.0
    first_start_s: float | None = None
    first_answer_s: float | None = None
    images_by_transport: dict[str, int] = field(default_factory=dict)
    switch_count: int = 0
    lost_count: int = 0
    written_twice_count: int = 0
    done_unix_s: list[float] = field(default_factory=list)
    attempts: list[SeenAttempt] = field(default_factory=list)


class Progress:
    """Tells the benchmark of every image, and when the last one was done."""

    def __init__(self) -> None:
        self.started_unix_s = time.time()
        self._start_s = time.perf_counter()
        self.done_unix_s: list[float] = []

    def elapsed_s(self) -> float:
        return time.perf_counter() - self._start_s

    def answered(self, _log: ImageLog | None = None) -> None:
        self.done_unix_s.append(time.time())
        print(json.dumps({"answered": len(self.done_unix_s)}), flush=True)


def count_masks_written() -> Counter[str]:
    """Return a counter of the masks that appear under their names from now on.

    A mask appears only by a rename, and Python reports each to its audit hooks.
    """
    written: Counter[str] = Counter()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename":
            target = Path(str(arguments[1])).name
            if target.endswith(MASK_SUFFIX) and not target.startswith("."):
                written[target] += 1

    sys.addaudithook(hook)
    return written


async def run_courier(
    endpoint: Endpoint, phases: list[tuple[int, str]], job: Job, progress: Progress
) -> float:
    """Send the images over the transports of the phases; return the seconds until all are done.

    Every connection opens at once, so that none waits for its phase.
    """
    rows = [ImageRow(Path(path).stem, Path(path)) for path in job.images]
    out = Path(job.out)
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(ConnectionJournal(out / "connection" / "0001.jsonl"))
        opening = {
            name: asyncio.ensure_future(
                stack.enter_async_context(
                    connected(build_transports(endpoint, name), journal, len(rows))
                )
            )
            for name in dict.fromkeys(name for _, name in phases)
        }
        begin = 0
        for until, name in phases:
            manager, description = await opening[name]
            run = BatchRun(
                BatchSettings(out, RunSettings(dataset="bench")),
                manager,
                description,
                progress.answered,
            )
            await run.run(Batch("0001", tuple(rows[begin:until])))
            begin = until
        return progress.elapsed_s()


async def run_naive(
    endpoint: Endpoint, job: Job, progress: Progress, attempts: list[SeenAttempt]
) -> float:
    """Send one image after another as hypha-rpc's defaults do; return the seconds for all."""
    masks = Path(job.out) / "masks"
    masks.mkdir(parents=True)
    async with naive_service(endpoint, "stock") as service:
        for path in map(Path, job.images):
            image = tifffile.imread(path)
            started_unix_s = time.time()
            mask = await service.segment_all(image)
            attempts.append(SeenAttempt(path.stem, "websocket", started_unix_s, time.time(), None))
            np.save(masks / f"{path.stem}.npy", mask)
            progress.answered()
        return progress.elapsed_s()


async def measure(job: Job) -> Measured:
    """Do the job, within its limit."""
    endpoint = Endpoint(**job.endpoint)
    written = count_masks_written()
    measured = Measured()
    progress = Progress()
    done_s: float | None = None
    try:
        async with asyncio.timeout(job.limit_s) as limit:
            if job.client == "naive":
                done_s = await run_naive(endpoint, job, progress, measured.attempts)
            elif job.client in (AUTO, *TRANSPORTS.built_in):
                phases = [(len(job.images), job.client)]
                done_s = await run_courier(endpoint, phases, job, progress)
            else:
                done_s = await run_courier(endpoint, job.phases, job, progress)
    except Exception as error:
        measured.failure = f"{type(error).__name__}: {error}"
        if limit.expired():
            measured.failure = f"not done after {job.limit_s:g} s"
    ended_s = progress.elapsed_s()
    measured.total_s = ended_s if done_s is None else done_s
    measured.close_s = ended_s - measured.total_s
    measured.done_unix_s = progress.done_unix_s
    measured.written_twice_count = sum(count - 1 for count in written.values())
    if job.client == "naive":
        carried = Counter(attempt.transport for attempt in measured.attempts)
    else:
        carried = read_traces(job, measured)
    measured.images_by_transport = dict(carried)
    measured.lost_count = len(job.images) - carried.total()
    if measured.lost_count and measured.failure is None:
        measured.failure = f"{measured.lost_count} images have no mask"
    if measured.attempts:
        first = min(measured.attempts, key=lambda attempt: attempt.started_unix_s)
        measured.first_start_s = first.started_unix_s - progress.started_unix_s
        answers = [each.ended_unix_s for each in measured.attempts if each.error is None]
        if answers:
            measured.first_answer_s = min(answers) - progress.started_unix_s
    return measured


def read_traces(job: Job, measured: Measured) -> Counter[str]:
    """Take attempts and switches from what the run left; return the whole masks by transport."""
    carried: Counter[str] = Counter()
    for image in (Path(path).stem for path in job.images):
        log = read_image_log(log_path(Path(job.out), image))
        if log is None:
            continue
        for attempt in log.attempts:
            started_unix_s = parse_time(attempt.started_at).timestamp()
            error = None if attempt.error is None else attempt.error.message
            ended_unix_s = started_unix_s + attempt.seconds.total
            measured.attempts.append(
                SeenAttempt(image, attempt.transport, started_unix_s, ended_unix_s, error)
            )
        if log.status == "done" and is_whole(mask_path(Path(job.out), image)):
            carried[log.attempts[-1].transport] += 1
    events = connection_events(Path(job.out) / "connection", "switch")
    measured.switch_count = sum(
        event["event"] == "switch" and event.get("from_transport") is not None for event in events
    )
    return carried


def main() -> None:
    # What hypha-rpc's naive client and cut connections leave behind is no result.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    job = Job(**json.loads(sys.stdin.readline()))
    measured = uvloop.run(measure(job))
    print(json.dumps({"measured": asdict(measured)}), flush=True)


if __name__ == "__main__":
    main()
