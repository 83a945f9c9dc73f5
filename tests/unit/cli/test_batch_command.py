"""What `samcourier batch` refuses before it looks for a service."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from samcourier.cli import main
from samcourier.samples.sheet import read_sheet, rows_digest


@pytest.mark.parametrize(
    ("sheet", "said"),
    [
        ("image\tpath\na\ta.tif\nb\tb.tif\n", None),
        ("image\tpath\na\ta.tif\nb\tb.tif\nc\tc.tif\n", None),
        ("image\tpath\nb\tb.tif\na\ta.tif\n", "the rows of batch 0002 changed since the run"),
        ("image\tpath\na\ta.tif\nb\tc.tif\n", "the rows of batch 0002 changed since the run"),
        ("image\tpath\na\ta.tif\n", "has no batch '0002', expected one of 1..1"),
    ],
    ids=["same", "appended", "sorted", "another file", "shorter"],
)
def test_a_batch_is_made_of_the_rows_that_the_run_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sheet: str, said: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("images.tsv")
    path.write_text("image\tpath\na\ta.tif\nb\tb.tif\n")
    digest = rows_digest(read_sheet(path)[1:])
    path.write_text(sheet)
    options = ["--batch", "0002", "--batch-size", "1", "--rows-digest", digest]
    # No such service: a batch whose rows are as they were gets as far as to ask for its token.
    options += ["--target", "existing", "--server-url", "http://127.0.0.1:9", "--service-id", "s"]
    options += ["--token-file", "none", "--dataset-dir", "results", "--out", "0002.json"]
    result = CliRunner().invoke(main, ["batch", str(path), *options])
    assert result.exit_code == 1
    assert (said or "none: ") in result.output
