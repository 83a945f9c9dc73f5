"""What the docs say can be followed: links, commands, and a place in the table of contents."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from samcourier.cli import main

ROOT = Path(__file__).parents[2]
CONTENTS = ROOT / "docs/README.md"
PAGES = [ROOT / "config/README.md"]
for pattern in ("*.md", "docs/*.md", "docs/decisions/*.md"):
    PAGES += sorted(ROOT.glob(pattern))


def links(page: Path) -> list[str]:
    """Return the relative links of a page, without their anchors."""
    found = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    return [link for link in found if "://" not in link]


def commands(page: Path) -> list[str]:
    """Return the samcourier commands of a page's shell blocks, each on one line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.S | re.M)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [line.partition(" #")[0] for line in lines if line.startswith("samcourier ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    lost = [link for link in links(page) if not (page.parent / link).exists()]
    assert lost == []


def test_each_page_is_in_the_contents_and_in_the_menu_of_the_site() -> None:
    pages = {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"}
    assert pages <= set(links(CONTENTS)), "docs/README.md does not name every page"
    menu = set(re.findall(r"- ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert pages <= menu, "mkdocs.yml: nav lacks a page"


def test_each_module_of_the_api_reference_is_in_the_source() -> None:
    modules = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text(), re.M)
    paths = [module.replace(".", "/") for module in modules]
    sources = [ROOT / "workflow", ROOT / "service"]
    lost = [path for path in paths if not any((s / f"{path}.py").exists() for s in sources)]
    assert modules
    assert lost == []


@pytest.mark.parametrize(
    ("page", "command"),
    [
        pytest.param(page, command, id=f"{page.relative_to(ROOT)}: {command}")
        for page in PAGES
        for command in commands(page)
    ],
)
def test_commands_parse(page: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda _, value, *__: Path(value))
    name, *arguments = shlex.split(command)[1:]
    parsed = main.get_command(click.Context(main), name)
    assert parsed is not None, f"no command {name}"
    parsed.make_context(name, arguments).close()
