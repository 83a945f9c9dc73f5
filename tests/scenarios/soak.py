"""Scenarios for as long as told: `make soak SECONDS=3600 SEED=1`, or `make soak ONLY=mixture-105`.

Plays each fault alone and mixtures by turns, prints a table of faults, and writes it with every
scenario to ``build/soak.json``. Ends with status 1 after the first scenario that is not sound; its
folder is gone then, its name plays it again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from namespaces import missing_for_namespaces

from .play import Played, play
from .scenario import KINDS, Scenario, alone, mixture, named
from .world import built_world

REPO = Path(__file__).parents[2]
COLUMNS = ("fault", "seeds", "images", "lost", "doubled", "wrong", "runs", "recovery_s")


def scenarios(seed: int) -> Iterator[Scenario]:
    """Yield scenarios without end, from ``seed`` on: every fault alone, then mixtures."""
    for number in itertools.count(seed):
        yield from (alone(kind, number, long=True) for kind in KINDS)
        yield from (mixture(number * 100 + each, long=True) for each in range(len(KINDS)))


def table(played: Sequence[Played]) -> list[dict[str, Any]]:
    """Return one row a fault: what was lost, and how long until a dataset was complete again."""
    rows = []
    for fault in sorted({_fault(each) for each in played}):
        of_fault = [each for each in played if _fault(each) == fault]
        remains = [each.remains for each in of_fault]
        rows.append(
            {
                "fault": fault,
                "seeds": len(of_fault),
                "images": sum(each.scenario.image_count for each in of_fault),
                "lost": sum(len(each.lost) for each in remains),
                "doubled": sum(len(each.doubled) for each in remains),
                "wrong": sum(len(each.wrong) for each in remains),
                "runs": max(len(each.statuses) for each in of_fault),
                "recovery_s": round(statistics.median(each.recovery_s for each in of_fault), 1),
            }
        )
    return rows


def _fault(played: Played) -> str:
    faults = played.scenario.faults
    return faults[0].kind if len(faults) == 1 else "mixture"


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(str(row[name]) for name in COLUMNS)} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="make soak")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--only", metavar="NAME", help="Play this scenario alone.")
    options = parser.parse_args()
    if missing := missing_for_namespaces():
        sys.exit(f"no faults are played: {missing}")
    played: list[Played] = []
    deadline_s = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory(prefix="samcourier-soak-") as directory:
        servers = Path(directory, "servers")
        servers.mkdir()
        with built_world(servers, lambda _: None) as world:
            for scenario in [named(options.only)] if options.only else scenarios(options.seed):
                if time.monotonic() > deadline_s:
                    break
                played.append(play(scenario, world, Path(directory, "run")))
                last = played[-1]
                word = "sound" if last.is_sound else "NOT SOUND"
                print(f"{scenario.name}: {word}, {last.total_s:.1f} s", flush=True)
                if not last.is_sound:
                    print(last)
                    break
    rows = table(played)
    print(_markdown(rows))
    out = REPO / "build" / "soak.json"
    out.parent.mkdir(exist_ok=True)
    each = [{"name": p.scenario.name, "sound": p.is_sound, "statuses": p.statuses} for p in played]
    out.write_text(json.dumps({"faults": rows, "scenarios": each}, indent=1) + "\n")
    sys.exit(0 if all(each.is_sound for each in played) else 1)


if __name__ == "__main__":
    main()
