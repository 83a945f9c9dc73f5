"""What `make upstream` says of each release of micro-sam."""

from __future__ import annotations

import subprocess

import pytest

from samservice.engines.descriptions import MICROSAM
from upstream import micro_sam_release
from upstream.micro_sam_release import PROJECT, findings, required_version

OLD = ["micro_sam/__init__.py", "micro_sam/automatic_segmentation.py", "micro_sam/v2.py"]
V1 = ["micro_sam/__init__.py", "micro_sam/v1/automatic_segmentation.py"]
V2 = [*V1, "micro_sam/v2/automatic_segmentation.py"]


@pytest.mark.parametrize(
    ("newest", "wheel", "files", "has", "to_do"),
    [
        ("1.8.14", "1.8.14", OLD, "the layout of 1.8", []),
        ("1.8.15", "1.8.15", OLD, "the layout of 1.8", ["require 1.8.15"]),
        ("1.9.0", "1.9.0", V1, "micro_sam.v1", ["require 1.9.0"]),
        ("2.0.0", "2.0.0", V2, "micro_sam.v1 and micro_sam.v2", ["require 2.0.0", "micro-sam 2"]),
        ("2.0.0rc1", "2.0.0rc1", V2, "micro_sam.v1 and micro_sam.v2", ["2.0.0rc1", "micro-sam 2"]),
        ("1.8.14", "1.8.14", V2, "micro_sam.v1 and micro_sam.v2", ["micro-sam 2 is released"]),
    ],
)
def test_what_is_to_do_follows_from_the_wheel(
    newest: str, wheel: str, files: list[str], has: str, to_do: list[str]
) -> None:
    first, *rest = findings("1.8.14", newest, wheel, files)
    assert first == f"{wheel} has {has}; samcourier requires 1.8.14"
    if not to_do:
        assert rest == ["nothing to do"]
    else:
        assert len(rest) == len(to_do)
        for line, part in zip(rest, to_do, strict=True):
            assert line.startswith("TO DO: ") and part in line


def test_a_release_without_a_wheel_is_said() -> None:
    said = findings("1.8.14", "2.0.0", "1.8.14", OLD)
    assert said[1] == "2.0.0 is newer and has no wheel: look into its sdist yourself"
    assert len(said) == 2


def test_project_and_engine_require_one_version() -> None:
    version = required_version(PROJECT.read_text())
    assert MICROSAM.requirements == (f"micro-sam=={version}",)


@pytest.mark.parametrize("extra", ['"micro-sam>=1.8"', '"torch==2.0"', ""])
def test_a_requirement_in_another_form_is_refused(extra: str) -> None:
    with pytest.raises(ValueError, match=r"expected one micro-sam==VERSION"):
        required_version(f"[project.optional-dependencies]\nmicrosam = [{extra}]\n")


def test_without_an_answer_the_reason_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: str) -> str:
        raise subprocess.CalledProcessError(1, "pip", stderr="WARNING: slow\nERROR: no index\n")

    monkeypatch.setattr(micro_sam_release, "_pip", fail)
    assert micro_sam_release.main() == 1
    said = capsys.readouterr().out
    assert said == "micro-sam: the newest release cannot be looked up: ERROR: no index\n"
