"""One run at a time writes to a results folder, and only a user who may."""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from samcourier.errors import InputError
from samcourier.results.permissions import check_writable
from samcourier.results.run_lock import LOCK_NAME, lock_results, locked_results

#: A user without a name, as many systems reserve it.
NOBODY = 65534
FORK = multiprocessing.get_context("fork")


def test_a_second_run_is_refused_by_the_process_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "results/cells"
    with locked_results(folder):
        with pytest.raises(InputError) as refused:
            lock_results(folder)
        assert str(refused.value).startswith(f"{folder} is in use by process {os.getpid()} of ")
        assert f" on {platform.node()} since 20" in str(refused.value)
        assert "\n" not in str(refused.value)
    with locked_results(folder):
        pass


def test_the_lock_is_that_of_the_results_whatever_path_leads_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "shared"):
        (tmp_path / name).mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "results").symlink_to(tmp_path / "shared")
    monkeypatch.chdir(tmp_path / "one")
    with locked_results(Path("results/cells")):
        monkeypatch.chdir(tmp_path / "two")
        with pytest.raises(InputError, match="is in use by process"):
            lock_results(Path("results/cells"))
        # Another dataset has another lock.
        with locked_results(Path("results/others")):
            pass


def hold_and_die(folder: Path) -> None:
    lock_results(folder)
    os.kill(os.getpid(), 9)


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    process = FORK.Process(target=hold_and_die, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    with locked_results(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / LOCK_NAME).read_text()


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("samcourier.results.run_lock.fcntl.flock", flock)
    with pytest.raises(InputError, match=r"cannot be locked \(Function not implemented\), exp"):
        lock_results(tmp_path)


def _as_nobody(work: Callable[[], None], answer: Path) -> None:
    stream = answer.open("w")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    try:
        work()
    except InputError as error:
        stream.write(str(error))
    except Exception:
        stream.write(traceback.format_exc())
    finally:
        stream.close()


def problem_of_another_user(folder: Path, answer: Path) -> str:
    """Return what a user without any right in ``folder`` is told, "" where all is allowed."""
    process = FORK.Process(target=_as_nobody, args=(lambda: check_writable(folder), answer))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return answer.read_text()


@pytest.fixture
def results() -> Iterator[Path]:
    """A results folder that everyone may write; pytest's own folders are private."""
    folder = Path(tempfile.mkdtemp(prefix="courier-results-", dir="/tmp"))
    folder.chmod(0o755)
    for part in ("logs/batches", "batches", "masks", "service/owners", "run"):
        (folder / "results" / part).mkdir(parents=True)
    for file in ("logs/batches/0001.log", "batches/.0001.lock", "service/lock", "report.html"):
        (folder / "results" / file).touch()
    for path in (folder / "results", *(folder / "results").rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    yield folder / "results"
    shutil.rmtree(folder)


def test_a_folder_that_others_may_write_is_theirs_to_run_in(results: Path, tmp_path: Path) -> None:
    assert problem_of_another_user(results, tmp_path / "answer") == ""


@pytest.mark.parametrize(
    ("part", "mode", "said"),
    [
        ("", 0o755, "drwxr-xr-x"),
        ("masks", 0o755, "drwxr-xr-x"),
        ("logs/batches", 0o555, "dr-xr-xr-x"),
        ("service/owners", 0o755, "drwxr-xr-x"),
        ("logs/batches/0001.log", 0o444, "-r--r--r--"),
        ("batches/.0001.lock", 0o444, "-r--r--r--"),
        ("service/lock", 0o444, "-r--r--r--"),
    ],
)
def test_a_missing_permission_is_named_with_its_path_and_owner(
    results: Path, tmp_path: Path, part: str, mode: int, said: str
) -> None:
    (results / part).chmod(mode)
    if os.geteuid() != 0 and mode & 0o200:
        pytest.skip("its owner may write it, and only root is another user")
    problem = problem_of_another_user(results, tmp_path / "answer")
    assert problem.startswith(f"{results / part} ({said}, owner ")
    assert "may not write it, expected a folder that both may write" in problem
    assert f"`chmod -R g+rwX {results}` and sets `umask 002`" in problem
    assert "\n" not in problem


def test_a_file_that_is_replaced_by_renaming_needs_no_permission(
    results: Path, tmp_path: Path
) -> None:
    (results / "report.html").chmod(0o400)
    (results / "service/service.log").touch(mode=0o600)
    assert problem_of_another_user(results, tmp_path / "answer") == ""
