"""The transports in every network: samcourier against each fixed one, the naive client, an oracle.

Every regime of ``regimes.py`` is built of network namespaces, which needs root. In a steady
regime the oracle is the best fixed transport; in a changing one it is told which to use when.
Totals run from before connecting to the last mask written.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from figures import Figures
from naive import make_images
from namespaces import missing_for_namespaces, remove_leftovers
from regimes import REGIMES
from results import FIXED, add_figures, comparisons, table
from runs import Outcome, Plan, run_regime

CLIENTS = ("auto", *FIXED, "naive", "oracle")
REGIME_NAMES = tuple(regime.name for regime in REGIMES)


def names_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a parser of comma-separated names out of ``known``."""

    def names(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                expected = ", ".join(known)
                raise argparse.ArgumentTypeError(f"{name!r}, expected some of {expected}")
        return text.split(",")

    return names


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/networks", description=__doc__)
    add = parser.add_argument
    add("--regimes", type=names_of(REGIME_NAMES), default=REGIME_NAMES, help="all by default")
    add("--clients", type=names_of(CLIENTS), default=CLIENTS, help="all by default")
    add("--images", type=int, default=50, help="images of one run")
    add("--size", type=int, choices=(512, 768, 1024, 2048), default=1024, help="pixels a side")
    add("--runs", type=int, default=5, help="runs of every client in every regime")
    add("--limit-s", type=float, default=180.0, help="seconds that one run may take")
    return parser.parse_args()


def measure(options: argparse.Namespace, scratch: Path) -> None:
    """Run the regimes; print each as soon as it is measured, and keep what was measured so far."""
    figures = Figures("networks")
    figures.details = {"images": options.images, "size_px": options.size, "runs": {}}
    images, mask = make_images(scratch, options.size, options.images)
    plan = Plan(options.clients, images, mask, options.runs, options.limit_s)
    for regime in (each for each in REGIMES if each.name in options.regimes):
        by_client: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in run_regime(regime, plan, scratch):
            by_client[outcome.client].append(outcome)
        print("\n".join(table(regime, by_client)))
        add_figures(figures, regime, by_client)
        for name, value, unit in comparisons(regime, by_client):
            figures.add(name, value, unit)
            print(f"{name}: {value:.3g} {unit}")
        print(flush=True)
        figures.details["runs"][regime.name] = [
            asdict(outcome) for outcomes in by_client.values() for outcome in outcomes
        ]
        figures.write()


def main() -> None:
    options = parse_options()
    missing = missing_for_namespaces()
    if missing is not None:
        print(f"bench/networks skipped: {missing}")
        return
    # Ended by a signal, it must still take its namespaces down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench/networks: terminated"))
    remove_leftovers()
    with tempfile.TemporaryDirectory(prefix="samcourier-networks-") as directory:
        measure(options, Path(directory))


if __name__ == "__main__":
    main()
