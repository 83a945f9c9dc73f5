"""docs/reading-the-log.md explains each field that the logs have, and none that they have not."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from samcourier.results.manifest import ManifestEntry

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reading-the-log.md").read_text()
SCHEMA = json.loads((ROOT / "workflow/schemas/image-log.schema.json").read_text())
ATTEMPT = SCHEMA["$defs"]["Attempt"]["properties"]


def named(heading: str) -> set[str]:
    """Return what the first column of the table below a heading names."""
    section = PAGE.partition(f" {heading}\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (`.*?`) \|", section, re.M)
    assert rows, f"docs/reading-the-log.md: no table below {heading!r}"
    return set(re.findall(r"`(\w+)`", " ".join(rows)))


def events() -> Iterator[str]:
    """Yield the name of each event that the connection manager records."""
    for path in sorted((ROOT / "workflow/samcourier/connection").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called, first = ast.unparse(node.func), node.args[0]
            if called.endswith("record") and isinstance(first, ast.Constant):
                yield str(first.value)


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        ("The image log", set(SCHEMA["properties"])),
        ("An attempt", set(ATTEMPT)),
        ("The journal of a connection", set(events())),
        ("The manifest", set(ManifestEntry.__struct_fields__)),
    ],
)
def test_each_field_is_explained(heading: str, fields: set[str]) -> None:
    assert named(heading) == fields


@pytest.mark.parametrize(
    "inner",
    [
        *SCHEMA["$defs"]["ImageSeconds"]["properties"],
        *SCHEMA["$defs"]["Failure"]["properties"],
        *SCHEMA["$defs"]["OutputRecord"]["properties"],
        *SCHEMA["$defs"]["CallSeconds"]["properties"],
        *SCHEMA["$defs"]["CallBytes"]["properties"],
    ],
)
def test_each_part_of_a_field_is_explained(inner: str) -> None:
    assert f"`{inner}`" in PAGE
