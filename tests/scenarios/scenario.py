"""What a scenario is: a dataset, how it is run, and which faults strike when. Pure data.

A scenario follows from its seed alone, so that one that failed can be played again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

FaultKind = Literal[
    "kill_snakemake",
    "kill_all_of_the_run",
    "kill_batch",
    "kill_service",
    "kill_hypha",
    "stop_batch",
    "stop_service",
    "reset_connections",
    "stall_relay",
    "lose_packets",
    "delay_packets",
    "cut_udp",
    "fill_disk",
    "jump_clock",
    "expire_token",
    "answer_wrong",
    "answer_late",
    "answer_twice",
    "answer_never",
    "second_snakemake",
]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

#: Shortest and longest time until a fault is over; others are over at once. The second is what
#: `make soak` takes, so that a process may be stopped for half a minute.
DURATIONS_S: dict[FaultKind, tuple[float, float]] = {
    "kill_service": (1, 10),
    "stop_batch": (4, 30),
    "stop_service": (4, 30),
    "stall_relay": (3, 30),
    "lose_packets": (6, 60),
    "delay_packets": (6, 60),
    "cut_udp": (6, 60),
    "fill_disk": (2, 20),
    "expire_token": (2, 10),
    "answer_wrong": (1, 10),
    "answer_late": (3, 30),
    "answer_twice": (3, 30),
    "answer_never": (3, 30),
}


@dataclass(frozen=True)
class Fault:
    """One fault: strikes ``offset_s`` after that many masks exist, is over ``duration_s`` later."""

    kind: FaultKind
    after_masks: int
    offset_s: float
    duration_s: float


@dataclass(frozen=True)
class Scenario:
    """A run under faults. ``has_bad_image`` puts a file among the images that is none."""

    name: str
    seed: int
    image_count: int
    batch_size: int
    has_bad_image: bool
    parameters: dict[str, int]
    faults: tuple[Fault, ...]


def alone(kind: FaultKind, seed: int, *, long: bool = False) -> Scenario:
    """Return the scenario of one fault in the midst of a run."""
    chance = random.Random(f"{kind} {seed}")
    return _scenario(f"{kind}-{seed}", seed, chance, (kind,), long)


def mixture(seed: int, *, long: bool = False) -> Scenario:
    """Return a scenario of two to four faults of different kinds."""
    chance = random.Random(f"mixture {seed}")
    kinds = tuple(chance.sample(KINDS, chance.randint(2, 4)))
    return _scenario(f"mixture-{seed}", seed, chance, kinds, long)


def named(name: str) -> Scenario:
    """Return the scenario that `make soak` told by this name, e.g. mixture-105, to play it again.

    Raises ValueError for a name that no scenario has.
    """
    what, _, seed = name.rpartition("-")
    if what == "mixture":
        return mixture(int(seed), long=True)
    if what not in KINDS:
        raise ValueError(f"{name!r}, expected mixture-SEED, or a fault of {', '.join(KINDS)}-SEED")
    return alone(what, int(seed), long=True)


def faultless(seed: int) -> Scenario:
    """Return a scenario in which nothing happens: what the others are compared with."""
    return _scenario(f"faultless-{seed}", seed, random.Random(f"faultless {seed}"), (), False)


def _scenario(
    name: str, seed: int, chance: random.Random, kinds: tuple[FaultKind, ...], long: bool
) -> Scenario:
    image_count = chance.randint(8, 12)
    faults = tuple(_fault(kind, image_count, chance, long) for kind in kinds)
    return Scenario(
        name=name,
        seed=seed,
        image_count=image_count,
        batch_size=chance.randint(2, 4),
        has_bad_image=chance.random() < 0.5,
        parameters=chance.choice([{}, {"min_area_px": 200}]),
        faults=faults,
    )


def _fault(kind: FaultKind, image_count: int, chance: random.Random, long: bool) -> Fault:
    shortest_s, longest_s = DURATIONS_S.get(kind, (0, 0))
    duration_s = chance.uniform(shortest_s, longest_s) if long else float(shortest_s)
    after_masks, offset_s = chance.randint(0, image_count - 4), chance.uniform(0, 0.6)
    # A token expires when it does: on a slow machine before there is a mask.
    return Fault(kind, 0 if kind == "expire_token" else after_masks, offset_s, duration_s)
