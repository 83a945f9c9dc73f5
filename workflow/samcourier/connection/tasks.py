"""Ending background tasks."""

from __future__ import annotations
