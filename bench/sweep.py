"""The CPU seconds of a sweep of 12 parameter sets on one image, against those of one set.

    .venv-microsam/bin/python bench/sweep.py                    # random weights of vit_b, 2048 px
    .venv-microsam/bin/python bench/sweep.py --model FILE --side 512 --repeats 5

The service runs in this process, with images packed as on the wire and no network. One set and 12
sets take turns, each on an image of its own. ``--whole`` also measures 12 calls with pixels.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from samservice.contract.image_reference import image_reference, pixels_sha256
from samservice.contract.wire import pack_array, unpack_array
from samservice.engines import microsam_api
from samservice.engines.base import build_engine
from samservice.server.app import SegmentationService
from samservice.server.state_cache import state_bytes

CALLER = {"user": {"id": "bench"}}
#: Those of micro-sam's ``ais``.
SETS = [
    {"center_distance_threshold": center, "foreground_threshold": foreground}
    for center in (0.3, 0.4, 0.5, 0.6)
    for foreground in (0.4, 0.5, 0.6)
]


def image(seed: int, side: int) -> np.ndarray:
    """Return blobs of about 20 px, uint16 (Y, X)."""
    noise = np.random.default_rng(seed).standard_normal((side, side))
    smooth = ndimage.gaussian_filter(noise, 8)
    return (np.clip(smooth / smooth.std(), 0, None) * 8000 + 500).astype(np.uint16)


def random_vit_b(folder: Path) -> Path:
    """Write a checkpoint of vit_b with a decoder, both with random weights."""
    import torch
    from torch_em.model import UNETR

    torch.manual_seed(0)
    sam = microsam_api.build_sam().build_sam_vit_b()
    unetr = UNETR(encoder=sam.image_encoder, out_channels=3, use_skip_connection=False)
    weights = {f"sam.{name}": value for name, value in sam.state_dict().items()}
    decoder = {
        name: value for name, value in unetr.state_dict().items() if not name.startswith("encoder")
    }
    path = folder / "random_vit_b.pt"
    torch.save({"model_state": weights, "decoder_state": decoder}, path)
    return path


async def run_set(service: SegmentationService, pixels: np.ndarray, **arguments: Any) -> Any:
    return await service.segment_all(
        pack_array(pixels, "blosc-lz4"), axes="YX", context=CALLER, **arguments
    )


async def sweep(service: SegmentationService, pixels: np.ndarray) -> list[np.ndarray]:
    """Return the labels of each set, with one use of the model."""
    first = await run_set(service, pixels, keep_state=True, **SETS[0])
    assert first["state_kept"]
    reference = image_reference(pixels_sha256(pixels, "YX"), pixels.shape)
    others = [
        await service.segment_all(reference, axes="YX", context=CALLER, **each) for each in SETS[1:]
    ]
    return [unpack_array(each["mask"], 1 << 30) for each in (first, *others)]


async def measure(options: argparse.Namespace, engine: Any) -> None:
    service = SegmentationService(engine)
    pairs = []
    for repeat in range(options.repeats):
        start_s = time.process_time()
        one = await run_set(service, image(2 * repeat, options.side), **SETS[0])
        one_s = time.process_time() - start_s
        pixels = image(2 * repeat + 1, options.side)
        start_s = time.process_time()
        swept = await sweep(service, pixels)
        pairs.append((one_s, time.process_time() - start_s))
        print(
            f"one set {one_s:.2f} CPU-s, {len(SETS)} sets {pairs[-1][1]:.2f} CPU-s, "
            f"x{pairs[-1][1] / one_s:.2f}; {one['object_count']} objects",
            flush=True,
        )
    ratio = statistics.median(twelve / one for one, twelve in pairs)
    kept = next(iter(service._states._states.values()))[0]
    print(f"median of {len(pairs)}: x{ratio:.2f}; a state has {state_bytes(kept) / 2**20:.1f} MiB")
    if options.whole:
        start_s = time.process_time()
        whole = [await run_set(service, pixels, **each) for each in SETS]
        print(f"{len(SETS)} sets with pixels {time.process_time() - start_s:.2f} CPU-s")
        equal = [
            np.array_equal(unpack_array(each["mask"], 1 << 30), labels)
            for each, labels in zip(whole, swept, strict=True)
        ]
        print(f"{sum(equal)} of {len(equal)} masks are equal")
    service.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a checkpoint of the tests' small model")
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.model is not None:
            sys.path.insert(0, str(Path(__file__).parents[1] / "tests/microsam/plugin"))
            name, chosen = "microsam-small", {"checkpoint": str(options.model)}
        else:
            name = "microsam"
            chosen = {"model": "vit_b", "checkpoint": str(random_vit_b(Path(folder)))}
        engine = build_engine(name, {**chosen, "device": "cpu"})
        asyncio.run(measure(options, engine))


if __name__ == "__main__":
    main()
