"""Engines with stages whose device is a sleep, for benchmarks on a machine without a GPU.

The device sleeps as long as a GPU computes. What follows it is a sleep too, which takes no core, or
the real ``generate`` of micro-sam's AIS on maps as its decoder gives them, or memory alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from samservice.contract.errors import EmbeddingsUnsupported
from samservice.engines import microsam_api
from samservice.engines.microsam_stages import ModelState, finished, working_bytes
from samservice.engines.stages import Prepared, segment_in_stages

#: Maps are drawn at this size and repeated with flips.
_PATCH_PX = 512
_DRAWN_PER_PATCH = 300
_NOISE = 0.03


@dataclass(frozen=True)
class StageSeconds:
    """How long each stage of an image sleeps."""

    prepare: float
    infer: float
    finish: float


class SegmentOnly:
    """The same engine without its stages."""

    def __init__(self, engine: SleepingEngine) -> None:
        self.describe = engine.describe
        self.check_parameters = engine.check_parameters
        self.segment = engine.segment
        self.encode = engine.encode
        self.segment_embedding = engine.segment_embedding


class SleepingEngine:
    """Sleeps in each stage and returns a mask with one object.

    ``device_spans`` gets begin and end of each call of the device, by time.monotonic().
    """

    def __init__(self, seconds: StageSeconds, max_batch: int = 1) -> None:
        self._seconds = seconds
        self._max_batch = max_batch
        self.device_spans: list[tuple[float, float]] = []

    def describe(self) -> dict[str, Any]:
        return {"engine": "sleeping", "model": "sleeping", "model_sha256": None} | {
            "segmentation_version": 1,
            "versions": {},
            "embeddings": False,
            "device": "cpu",
            "parameters": {},
            "inference_parameters": [],
            "max_batch": self._max_batch,
            "device_threads": 0,
        }

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        pass

    def segment(
        self, image: np.ndarray, axes: str, parameters: dict[str, Any], statistics: Any = None
    ) -> np.ndarray:
        return segment_in_stages(self, image, axes, parameters, statistics)

    def prepare(
        self, image: np.ndarray, axes: str, parameters: dict[str, Any], statistics: Any = None
    ) -> Prepared | np.ndarray:
        time.sleep(self._seconds.prepare)
        return Prepared(image.shape, "any")

    def infer(self, prepared: Sequence[Prepared]) -> list[Any]:
        begin_s = time.monotonic()
        time.sleep(self._seconds.infer * len(prepared))
        self.device_spans.append((begin_s, time.monotonic()))
        return [each.content for each in prepared]

    def finish(self, state: Any, parameters: dict[str, Any]) -> np.ndarray:
        time.sleep(self._seconds.finish)
        mask = np.zeros(state, np.uint32)
        mask[:8, :8] = 1
        return mask

    def max_batch(self, batch_key: Hashable) -> int:
        return self._max_batch

    def working_bytes(self, shape: tuple[int, ...], axes: str) -> int:
        return working_bytes(shape, axes, "ais")

    def encode(self, image: np.ndarray, axes: str) -> dict[str, Any]:
        raise EmbeddingsUnsupported("sleeping")

    def segment_embedding(
        self, embedding: dict[str, Any], parameters: dict[str, Any]
    ) -> np.ndarray:
        raise EmbeddingsUnsupported("sleeping")


class AllocatingEngine(SleepingEngine):
    """Sleeps, and holds meanwhile the bytes that AIS declares in ``working_bytes``."""

    def prepare(
        self, image: np.ndarray, axes: str, parameters: dict[str, Any], statistics: Any = None
    ) -> Prepared | np.ndarray:
        scratch = np.ones((12, *image.shape), np.uint8)
        time.sleep(self._seconds.prepare)
        return Prepared(scratch.shape[1:], "any")

    def infer(self, prepared: Sequence[Prepared]) -> list[Any]:
        return [np.ones((3, *shape), np.float32) for shape in super().infer(prepared)]

    def finish(self, state: Any, parameters: dict[str, Any]) -> np.ndarray:
        scratch = np.ones((33, *state.shape[1:]), np.uint8)
        return super().finish(scratch.shape[1:], parameters)


class GenerateEngine(SleepingEngine):
    """Sleeps on the device; ``finish`` is ``generate`` of micro-sam's AIS."""

    def __init__(self, seconds: StageSeconds, max_batch: int = 1) -> None:
        super().__init__(seconds, max_batch)
        classes = microsam_api.instance_segmentation()
        self._blank = classes.InstanceSegmentationWithDecoder(None, None)
        self._maps: dict[tuple[int, ...], dict[str, np.ndarray]] = {}

    def draw_maps(self, size_px: int) -> None:
        """Draw the maps that the device returns for images of this size."""
        self._maps[(size_px, size_px)] = nuclei_maps(size_px)

    def infer(self, prepared: Sequence[Prepared]) -> list[Any]:
        # As from a real device, each state is memory of its own.
        return [
            ModelState(shape, (0,), (copy.deepcopy(self._maps[shape]),))
            for shape in super().infer(prepared)
        ]

    def finish(self, state: Any, parameters: dict[str, Any]) -> np.ndarray:
        return finished(state, self._blank, {}, {}, {})


