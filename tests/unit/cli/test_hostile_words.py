"""Words of others on the terminal, and what a service says of itself."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from samcourier.cli import main
from samcourier.cli.terminal import show_log
from samcourier.diagnostics.verify import verify_service
from samcourier.errors import InputError
from samcourier.formatting import plain_lines
from samcourier.testing.fake import FakeTransport
from samcourier.transports import Endpoint

REPO = Path(__file__).parents[3]
ESCAPES = "\x1b]0;owned\x07\x1b[31m\u202e\x9b2J\x00"


def test_what_is_shown_has_lines_and_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    with show_log():
        logging.getLogger("samcourier.cli").info("%s", f"a{ESCAPES}\nb\tc\r\nd")
    shown = capsys.readouterr().err
    assert shown.splitlines() == ["a\ufffd]0;owned\ufffd\ufffd[31m\ufffd\ufffd2J\ufffd", "b c", "d"]
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


class OddService:
    """Answers as a good service does, but for what a test changes of either answer."""

    def __init__(self, described: object, probed: Mapping[str, Any]) -> None:
        self._described = described
        self._probed = probed

    async def describe(self) -> object:
        return self._described

    async def probe(self, payload: bytes, reply_bytes: int) -> dict[str, Any]:
        now_s = time.time()
        times = {"received_unix_s": now_s, "sent_unix_s": now_s}
        return {
            "received_bytes": len(payload), "data": bytes(reply_bytes), "caller": "a@b.org",
            **times, **self._probed,
        }  # fmt: skip


async def verdict(described: object = None, **probed: Any) -> dict[str, Any]:
    """Return what ``verify`` would write of an odd service, as a reader of the file finds it."""
    service = OddService({"engine": "x"} if described is None else described, probed)
    endpoint = Endpoint("https://h", "w", "s", "s-rtc")
    found = await verify_service(endpoint, [FakeTransport(service)])
    return json.loads(json.dumps(found, allow_nan=False))


async def test_a_good_service_gets_its_verdict() -> None:
    found = await verdict()
    assert found["description"] == {"engine": "x"}
    assert found["transports"]["fake"]["works"]
    assert found["transports"]["fake"]["caller"] == "a@b.org"


@pytest.mark.parametrize(
    ("described", "problem"),
    [
        ({"engine": float("nan")}, "description is not JSON"),
        ({"engine": b"bytes"}, "description is not JSON"),
        ([1], "describes itself by list"),
    ],
)
async def test_what_a_run_cannot_use_does_not_work(described: object, problem: str) -> None:
    found = await verdict(described)
    assert found["description"] == {}
    assert problem in found["transports"]["fake"]["failure"]["message"]


@pytest.mark.parametrize(
    ("probed", "problem"),
    [
        ({"data": 7}, "bytes arrived up and down"),
        ({"received_bytes": b"x"}, "bytes arrived up and down"),
        ({"received_unix_s": float("nan")}, "the times in the service's answer"),
        ({"sent_unix_s": 1e308}, "the times in the service's answer"),
        ({"sent_unix_s": 10**400}, "the times in the service's answer"),
    ],
    ids=str,
)
async def test_an_odd_probe_does_not_work(probed: dict[str, Any], problem: str) -> None:
    found = await verdict(**probed)
    assert problem in found["transports"]["fake"]["failure"]["message"]


@pytest.mark.parametrize(
    "odd",
    [{"caller": b"x"}, {"caller": float("nan")}, {"seconds": {"queue": float("nan")}}],
    ids=str,
)
async def test_odd_words_beside_what_counts_are_left_out(odd: dict[str, Any]) -> None:
    found = (await verdict(**odd))["transports"]["fake"]
    assert found["works"]
    assert found["caller"] == (None if "caller" in odd else "a@b.org")
