"""A process that replaces itself, and what it hands on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from samservice.contract.errors import SegmentationFailed
from samservice.server.app import Limits
from samservice.server.pipeline import Hang
from samservice.server.restart import (
    HANDOVER_VARIABLE,
    Ending,
    Handover,
    replace_process,
    take_handover,
)

PROGRAM = textwrap.dedent("""
    import os, sys, threading, time
    from samservice.server.restart import Handover, replace_process, take_handover

    handover = take_handover()
    if handover.client_id is None:
        # A thread that no one can end, as in a stage that hangs.
        threading.Thread(target=lambda: [time.sleep(1) for _ in range(1000)]).start()
        lost, kept = (os.open(os.devnull, os.O_RDONLY) for _ in range(2))
        os.set_inheritable(lost, True)
        print(os.getpid(), lost, kept, flush=True)
        details = {"token": "sec" + "ret", "files": [lost, kept]}
        replace_process(Handover("c-1", 2, False, details), kept_files=[kept])
    opened = []
    for number in handover.details["files"]:
        try:
            os.fstat(number)
            opened.append(number)
        except OSError:
            pass
    print(os.getpid(), *opened, handover.hangs_in_a_row, handover.has_batches, *sys.argv[1:])
    print(take_handover() == Handover(), threading.active_count())
    with open("/proc/self/environ") as environ, open("/proc/self/cmdline") as cmdline:
        print("sec" + "ret" in environ.read() + cmdline.read())
""")


def test_a_process_with_a_thread_that_hangs_is_replaced_by_one_of_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--token-file", "a b"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, second, third, is_secret_shown = (line.split() for line in done.stdout.splitlines())
    pid, _, kept = first
    assert second == [pid, kept, "2", "False", "--token-file", "a", "b"]
    assert third == ["True", "1"]
    assert is_secret_shown == ["False"]


def test_without_a_handover_there_is_nothing_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HANDOVER_VARIABLE, raising=False)
    assert take_handover() == Handover()
    assert Handover().limits(Limits(max_batch=4)) == Limits(max_batch=4)


def test_a_handover_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, json.dumps({"client_id": "c", "has_batches": False}).encode())
    os.close(writing)
    monkeypatch.setenv(HANDOVER_VARIABLE, str(reading))
    taken = take_handover()
    assert taken == Handover("c", has_batches=False)
    assert taken.limits(Limits(max_batch=4)).max_batch == 1
    assert HANDOVER_VARIABLE not in os.environ


@pytest.mark.parametrize(
    ("hangs", "images_finished", "expected"),
    [(0, 0, 1), (1, 0, 2), (0, 5, 1), (2, 1, 1), (2, 0, None)],
)
def test_an_engine_that_hangs_with_every_image_is_given_up(
    hangs: int, images_finished: int, expected: int | None
) -> None:
    before, ending = Handover("c", hangs), Ending(Hang("infer", 1), images_finished, "c")
    if expected is None:
        with pytest.raises(SegmentationFailed, match=r"hung 3 times .* last in the stage infer"):
            before.after(ending)
    else:
        assert before.after(ending, pid=7) == Handover("c", expected, True, {"pid": 7})


@pytest.mark.parametrize(
    ("has_batches", "batch_size", "expected"),
    [(True, 1, True), (True, 4, False), (False, 1, False)],
)
def test_after_a_hang_of_a_batch_there_are_none(
    has_batches: bool, batch_size: int, expected: bool
) -> None:
    ending = Ending(Hang("infer", batch_size), 3, "c")
    assert Handover("c", 0, has_batches).after(ending).has_batches is expected


def test_a_handover_that_a_pipe_may_not_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most 4096"):
        replace_process(Handover("c", details={"text": "x" * 5000}))


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_process_that_the_engine_stops_altogether_ends(is_frozen: bool) -> None:
    program = textwrap.dedent(f"""
        import asyncio, re, threading
        from samservice.server.restart import end_when_frozen

        def hang():
            # A regular expression keeps the interpreter's lock.
            if {is_frozen}:
                re.match("(a+)+$", 64 * "a" + "b")

        async def main():
            watching = asyncio.ensure_future(end_when_frozen(1.0))
            await asyncio.sleep(0)
            threading.Thread(target=hang, daemon=True).start()
            await asyncio.sleep(1.5)
            watching.cancel()

        asyncio.run(main())
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == (1 if is_frozen else 0), done.stderr
    assert ("in hang" in done.stderr) == is_frozen
