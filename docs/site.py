"""Hooks of mkdocs.

The Snakemake workflow catalogue requires ``config/README.md`` at its place; the hooks add it to the
site as a page. They remove Sphinx's roles in docstrings (``:class:`` and the like) from the API
reference.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

CONFIG = Path(__file__).parents[1] / "config/README.md"
_ROLE = re.compile(r":[a-z]+:<code>[~.]*")


def on_files(files: Files, config: Any) -> Files:
    content = CONFIG.read_text().replace("](../docs/", "](")
    files.append(File.generated(config, "config.md", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace("](../config/README.md", "](config.md")


def on_page_content(html: str, **_: Any) -> str:
    return _ROLE.sub("<code>", html)
