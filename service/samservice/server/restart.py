"""Replace this process by a new one that does the same, after a stage of an image hung.

A thread cannot be ended and may hold the device's memory, so the process has to go. The new process
keeps the process id (and so its SLURM job and its supervisor) and gets a :class:`Handover` through
a pipe, which nobody else can read.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NoReturn

from ..contract.errors import SegmentationFailed
from .app import Limits
from .pipeline import Hang

#: The number of the pipe's file descriptor is in this variable.
HANDOVER_VARIABLE = "SAMSERVICE_HANDOVER_FD"

#: After so many hangs without a finished image in between, the engine itself is broken.
MAX_HANGS_IN_A_ROW = 3

_FIRST_FILE = 3
#: A pipe holds at least so many bytes without a reader.
_PIPE_BYTES = 4096


@dataclass(frozen=True)
class Ending:
    """How a service ended because of a hang.

    Attributes:
        hang: The stage that hung.
        images_finished: The images that the engine finished in this process.
        client_id: The client id of the service at its Hypha server.
    """

    hang: Hang
    images_finished: int
    client_id: str


@dataclass(frozen=True)
class Handover:
    """What a process hands on to the one that replaces it.

    Attributes:
        client_id: The client id at the Hypha server, so that clients find the same service.
        hangs_in_a_row: Hangs since the engine last finished an image.
        has_batches: False after a batch hung: one by one, the image to blame is found.
        details: Further values of the program that runs the service.
    """

    client_id: str | None = None
    hangs_in_a_row: int = 0
    has_batches: bool = True
    details: dict[str, Any] = field(default_factory=dict)

    def limits(self, limits: Limits) -> Limits:
        """Return the limits for this process."""
        return limits if self.has_batches else replace(limits, max_batch=1)

    def after(self, ending: Ending, **details: Any) -> Handover:
        """Return what the next process gets.

        Raises SegmentationFailed when the engine hangs with every image.
        """
        hangs = 1 if ending.images_finished else self.hangs_in_a_row + 1
        if hangs >= MAX_HANGS_IN_A_ROW:
            raise SegmentationFailed(
                f"the engine hung {hangs} times and finished no image in between,"
                f" last in the stage {ending.hang.stage}"
            )
        has_batches = self.has_batches and ending.hang.batch_size == 1
        return Handover(ending.client_id, hangs, has_batches, details)


def take_handover() -> Handover:
    """Return what the process before this one handed on, once; else an empty handover."""
    number = os.environ.pop(HANDOVER_VARIABLE, None)
    if number is None:
        return Handover()
    with open(int(number), "rb") as pipe:
        return Handover(**json.loads(pipe.read()))


def replace_process(handover: Handover, kept_files: Iterable[int] = ()) -> NoReturn:
    """Run this program anew in this process; its file descriptors above 2 are closed.

    ``kept_files`` are the file descriptors that stay open. Raises OSError when it is impossible.
    """
    content = json.dumps(asdict(handover)).encode()
    if len(content) > _PIPE_BYTES:
        raise ValueError(f"a handover of {len(content)} bytes, expected at most {_PIPE_BYTES}")
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    kept = {reading, *kept_files}
    for number in _open_files():
        with suppress(OSError):
            os.set_inheritable(number, number in kept)
    sys.stdout.flush()
    sys.stderr.flush()
    environment = os.environ | {HANDOVER_VARIABLE: str(reading)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606


async def end_when_frozen(limit_s: float) -> None:
    """End this process, with status 1, once its event loop has not run for ``limit_s`` seconds.

    An engine that hangs while it keeps the interpreter's lock stops everything here, also the check
    of the stages. A thread of C then writes what each thread did to standard error.
    """
    try:
        while True:
            faulthandler.dump_traceback_later(limit_s, exit=True)
            await asyncio.sleep(min(limit_s / 10, 10.0))
    finally:
        faulthandler.cancel_dump_traceback_later()


def _open_files() -> list[int]:
    """Return the open file descriptors above 2."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return [int(name) for name in os.listdir(folder) if int(name) >= _FIRST_FILE]
    return list(range(_FIRST_FILE, 1024))
