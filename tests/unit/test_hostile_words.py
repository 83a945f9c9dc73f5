"""Words of others on the terminal, and what a service says of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from samcourier.cli import main
from samcourier.cli.terminal import say
from samcourier.connection.description import checked_description
from samcourier.errors import InputError, ServiceFailed
from samcourier.plain_text import plain_lines

REPO = Path(__file__).parents[2]
ESCAPES = "\x1b]0;owned\x07\x1b[31m\u202e\x9b2J\x00"


def test_what_is_said_has_lines_and_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a{ESCAPES}\nb\tc\r\nd")
    said = capsys.readouterr().err
    assert said.splitlines() == ["a\ufffd]0;owned\ufffd\ufffd[31m\ufffd\ufffd2J\ufffd", "b c", "d"]
    assert plain_lines("") == ""


@pytest.mark.parametrize("error", [InputError(f"{ESCAPES}: no\nand no"), OSError(2, ESCAPES, "x")])
def test_an_error_has_no_escapes(error: Exception) -> None:
    @click.command("fails")
    def fails() -> None:
        raise error

    main.add_command(fails)
    try:
        result = CliRunner().invoke(main, ["fails"])
    finally:
        main.commands.pop("fails")
    assert result.exit_code == 1
    assert "owned" in result.output
    assert not set(result.output) & set("\x1b\x07\u202e\x9b")


def test_a_sheet_with_escapes_reaches_no_terminal(tmp_path: Path) -> None:
    sheet = tmp_path / f"{ESCAPES[:-1]}.tsv"
    sheet.write_text(f"image\tpath\n{ESCAPES[:-1]}\ta.tif\n")
    done = subprocess.run(
        [sys.executable, "-m", "samcourier.cli", "segment", sheet, "--dataset-dir", tmp_path],
        capture_output=True,
        text=True,
    )
    assert "is not a safe file name" in done.stderr
    assert not set(done.stderr) & set("\x1b\x07\u202e\x9b")


@pytest.mark.parametrize("name", ["..", ".x", "a/b", "a\n", "/a", "a\x1b", "", "-a"])
def test_a_dataset_is_a_folder_of_results(name: str) -> None:
    schema = yaml.safe_load((REPO / "workflow/schemas/config.schema.yaml").read_text())
    pattern = re.compile(schema["properties"]["dataset"]["pattern"])
    assert pattern.search(name) is None
    assert pattern.search("plate7_A1.v2")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ([1], "by list"),
        ("text", "by str"),
        (None, "by NoneType"),
        ({"engine": float("nan")}, "not JSON"),
        ({"engine": b"bytes"}, "not JSON"),
        ({"engine": "x" * (1 << 20)}, "expected a mapping of at most 1048576"),
    ],
)
def test_an_odd_description_is_the_services_failure(answer: Any, problem: str) -> None:
    with pytest.raises(ServiceFailed, match=problem):
        checked_description(answer)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"limits": {"in_parallel": 2, "max_queue": 0, "max_pixels": "9"}}, {"in_parallel": 2}),
        ({"limits": {"max_image_bytes": True, "max_pixels": -1}}, {}),
        ({"limits": 7}, None),
    ],
)
def test_odd_limits_are_left_out(said: dict[str, Any], kept: object) -> None:
    assert checked_description(said).get("limits") == kept


@pytest.mark.parametrize("name", ["parameters", "image_statistics", "embedding_bytes"])
def test_what_has_another_form_is_left_out(name: str) -> None:
    assert checked_description({"engine": "x", name: {"a": 1}}) == {"engine": "x"}
