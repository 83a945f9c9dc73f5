"""Control a headless Chromium by its DevTools protocol over a pipe, without opening a port."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


class Browser:
    """One browser tab.

    ``problems`` has the errors of scripts and the violations of the content security policy.
    ``requests`` has the URLs that the page requested, cut to 200 characters.
    """

    def __init__(self, commands: Any, answers: Any) -> None:
        self._commands, self._answers = commands, answers
        self._number = 0
        self._session: str | None = None
        self._loaded = False
        self._received = b""
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result. Raises RuntimeError when it is refused."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def open(self, path: Path) -> None:
        """Open a file of this machine and wait until it is loaded."""
        self._loaded = False
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._next()

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression. Raises RuntimeError when it throws."""
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        """Press and release keys, one after the other, as on a keyboard."""
        for key in keys:
            text = key if len(key) == 1 else ("\r" if key == "Enter" else "")
            code = {"Escape": 27, "Enter": 13}.get(key, 0)
            for kind, typed in (("keyDown", text), ("keyUp", "")):
                self.send(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    text=typed,
                    windowsVirtualKeyCode=code,
                )

    def settle(self, seconds: float = 0.3) -> None:
        """Wait until the page is drawn."""
        self.run(
            f"new Promise(done => setTimeout(() => requestAnimationFrame(done), {1000 * seconds}))"
        )

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window in pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def screenshot(self, path: Path) -> None:
        """Write the visible part of the page to a PNG file."""
        content = self.send("Page.captureScreenshot")["data"]
        path.write_bytes(base64.b64decode(content))

    def close(self) -> None:
        """End the browser."""
        self._session = None
        self.send("Browser.close")

    def _next(self) -> dict[str, Any]:
        """Return the next message; note problems, requests and the end of loading."""
        while b"\0" not in self._received:
            if not (more := os.read(self._answers.fileno(), 1 << 20)):
                raise RuntimeError("chromium ended")
            self._received += more
        content, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(content)
        parameters = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.problems.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded":
                self.problems.append(str(parameters["entry"]["text"]))
            case "Network.requestWillBeSent":
                self.requests.append(str(parameters["request"]["url"])[:200])
        return message


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium with an empty profile; afterwards end it and delete the profile."""
    profile = Path(tempfile.mkdtemp(prefix="chromium-"))
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()

    def use_descriptors_3_and_4() -> None:
        # The descriptors are copied to higher numbers first, since one may already be 3 or 4.
        commands, answers = (fcntl.fcntl(each, fcntl.F_DUPFD, 64) for each in (down_read, up_write))
        os.dup2(commands, 3)
        os.dup2(answers, 4)

    process = subprocess.Popen(
        [str(CHROMIUM), *_FLAGS, f"--user-data-dir={profile}"],
        env={**os.environ, "HOME": str(profile)},
        preexec_fn=use_descriptors_3_and_4,
        pass_fds=(3, 4),
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    os.close(down_read)
    os.close(up_write)
    try:
        with os.fdopen(down_write, "wb") as commands, os.fdopen(up_read, "rb", 0) as answers:
            browser = Browser(commands, answers)
            yield browser
            browser.close()
    finally:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(profile, ignore_errors=True)
