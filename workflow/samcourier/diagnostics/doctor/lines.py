"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Line:
    """The result of one check: its topic, status, message, and advice on what to do."""

    topic: str
    status: Status
    message: str
    advice: str = ""
