"""A Hypha server and a service whose engine answers at once with a mask read from a file.

Leaves only transport and packing to be measured. Registered twice: by samservice, and as
``stock`` the way hypha-rpc's defaults do it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import uvloop
from hypha_rpc import connect_to_server

from samcourier.deploy.local.supervisor import running_hypha
from samcourier.files.atomic import write_private
from samcourier.transports import Endpoint
from samservice.contract.errors import EmbeddingsUnsupported
from samservice.engines.base import Engine
from samservice.server.app import SegmentationService
from samservice.server.serve import Address, ServeSettings, serve

SERVICE_TIMEOUT_S = 90


class CannedEngine:
    """Returns the same mask, cut to the image, for every image, after ``work_s`` seconds.

    ``busy_log`` gets a line for each image: when its work began and ended, in Unix seconds.
    """

    def __init__(self, mask: np.ndarray, work_s: float = 0.0, busy_log: Path | None = None) -> None:
        self._mask = mask.astype(np.uint32)
        self._work_s = work_s
        self._busy_log = busy_log

    def describe(self) -> dict[str, Any]:
        return {"engine": "canned", "model": "canned", "model_sha256": None} | {
            "segmentation_version": 1,
            "versions": {},
            "embeddings": False,
            "device": "cpu",
            "parameters": {},
        }

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        pass

    def segment(self, image: np.ndarray, axes: str, parameters: dict[str, Any]) -> np.ndarray:
        began_unix_s = time.time()
        time.sleep(self._work_s)
        if self._busy_log is not None:
            with self._busy_log.open("a") as log:
                log.write(f"{began_unix_s} {time.time()}\n")
        return self._mask[: image.shape[-2], : image.shape[-1]]

    def encode(self, image: np.ndarray, axes: str) -> dict[str, Any]:
        raise EmbeddingsUnsupported("canned")

    def segment_embedding(
        self, embedding: dict[str, Any], parameters: dict[str, Any]
    ) -> np.ndarray:
        raise EmbeddingsUnsupported("canned")


async def serve_canned(
    engine: Engine, url: str, token: str, on_ready: Callable[[dict[str, Any]], object]
) -> None:
    """Serve until killed; ``on_ready`` gets an Endpoint's fields once everything is registered."""

    async def ready(address: Address, _server: Any) -> None:
        stock = await connect_to_server({"server_url": url, "token": token})
        service = SegmentationService(engine)

        async def segment_all(image: np.ndarray, context: Any = None) -> Any:
            return await service.segment_all(image)

        await stock.register_service(
            {
                "id": "stock",
                "config": {"visibility": "protected", "require_context": True},
                "segment_all": segment_all,
            }
        )
        on_ready(asdict(address) | {"token": token})

    await serve(engine, ServeSettings(url, token), on_ready=ready, stop=asyncio.Event())


async def main(options: argparse.Namespace) -> None:
    """Start a Hypha server and serve; write where to ``options.out``."""
    engine = CannedEngine(tifffile.imread(options.mask), options.work_s, options.busy_log)
    await serve_with_hypha(engine, options.out)


async def serve_with_hypha(engine: Engine, out: Path) -> None:
    """Start a Hypha server and serve until killed; write where to ``out``."""
    token = secrets.token_urlsafe(48)
    with tempfile.TemporaryDirectory(prefix="samcourier-bench-") as directory:
        async with running_hypha(Path(directory), token) as (url, _hypha):
            await serve_canned(
                engine, url, token, lambda found: write_private(out, json.dumps(found))
            )


@contextmanager
def running_canned_service(
    mask: Path,
    scratch: Path,
    *options: object,
    on_start: Callable[[int], object] = lambda pid: None,
) -> Iterator[Endpoint]:
    """Run this module in a process of its own until the end; see :func:`running_service`."""
    command = [sys.executable, __file__, mask, scratch / "service.json", *options]
    with running_service(command, scratch, on_start) as endpoint:
        yield endpoint


@contextmanager
def running_service(
    command: Sequence[object], scratch: Path, on_start: Callable[[int], object] = lambda pid: None
) -> Iterator[Endpoint]:
    """Run a command that serves and writes ``scratch``/service.json; yield where the service is.

    ``on_start`` gets its pid. Raises RuntimeError, with its log, when it does not come up.
    """
    found, log_path = scratch / "service.json", scratch / "service.log"
    with log_path.open("w") as log:
        service = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
    on_start(service.pid)
    try:
        deadline_s = time.monotonic() + SERVICE_TIMEOUT_S
        while not found.exists():
            if service.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(log_path.read_text())
            time.sleep(0.2)
        yield Endpoint(**json.loads(found.read_text()))
    finally:
        service.terminate()
        service.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("mask", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--work-s", type=float, default=0.0)
    parser.add_argument("--busy-log", type=Path)
    uvloop.run(main(parser.parse_args()))
