"""Play a scenario: run, strike, run again until the dataset is complete, and examine it."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from .history import MaskWatch, Remains, examine, is_run_complete
from .nemesis import Nemesis
from .scenario import Scenario
from .world import Folder, World, own_folder

RUN_TIMEOUT_S = 180
#: A run that ended is started again so often at most; a person would not do it more often.
MOST_RUNS = 6


@dataclass
class Played:
    """How a scenario went. ``statuses`` are snakemake's, -9 that of a killed one.

    ``recovery_s`` is the time from the last strike to the complete dataset.
    """

    scenario: Scenario
    remains: Remains
    statuses: list[int] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    call_count: int = 0
    total_s: float = 0.0
    recovery_s: float = 0.0

    @property
    def is_sound(self) -> bool:
        return self.remains.is_sound and not self.complaints

    def __str__(self) -> str:
        lines = [f"{self.scenario}", f"statuses {self.statuses}, {self.call_count} calls"]
        return "\n".join([*lines, *self.history, *self.complaints, str(self.remains)])


def play(scenario: Scenario, world: World, directory: Path) -> Played:
    """Play ``scenario`` in a fresh folder at ``directory``, which is gone afterwards."""
    world.renew()
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder(directory, scenario, world))
        watch = MaskWatch(folder.results / "masks")
        stack.callback(watch.close)
        nemesis = Nemesis(scenario, world, folder)
        stack.callback(world.renew)
        stack.callback(nemesis.close)
        start_s = time.monotonic()
        nemesis.start()
        played = Played(scenario, Remains((), (), (), (), ()))
        _run_until_complete(folder, nemesis, played)
        played.total_s = time.monotonic() - start_s
        nemesis.close()
        struck_s = [when_s for when_s, _ in nemesis.history]
        played.recovery_s = played.total_s - max(struck_s, default=0.0)
        played.history = [f"{when_s:6.2f} s  {what}" for when_s, what in nemesis.history]
        played.call_count = world.servers.call_count()
        _run_once_more(folder, world, played)
        watch.close()
        expected = folder.expected_labels()
        played.remains = examine(folder, watch, expected, scenario.has_bad_image)
        return played


def _run_until_complete(folder: Folder, nemesis: Nemesis, played: Played) -> None:
    has_bad_image = played.scenario.has_bad_image
    for number in range(MOST_RUNS):
        status = _run(folder, f"run-{number}", played)
        played.statuses.append(status)
        if is_run_complete(folder, has_bad_image) and status == int(has_bad_image):
            return
    played.complaints.append(f"not complete after {MOST_RUNS} runs")
    played.complaints.append(folder.said(f"run-{MOST_RUNS - 1}")[-3000:])


def _run(folder: Folder, name: str, played: Played) -> int:
    """Run snakemake to its end; what it should not have said or done is a complaint."""
    process = folder.start(name)
    try:
        status = process.wait(RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        played.complaints.append(f"{name} did not end: {folder.said(name)[-3000:]}")
        return process.returncode
    said = folder.said(name)
    if "Traceback" in said:
        played.complaints.append(f"{name} ended in a traceback: {said[-3000:]}")
    return status


def _run_once_more(folder: Folder, world: World, played: Played) -> None:
    """A run on a complete dataset asks the service for nothing and ends as the last one did."""
    calls = world.servers.call_count()
    status = _run(folder, "once-more", played)
    if status != int(played.scenario.has_bad_image):
        said = folder.said("once-more")[-3000:]
        played.complaints.append(f"the run after the last ended with {status}: {said}")
    if world.servers.call_count() != calls:
        played.complaints.append("a run on a complete dataset called the service again")
