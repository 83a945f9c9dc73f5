"""The commands of the workflow as words, and how one is run in the foreground."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


def command_words(step: str, settings_file: str, *options: str) -> list[str]:
    """Return the command ``samcourier STEP`` of a run, by its settings file."""
    return ["samcourier", step, "--settings", settings_file, *options]


def run_command(words: Sequence[str]) -> bool:
    """Run a command in the foreground and tell whether it succeeded."""
    try:
        return subprocess.run(words, check=False).returncode == 0
    except KeyboardInterrupt:
        return False


def batch_in_words(batch_id: str, batch_count: int, image_count: int) -> str:
    """Return what the log of a run says of a batch that begins."""
    images = "1 image" if image_count == 1 else f"{image_count} images"
    return f"batch {batch_id} of {batch_count}: {images}"
