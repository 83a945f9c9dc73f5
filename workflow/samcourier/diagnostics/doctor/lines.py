"""What a judgement is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Line:
    """One judgement: on what, how it stands, what was found, and what to do about it."""

    topic: str
    status: Status
    said: str
    advice: str = ""
