"""Figures of a benchmark: printed as ``name: value unit``, kept as build/bench/<name>.json."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Figures:
    """The figures of one benchmark, in the order they were added.

    ``details`` is what they were made from, plain JSON values, written but not printed.
    """

    benchmark: str
    values: dict[str, dict[str, float | str]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str) -> None:
        """Add one figure."""
        self.values[name] = {"value": round(value, 4), "unit": unit}

    def publish(self) -> None:
        """Print every figure and write them all."""
        self.publish_last(len(self.values))

    def publish_last(self, count: int) -> None:
        """Print the last ``count`` figures and write all so far, for a benchmark of minutes."""
        for name, figure in list(self.values.items())[-count:]:
            print(f"{name}: {figure['value']:g} {figure['unit']}", flush=True)
        self.write()

    def write(self) -> None:
        """Write the figures so far, with the machine they were made on."""
        path = Path("build/bench") / f"{self.benchmark}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
        content: dict[str, Any] = {
            "benchmark": self.benchmark,
            "machine": machine,
            "figures": self.values,
        }
        if self.details:
            content["details"] = self.details
        path.write_text(json.dumps(content, indent=2) + "\n")
