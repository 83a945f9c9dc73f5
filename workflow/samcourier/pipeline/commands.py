"""Build the commands of the workflow and run one in the foreground."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


def command_words(step: str, settings_file: str, *options: str) -> list[str]:
    """Return the words of the command ``samcourier STEP --settings FILE`` with ``options``."""
    return ["samcourier", step, "--settings", settings_file, *options]


def run_command(words: Sequence[str]) -> bool:
    """Run a command in the foreground; return whether it ended with status 0."""
    try:
        return subprocess.run(words, check=False).returncode == 0
    except KeyboardInterrupt:
        return False


def batch_message(batch_id: str, batch_count: int, image_count: int) -> str:
    """Return the line of a run's log for a batch that begins."""
    images = "1 image" if image_count == 1 else f"{image_count} images"
    return f"batch {batch_id} of {batch_count}: {images}"
