"""The images that a command is limited to, by name and by file."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from samcourier.cli import main
from samcourier.cli.options import SUBSET_KEYS, settings_options
from samcourier.settings.run_settings import RunSettings


@click.command()
@settings_options(SUBSET_KEYS)
def print_subset(settings: RunSettings) -> None:
    click.echo(repr(settings.images))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("a\n\n  b.1 \r\nc")
    Path("none.txt").write_text("\n")
    Path("latin1.txt").write_bytes("\xe4".encode("latin-1"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], None),
        (["--only", "a", "--only", "b"], ("a", "b")),
        (["--only", "@ids.txt"], ("a", "b.1", "c")),
        (["--only", "z", "--only", "@ids.txt"], ("z", "a", "b.1", "c")),
    ],
)
def test_images_are_named_one_by_one_or_in_a_file(
    given: list[str], expected: tuple[str] | None
) -> None:
    assert CliRunner().invoke(print_subset, given).output == f"{expected!r}\n"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("@missing.txt", "No such file or directory"),
        ("@.", "Is a directory"),
        ("@latin1.txt", "not UTF-8"),
        ("@none.txt", "names no image"),
    ],
)
def test_a_file_that_names_no_images_is_one_line(given: str, problem: str) -> None:
    result = CliRunner().invoke(main, ["segment", "images.tsv", "--only", given])
    assert result.exit_code == 1
    assert result.output == (
        f"Error: --only {given}: {problem}, expected a text file with an image id on each line\n"
    )
