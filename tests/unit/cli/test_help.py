"""What the command line says of itself: an example for each command, completion for a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from samcourier.cli import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_ends_with_an_example_that_parses(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda _, value, *__: Path(value))
    said = CliRunner().invoke(main, [name, "--help"], terminal_width=200).output
    _, marked, example = said.partition("\n  Example:\n")
    assert marked, f"samcourier {name} --help shows no example: @click.command(epilog=example(...))"
    program, command, *arguments = shlex.split(example.replace("\\\n", ""))
    assert (program, command) == ("samcourier", name)
    parsed = main.get_command(click.Context(main), name)
    assert parsed is not None
    parsed.make_context(name, arguments).close()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_click_completes_in_a_shell(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/quick-start.md tells; bash alike, whose version click looks at first."""
    monkeypatch.setenv("_SAMCOURIER_COMPLETE", f"{shell}_source")
    with pytest.raises(SystemExit):
        main(prog_name="samcourier")
    assert f"_SAMCOURIER_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_subcommands_are_completed() -> None:
    from click.shell_completion import ShellComplete

    completion = ShellComplete(main, {}, "samcourier", "_SAMCOURIER_COMPLETE")
    assert [each.value for each in completion.get_completions([], "ver")] == ["verify"]
