"""Hooks of mkdocs: config/README.md, which Snakemake's catalogue wants there, becomes a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

CONFIG = Path(__file__).parents[1] / "config/README.md"


def on_files(files: Files, config: Any) -> Files:
    content = CONFIG.read_text().replace("](../docs/", "](")
    files.append(File.generated(config, "config.md", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace("](../config/README.md", "](config.md")
