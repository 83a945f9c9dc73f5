"""A real HTTP server on the loopback that serves the files of a folder and can be told to fail."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import BasicAuth, web


@dataclass
class FileServer:
    """What is served, how it is answered, and what was asked for.

    ``statuses`` has, for the end of a path, the statuses of the first answers; the last one is
    given for ever where ``lasting`` has the end. ``query`` and ``password`` are required of every
    request where they are set. ``cut`` has the ends of paths whose connection breaks after half of
    the content, so many times.
    """

    folder: Path
    url: str = ""
    statuses: dict[str, list[int]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    query: str = ""
    password: str = ""
    #: Ends of paths that are never answered.
    silent: tuple[str, ...] = ()
    #: Status for what is not there: S3 says 403 where the bucket may not be listed.
    missing: int = 404
    takes_ranges: bool = True
    asked: Counter[str] = field(default_factory=Counter)
    sent_bytes: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.lstrip("/")
        self.asked[path] += 1
        if self.query and request.rel_url.raw_query_string != self.query:
            return web.Response(status=403)
        if self.password:
            auth = request.headers.get("Authorization")
            if auth is None or BasicAuth.decode(auth).password != self.password:
                return web.Response(status=401)
        for end, statuses in self.statuses.items():
            if path.endswith(end) and statuses:
                status = statuses[0] if len(statuses) == 1 and statuses[0] < 0 else statuses.pop(0)
                return web.Response(status=abs(status), text="not now")
        if self.silent and path.endswith(self.silent):
            await asyncio.sleep(3)
        file = self.folder / path
        if not file.is_file():
            return web.Response(status=self.missing)
        content = file.read_bytes()
        part = request.http_range if self.takes_ranges else slice(None)
        is_part = (part.start, part.stop) != (None, None)
        body = content[part.start : part.stop]
        self.sent_bytes += len(body)
        for end in self.cut:
            if path.endswith(end) and self.cut[end] > 0:
                self.cut[end] -= 1
                response = web.StreamResponse(headers={"Content-Length": str(len(body))})
                await response.prepare(request)
                await response.write(body[: len(body) // 2])
                assert request.transport is not None
                request.transport.close()
                return response
        return web.Response(status=206 if is_part else 200, body=body)


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """Serve the files of ``folder`` on a free port of the loopback interface."""
    server = FileServer(folder)
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        server.url = f"http://127.0.0.1:{port}"
        ready.set()
        await stop.wait()
        await runner.cleanup()
        # A closed connection frees its socket in a later turn of the loop.
        await asyncio.sleep(0.1)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        assert ready.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
