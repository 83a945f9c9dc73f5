"""Hooks of mkdocs.

``config/README.md``, which Snakemake's catalogue wants there, becomes a page. Sphinx's
roles in docstrings (``:class:`` and the like) are left out of the API reference.
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
