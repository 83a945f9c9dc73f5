"""docs/troubleshooting.md has a cause and a cure for every error that the code can name."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from samcourier import errors
from samcourier.transports import known_defects as defects
from samservice.hypha import refusals

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()


def rows(page: str) -> dict[str, list[tuple[str, str]]]:
    """Return {first cell, without its quotes: [(cause, cure), ...]} of the page's tables."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3 and set(cells[0]) != {"-"}:
            found.setdefault(cells[0].strip("`"), []).append((cells[1], cells[2]))
    return found


ROWS = rows(PAGE)


def failures(source: Path, base: str) -> set[str]:
    """Return ``base`` and every class derived from it in the modules of ``source``."""
    found = {base}
    classes = [node for node in nodes(source) if isinstance(node, ast.ClassDef)]
    while (
        derived := {
            each.name for each in classes if found & {ast.unparse(base) for base in each.bases}
        }
        - found
    ):
        found |= derived
    return found


@functools.cache
def nodes(source: Path) -> list[ast.AST]:
    paths = sorted(source.rglob("*.py"))
    return [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]


def given_names(source: Path, raised: set[str]) -> Iterator[str]:
    """Yield each ``name="..."`` that one of the failures is raised with."""
    for node in nodes(source):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in raised
        ):
            for keyword in node.keywords:
                if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                    yield str(keyword.value.value)


def refused_sentences() -> Iterator[str]:
    """Yield what each sentence of ``explain_refusal`` always says, up to its advice."""
    function = ast.parse(inspect.getsource(refusals.explain_refusal)).body[0]
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.JoinedStr):
            said = [each.value for each in node.value.values if isinstance(each, ast.Constant)]
            yield max((str(text).partition(":")[0].strip() for text in said[:2]), key=len)


CLIENT, SERVICE = ROOT / "workflow/samcourier", ROOT / "service/samservice"
FAILURES = failures(CLIENT, "CourierError")
DEFECTS = {each.name for each in vars(defects).values() if isinstance(each, defects.Defect)}
KINDS = {
    each.kind
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, errors.CourierError)
}
NAMES = {
    "failures": FAILURES,
    "names": set(given_names(CLIENT, FAILURES)),
    "service": failures(SERVICE, "ServiceError"),
    "defects": DEFECTS,
    "kinds": KINDS | {"unexpected"},
}


@pytest.mark.parametrize(("where", "name"), [(w, n) for w in NAMES for n in sorted(NAMES[w])])
def test_every_name_has_a_cause_and_a_cure(where: str, name: str) -> None:
    assert name in ROWS, f"docs/troubleshooting.md: no row for `{name}` ({where})"
    assert all(cause and cure for cause, cure in ROWS[name])


@pytest.mark.parametrize("sentence", sorted(refused_sentences()))
def test_every_refusal_of_a_token_has_a_cure(sentence: str) -> None:
    assert any(sentence in row for row in ROWS), f"docs/troubleshooting.md: no row for {sentence!r}"


def test_all_error_names_are_collected() -> None:
    assert {"WorkerTooOld", "Silent", "NoSuchMethod"} <= NAMES["names"]
    assert len(list(refused_sentences())) == 5
    assert len(DEFECTS) >= 9
