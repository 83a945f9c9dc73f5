"""A Hypha server and a service whose engine answers at once with a mask read from a file.

Leaves only transport and packing to be measured. Registered twice: by samservice, and as
``stock`` the way hypha-rpc's defaults do it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import uvloop
from hypha_rpc import connect_to_server

from samcourier.deploy.supervisor import running_hypha
from samservice.app import SegmentationService
from samservice.errors import EmbeddingsUnsupported
from samservice.serve import Address, ServeSettings, serve


class CannedEngine:
    """Returns the same mask, cut to the image, for every image."""

    def __init__(self, mask: np.ndarray) -> None:
        self._mask = mask.astype(np.uint32)

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
        return self._mask[: image.shape[-2], : image.shape[-1]]

    def encode(self, image: np.ndarray, axes: str) -> dict[str, Any]:
        raise EmbeddingsUnsupported("canned")

    def segment_embedding(
        self, embedding: dict[str, Any], parameters: dict[str, Any]
    ) -> np.ndarray:
        raise EmbeddingsUnsupported("canned")


async def main(mask_path: Path, out: Path) -> None:
    """Serve until killed; write where to ``out`` once everything is registered."""
    engine = CannedEngine(tifffile.imread(mask_path))
    token = secrets.token_urlsafe(48)
    with tempfile.TemporaryDirectory(prefix="samcourier-bench-") as directory:
        async with running_hypha(Path(directory), token) as (url, _hypha):

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
                found = asdict(address) | {"token": token}
                out.write_text(json.dumps(found))

            await serve(engine, ServeSettings(url, token), on_ready=ready, stop=asyncio.Event())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("mask", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    uvloop.run(main(options.mask, options.out))
