"""An engine with stages that does what a test tells it, and remembers what overlapped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from samservice.contract.errors import WrongParameter
from samservice.engines.stages import Prepared, segment_in_stages


class StagedEngine:
    """Labels pixels above ``level`` with the largest value of the image.

    Args:
        batch: The largest batch.
        on: {stage: called in the stage with its content}; it may wait, raise, or return a
            replacement of the stage's result.
    """

    def __init__(self, batch: int = 1, **on: Callable[[Any], Any]) -> None:
        self.batch = batch
        self.on = on
        self.batches: list[list[int]] = []
        self.device_threads: set[int] = set()
        self.entered: dict[str, int] = {"prepare": 0, "infer": 0, "finish": 0}
        self.most_at_once = dict(self.entered)
        self._now = dict(self.entered)
        self._lock = threading.Lock()

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "staged", "model": "none", "embeddings": False, "max_batch": self.batch,
            "inference_parameters": ["scale"], "device_threads": 0,
        }  # fmt: skip

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        if unknown := set(parameters) - {"level", "scale"}:
            raise WrongParameter(f"{sorted(unknown)} unknown, expected level, scale")

    def segment(
        self, image: np.ndarray, axes: str, parameters: dict[str, Any], statistics: Any = None
    ) -> np.ndarray:
        return segment_in_stages(self, image, axes, parameters, statistics)

    def prepare(
        self, image: np.ndarray, axes: str, parameters: dict[str, Any], statistics: Any = None
    ) -> Prepared | np.ndarray:
        def work() -> Prepared:
            content = image.astype(np.int64) * parameters.get("scale", 1)
            return Prepared(content, image.shape)

        return self._stage("prepare", image, work)  # type: ignore[no-any-return]

    def infer(self, prepared: Sequence[Prepared]) -> Sequence[Any]:
        self.device_threads.add(threading.get_ident())
        self.batches.append([int(each.content.max()) for each in prepared])
        work = lambda: [each.content.copy() for each in prepared]  # noqa: E731
        return self._stage("infer", [each.content for each in prepared], work)  # type: ignore[no-any-return]

    def finish(self, state: Any, parameters: dict[str, Any]) -> np.ndarray:
        def work() -> np.ndarray:
            return np.where(state > parameters.get("level", 0), state.max(), 0).astype(np.uint32)

        return self._stage("finish", state, work)  # type: ignore[no-any-return]

    def max_batch(self, batch_key: Hashable) -> int:
        return self.batch

    def working_bytes(self, shape: tuple[int, ...], axes: str) -> int:
        return 1 << 20

    def encode(self, image: np.ndarray, axes: str) -> dict[str, Any]:
        raise NotImplementedError

    def segment_embedding(self, embedding: dict[str, Any], parameters: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _stage(self, name: str, content: Any, work: Callable[[], Any]) -> Any:
        with self._lock:
            self.entered[name] += 1
            self._now[name] += 1
            self.most_at_once[name] = max(self.most_at_once[name], self._now[name])
        try:
            replaced = self.on[name](content) if name in self.on else None
            return work() if replaced is None else replaced
        finally:
            with self._lock:
                self._now[name] -= 1
