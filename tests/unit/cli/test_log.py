"""Where samcourier's log is shown: by the command line and by detached processes, else nowhere."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from samcourier.cli.terminal import progress_of, show_log

logger = logging.getLogger("samcourier.deploy")

_LOG_BOTH = """
logger = logging.getLogger("samcourier.deploy")
logger.info("job %s is cancelled", 7, extra={"job": "7"})
logger.error("two\\nlines")
"""


class Terminal(io.StringIO):
    """A standard error that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def run(script: str, stderr: Path) -> None:
    """Run a script in a fresh interpreter, whose standard error goes to a file."""
    with stderr.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=file, text=True
        )
    assert (done.returncode, done.stdout) == (0, "")


def test_a_library_shows_nothing_until_logging_is_configured(tmp_path: Path) -> None:
    run("import logging, samcourier.deploy.targets\n" + _LOG_BOTH, tmp_path / "log")
    assert (tmp_path / "log").read_text() == ""


def test_to_use_a_connection_configures_no_logging(tmp_path: Path) -> None:
    script = (
        "import logging\n"
        "from samcourier.transports.session import root_logger_kept\n"
        "with root_logger_kept():\n"
        "    import samservice.hypha.connection\n"
        "assert not logging.getLogger().handlers\n"
    )
    run(script + _LOG_BOTH, tmp_path / "log")
    assert (tmp_path / "log").read_text() == ""


def test_a_program_that_configures_logging_gets_the_fields(log: pytest.LogCaptureFixture) -> None:
    logger.info("job %s is cancelled", 7, extra={"job": "7"})
    [record] = log.records
    assert (record.name, record.getMessage()) == ("samcourier.deploy", "job 7 is cancelled")
    assert record.job == "7"


def test_a_file_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with show_log():
        logger.info("job %s is %s", 7, "[red]cancelled[/]")
        logger.warning("%-10s %s", "webrtc", "x" * 300)
        logger.debug("nobody's affair")
    logger.info("no command runs")
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"job 7 is [red]cancelled[/]\n{'webrtc':10} {'x' * 300}\n")


def test_a_terminal_gets_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with show_log():
        logger.info("job %s is %s", 7, "[red]cancelled[/] " + "x" * 300)
        logger.warning("not\x1b[2J good")
    plain, coloured = terminal.getvalue().splitlines()
    assert plain == f"job 7 is [red]cancelled[/] {'x' * 300}"
    assert coloured == "\x1b[33mnot\ufffd[2J good\x1b[0m"


@pytest.mark.parametrize(
    ("stream", "shown"),
    [(io.StringIO, {"a: 3 objects", "b: failed"}), (Terminal, {"b: failed"})],
    ids=["file", "terminal"],
)
def test_beside_a_progress_bar_only_warnings_are_shown(
    stream: type[io.StringIO], shown: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = stream()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "dumb")
    with show_log():
        with progress_of("segmenting", 2):
            logger.info("a: 3 objects")
            logger.warning("b: failed")
        text = stderr.getvalue()
        logger.info("report: here")
        assert "report: here" in stderr.getvalue().removeprefix(text)
    assert {line for line in ("a: 3 objects", "b: failed") if line in text} == shown


def test_a_detached_process_logs_plain_lines_with_their_time(tmp_path: Path) -> None:
    script = "import logging\nfrom samcourier.deploy.daemon import log_to_stderr\nlog_to_stderr()\n"
    run(script + _LOG_BOTH, tmp_path / "log")
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
    expected = rf"{time} job 7 is cancelled\n{time} two\nlines\n"
    assert re.fullmatch(expected, (tmp_path / "log").read_text())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device that is always full")
def test_a_disk_that_is_full_ends_no_detached_process() -> None:
    script = "import logging\nfrom samcourier.deploy.daemon import log_to_stderr\nlog_to_stderr()\n"
    run(script + _LOG_BOTH, Path("/dev/full"))
