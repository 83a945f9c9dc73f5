"""Whatever becomes of a run, nothing it leaves or shows holds a token, whole or in parts."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from samcourier.deploy.local.supervisor import running_hypha
from samcourier.files.atomic import write_private
from samservice.hypha.connection import connect

from .test_run import RUN_TIMEOUT_S, Folder

pytestmark = [pytest.mark.live, pytest.mark.slow]

WORKSPACE = "lab"
READY_TIMEOUT_S = 240.0
LOOK_AGAIN_S = 0.02
#: What the local service's own processes are given, and nobody else may see.
SECRET_VARIABLES = ("HYPHA_ROOT_TOKEN", "HYPHA_JWT_SECRET")


@dataclass(frozen=True)
class Elsewhere:
    """A service that is there already, and tokens to it."""

    url: str
    good: str
    expired: str


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    directory = tmp_path_factory.mktemp("elsewhere")
    root_token = secrets.token_urlsafe(48)
    with asyncio.Runner() as runner:
        running = running_hypha(directory, root_token)
        url, _ = runner.run(running.__aenter__())
        try:
            good, expired = runner.run(make_tokens(url, root_token))
            with serving(url, good):
                yield Elsewhere(url, good, expired)
        finally:
            runner.run(running.__aexit__(None, None, None))


async def make_tokens(url: str, root_token: str) -> tuple[str, str]:
    """Return a good token and one that has expired."""
    hypha = await connect(url, token=root_token)
    await hypha.create_workspace(
        {"id": WORKSPACE, "name": WORKSPACE, "description": WORKSPACE, "persistent": True}
    )
    good, expired = [
        await hypha.generate_token(
            {"workspace": WORKSPACE, "permission": "read_write", "expires_in": expires_in_s}
        )
        for expires_in_s in (3600, 1)
    ]
    await hypha.disconnect()
    await asyncio.sleep(1)
    return good, expired


@contextmanager
def serving(url: str, token: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "samcourier.cli", "serve", "--server-url", url],
        env=os.environ | {"HYPHA_TOKEN": token},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    overdue = threading.Timer(READY_TIMEOUT_S, process.kill)
    overdue.start()
    try:
        assert process.stderr.readline().startswith("ready: ")
        overdue.cancel()
        yield
    finally:
        overdue.cancel()
        process.terminate()
        said = process.communicate(timeout=READY_TIMEOUT_S)[1]
    assert said == ""


class Eavesdropper:
    """Looks at every process of this machine while a run goes on."""

    def __init__(self, folder: Folder) -> None:
        self.command_lines: set[bytes] = set()
        self.secrets: set[str] = set()
        self.token_modes: set[int] = set()
        self._service = folder.results / "service"
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._ended.wait(LOOK_AGAIN_S):
            for process in psutil.process_iter():
                try:
                    line = "\0".join(process.cmdline())
                    self.command_lines.add(line.encode())
                    is_server = "samcourier.deploy.local.hypha_server" in line
                    if is_server and Path(process.cwd()) == self._service:
                        environment = process.environ()
                        self.secrets |= {environment[name] for name in SECRET_VARIABLES}
                except (psutil.NoSuchProcess, psutil.AccessDenied, KeyError):
                    continue
            with suppress(FileNotFoundError):
                token = self._service / "token"
                self.token_modes.add(token.stat().st_mode & 0o777)
                self.secrets.add(token.read_text())

    def __enter__(self) -> Eavesdropper:
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._looking.join()


def forms(secret: str) -> list[bytes]:
    """Return how a secret may look when it is repeated; each part of a token is one as well."""
    # The first part of a token says no more than its algorithm.
    parts = secret.split(".")[1:]
    whole = [secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")]
    return [each.encode() for each in (*whole, *parts) if each]


def holders(roots: list[Path], secret: str, besides: Path | None) -> list[Path]:
    """Return the files under ``roots`` that hold the secret in any form, in name or content."""
    found = []
    for path in (path for root in roots for path in root.rglob("*") if path != besides):
        content = os.fsencode(path.name) + (path.read_bytes() if path.is_file() else b"")
        found += [path for form in forms(secret) if form in content]
    return found


@pytest.mark.parametrize(
    ("target", "token_from", "expired"),
    [("local", None, False), ("existing", "variable", False), ("existing", "file", True)],
    ids=["local", "existing", "expired"],
)
def test_no_token_is_left(
    elsewhere: Elsewhere,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    token_from: str | None,
    expired: bool,
) -> None:
    # All that a run might keep for the next one lies below the test's folder.
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("HYPHA_TOKEN", raising=False)
    token = elsewhere.expired if expired else elsewhere.good
    token_file = tmp_path / "token"
    folder = Folder(tmp_path / "run")
    if target == "existing":
        service = {"server_url": elsewhere.url, "workspace": WORKSPACE, "service_id": "samservice"}
        if token_from == "file":
            write_private(token_file, token)
            service["token_file"] = str(token_file)
        else:
            monkeypatch.setenv("HYPHA_TOKEN", token)
        folder.configure(service={"target": "existing", **service})
    with Eavesdropper(folder) as heard, folder.start() as process:
        said, _ = process.communicate(timeout=RUN_TIMEOUT_S)
    assert process.returncode == expired, said
    assert "Traceback" not in said
    assert ("has expired" in said) == expired
    folder.wait_until_service_is_gone()

    tokens = heard.secrets if target == "local" else {token}
    assert len(tokens) == (3 if target == "local" else 1)
    assert heard.token_modes == ({0o600} if target == "local" else set())
    assert len(heard.command_lines) > 3
    for secret in tokens:
        assert holders([tmp_path, Path(tempfile.gettempdir())], secret, token_file) == []
        for form in forms(secret):
            assert form.decode() not in said
            assert not any(form in line for line in heard.command_lines)