def nuclei_maps(size_px: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Return the state of AIS for a square of drawn nuclei, a multiple of 512 px a side.

    Three (Y, X) float32 maps in 0..1: ``foreground``; ``center_distances``, 0 at the centre of an
    object; ``boundary_distances``, 0 at its middle and 1 at its boundary; all with a little noise.
    """
    rng = np.random.default_rng(seed)
    labels = _drawn_nuclei(rng)
    inside = labels > 0
    depth = ndimage.distance_transform_edt(ndimage.minimum_filter(labels, 3) == labels) * inside
    numbers = np.arange(1, labels.max() + 1)
    deepest = np.concatenate([[1.0], ndimage.maximum(depth, labels, numbers)])[labels]
    centres = np.array(ndimage.center_of_mass(inside, labels, numbers))
    own = np.concatenate([[[0.0, 0.0]], centres])[labels]
    rows, columns = np.indices(labels.shape)
    away = np.hypot(rows - own[..., 0], columns - own[..., 1]) * inside
    farthest = np.concatenate([[1.0], ndimage.maximum(away, labels, numbers)])[labels]
    maps = {
        "foreground": inside.astype(np.float32),
        "center_distances": np.where(inside, away / farthest, 1.0),
        "boundary_distances": np.where(inside, 1.0 - depth / deepest, 1.0),
    }
    return {name: _repeated(values, size_px, rng) for name, values in maps.items()}


def _drawn_nuclei(rng: np.random.Generator) -> np.ndarray:
    """Return (Y, X) labels 1..N of ellipses, some of which touch, none cut by the edge."""
    labels = np.zeros((_PATCH_PX, _PATCH_PX), np.int32)
    rows, columns = np.indices(labels.shape)
    for _ in range(_DRAWN_PER_PATCH):
        y, x = rng.uniform(20, _PATCH_PX - 20, 2)
        a, b = rng.uniform(9, 17, 2)
        turn = rng.uniform(0, np.pi)
        along = (rows - y) * np.cos(turn) + (columns - x) * np.sin(turn)
        across = (columns - x) * np.cos(turn) - (rows - y) * np.sin(turn)
        ellipse = (along / a) ** 2 + (across / b) ** 2 < 1
        if (labels[ellipse] > 0).mean() < 0.1:
            labels[ellipse & (labels == 0)] = labels.max() + 1
    return labels


def _repeated(patch: np.ndarray, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Return the patch and its flips side by side, smoothed, with noise, float32 in 0..1."""
    pair = np.concatenate([patch, patch[:, ::-1]], axis=1)
    block = np.concatenate([pair, pair[::-1]], axis=0)
    times = -(-size_px // block.shape[0])
    whole = ndimage.gaussian_filter(np.tile(block, (times, times))[:size_px, :size_px], 0.7)
    whole = whole + rng.normal(0, _NOISE, whole.shape)
    return np.clip(whole, 0, 1).astype(np.float32)
