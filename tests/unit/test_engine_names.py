"""No module outside of the engines knows one of them by its name: it asks their descriptions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from samservice.contract.engine_description import DEFAULT_ENGINE, ENGINES

REPO = Path(__file__).parents[2]
#: The table of the built-in engines and the default.
ALLOWED = {"service/samservice/contract/engine_description.py"}
#: Names of engines, and of the packages behind them, as words of an identifier or a text.
NAME = re.compile("|".join(re.sub("[-_]?sam$", "[-_]?sam", name) for name in ENGINES.built_in))


def modules() -> Iterator[Path]:
    for folder in ("workflow", "service"):
        for path in (REPO / folder).rglob("*.py"):
            # upstream runs no engine: it asks for releases of other projects.
            if not {"engines", "upstream"} & set(path.parts):
                yield path
    yield from (REPO / "workflow").rglob("*.smk")
    yield REPO / "workflow/Snakefile"


def code_of(tree: ast.Module) -> Iterator[str]:
    """Yield names and texts of the code, but not its docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                yield text
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                yield name
            case ast.ImportFrom(module=str(name)):
                yield name


def found_in(path: Path) -> set[str]:
    text = path.read_text()
    parts = code_of(ast.parse(text)) if path.suffix == ".py" else [text]
    return {name for part in parts for name in NAME.findall(part)}


def test_only_the_table_of_the_engines_names_them() -> None:
    named = {path.relative_to(REPO).as_posix(): found_in(path) for path in modules()}
    assert {path for path, names in named.items() if names} == ALLOWED
    assert len(named) > 150


def test_a_name_is_found_in_a_text_an_import_and_an_f_string(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    for code, count in [
        ('"""Docstring of watershed."""\n# micro-sam', 0),
        ('x = engine == "microsam"', 1),
        ('f"{x}: an image takes longer with micro-sam"', 1),
        ("import micro_sam.util", 1),
        ("from samservice.engines.watershed import WatershedEngine", 1),
        ("watershed_px = 3", 1),
    ]:
        module.write_text(code)
        assert len(found_in(module)) == count, code


def test_the_default_engine_is_built_in() -> None:
    assert DEFAULT_ENGINE in ENGINES.built_in
