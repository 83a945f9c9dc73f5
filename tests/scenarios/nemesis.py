"""What does the damage: strikes when enough masks exist, and puts right what it broke."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psutil
from regimes import DropLink, DropUdp, Link, ResetTcp, SetLink

from .scenario import Fault, FaultKind, Scenario
from .world import LINK, Folder, World

#: So long a token lives that shall expire during the run: longer than until the first batch calls.
SHORT_TOKEN_S = 12
RESET_S = 0.3
LOSSY = Link(LINK.rate_mbit, LINK.delay_ms, loss_share=0.05)
FAR = Link(LINK.rate_mbit, delay_ms=250)
CLOCK_JUMPS_S = (3600, -86400)
POLL_S = 0.05

Heal = Callable[[], None]


class Nemesis:
    """Plays the faults of one scenario, each in a thread of its own, until :meth:`close`."""

    def __init__(self, scenario: Scenario, world: World, folder: Folder) -> None:
        self._world = world
        self._folder = folder
        self._over = threading.Event()
        self._pending = set(scenario.faults)
        #: What was done, in words, by the second of the scenario.
        self.history: list[tuple[float, str]] = []
        self._start_s = time.monotonic()
        self._threads = [
            threading.Thread(target=self._play, args=(fault,), daemon=True)
            for fault in scenario.faults
        ]
        self._failures: list[BaseException] = []

    def start(self) -> None:
        if any(fault.kind == "expire_token" for fault in self._pending):
            self._folder.give_token(SHORT_TOKEN_S)
        for thread in self._threads:
            thread.start()

    @property
    def is_done(self) -> bool:
        """Whether every fault has struck and is over."""
        return not self._pending

    def close(self) -> None:
        """End what has not struck yet; raise what went wrong with the striking itself."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def note(self, text: str) -> None:
        self.history.append((time.monotonic() - self._start_s, text))

    def _play(self, fault: Fault) -> None:
        try:
            if not self._wait_for_masks(fault.after_masks):
                return
            self._over.wait(fault.offset_s)
            heal = self._strike_what_there_is(fault)
            if heal is not None:
                self._over.wait(fault.duration_s)
                heal()
                self.note(f"{fault.kind} is over")
        except BaseException as error:
            self._failures.append(error)
        finally:
            self._pending.discard(fault)

    def _wait_for_masks(self, count: int) -> bool:
        masks = self._folder.results / "masks"
        while not self._over.wait(POLL_S):
            if len(list(masks.glob("[!.]*.ome.zarr"))) >= count:
                return True
        return False

    def _strike_what_there_is(self, fault: Fault) -> Heal | None:
        """Strike as soon as there is something to hit; None when the run ends before."""
        strike = self._STRIKES[fault.kind]
        while not self._over.is_set():
            heal = strike(self, fault)
            if heal is not None:
                self.note(f"{fault.kind} after {fault.after_masks} masks")
                return heal
            self._over.wait(POLL_S)
        return None

    def _kill_snakemake(self, fault: Fault) -> Heal | None:
        return self._signal(self._folder.processes("bin/snakemake"), signal.SIGKILL)

    def _kill_all(self, fault: Fault) -> Heal | None:
        return self._signal(self._folder.processes(), signal.SIGKILL)

    def _kill_batch(self, fault: Fault) -> Heal | None:
        return self._signal(self._batches()[:1], signal.SIGKILL)

    def _stop_batch(self, fault: Fault) -> Heal | None:
        stopped = self._batches()[:1]
        if self._signal(stopped, signal.SIGSTOP) is None:
            return None
        return lambda: self._again(stopped)

    def _batches(self) -> list[psutil.Process]:
        """Return the jobs' own processes, not the shells that wait for them."""
        found = self._folder.processes("bin/samcourier batch ")
        return [process for process in found if "python" in Path(process.exe()).name]

    def _signal(self, processes: list[psutil.Process], number: signal.Signals) -> Heal | None:
        hit = 0
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
                hit += 1
        return _nothing if hit else None

    def _again(self, processes: list[psutil.Process]) -> None:
        self._signal(processes, signal.SIGCONT)

    def _kill_service(self, fault: Fault) -> Heal:
        self._world.servers.kill_service()
        return self._world.servers.restart_service

    def _kill_hypha(self, fault: Fault) -> Heal:
        self._world.servers.restart_hypha()
        return _nothing

    def _stop_service(self, fault: Fault) -> Heal:
        self._world.servers.signal_service(signal.SIGSTOP)
        return lambda: self._world.servers.signal_service(signal.SIGCONT)

    def _reset(self, fault: Fault) -> Heal:
        self._world.lab.apply(ResetTcp("client_relay", RESET_S))
        return self._world.lab.settle

    def _stall(self, fault: Fault) -> Heal:
        self._world.lab.apply(DropLink("client_relay"))
        return self._world.lab.restore

    def _lose(self, fault: Fault) -> Heal:
        return self._reshape(LOSSY)

    def _delay(self, fault: Fault) -> Heal:
        return self._reshape(FAR)

    def _reshape(self, link: Link) -> Heal:
        for name in ("client_relay", "direct"):
            self._world.lab.apply(SetLink(name, link))
        return self._world.lab.restore

    def _cut_udp(self, fault: Fault) -> Heal:
        self._world.lab.apply(DropUdp())
        return self._world.lab.restore

    def _fill_disk(self, fault: Fault) -> Heal:
        filler = self._folder.results.parent / "filler"
        with filler.open("wb", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(bytes(1 << 16))
        return lambda: filler.unlink()

    def _jump_clock(self, fault: Fault) -> Heal:
        self._folder.jump_clock(CLOCK_JUMPS_S[fault.after_masks % len(CLOCK_JUMPS_S)])
        return _nothing

    def _expire_token(self, fault: Fault) -> Heal:
        # It expires by itself.
        self._over.wait(SHORT_TOKEN_S)
        return lambda: self._folder.give_token(3600)

    def _misbehave(self, fault: Fault) -> Heal:
        self._world.servers.order(fault.kind.removeprefix("answer_"), fault.duration_s)
        return self._world.servers.behave

    def _second_snakemake(self, fault: Fault) -> Heal | None:
        if not self._folder.processes("bin/snakemake"):
            return None
        second = self._folder.start("second")
        status = second.wait()
        said = self._folder.said("second")
        # It may have come when the first had just ended; then it has nothing to do, or all.
        self.note(f"a second snakemake ended with status {status}")
        is_refused = "in use by process" in said
        if "Traceback" in said or (status != 0 and not is_refused and "no mask" not in said):
            raise AssertionError(f"a second snakemake said:\n{said}")
        return _nothing

    _STRIKES: ClassVar[dict[FaultKind, Callable[[Nemesis, Fault], Heal | None]]] = {
        "kill_snakemake": _kill_snakemake,
        "kill_all_of_the_run": _kill_all,
        "kill_batch": _kill_batch,
        "kill_service": _kill_service,
        "kill_hypha": _kill_hypha,
        "stop_batch": _stop_batch,
        "stop_service": _stop_service,
        "reset_connections": _reset,
        "stall_relay": _stall,
        "lose_packets": _lose,
        "delay_packets": _delay,
        "cut_udp": _cut_udp,
        "fill_disk": _fill_disk,
        "jump_clock": _jump_clock,
        "expire_token": _expire_token,
        "answer_wrong": _misbehave,
        "answer_late": _misbehave,
        "answer_twice": _misbehave,
        "answer_never": _misbehave,
        "second_snakemake": _second_snakemake,
    }


def _nothing() -> None:
    pass
