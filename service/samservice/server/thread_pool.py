"""Threads that run calls, and do not keep the process from ending when a call hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class ThreadPool:
    """Runs calls in ``count`` daemon threads, first come, first served.

    The process would wait at its end for the threads of a ThreadPoolExecutor. A call must not
    raise.
    """

    def __init__(self, count: int, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._count = count
        for number in range(count):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def submit(self, call: Callable[[], None]) -> None:
        """Run ``call`` in the next free thread."""
        self._calls.put(call)

    def close(self) -> None:
        """End the threads after the calls that were submitted."""
        for _ in range(self._count):
            self._calls.put(None)

    def _run(self) -> None:
        # No name here keeps a call's images while the thread waits for the next one.
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        call = self._calls.get()
        if call is not None:
            call()
        return call is not None
