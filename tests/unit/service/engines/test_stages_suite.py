"""The suite for engines with stages passes a right engine and fails each wrong one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from samcourier.testing import EngineTests
from samcourier.testing.engine_stages import StageTests
from samservice.contract.errors import EmbeddingsUnsupported
from samservice.contract.parameters import check_parameters
from samservice.engines.stages import Prepared, segment_in_stages

PARAMETERS = {
    "scale": {
        "default": 1.0,
        "type": "number",
        "minimum": 0.5,
        "maximum": 2.0,
        "description": "factor of the pixels before the device",
    },
    "level": {
        "default": 0.5,
        "type": "number",
        "minimum": 0.0,
        "maximum": 1.0,
        "description": "threshold between the darkest and the brightest pixel",
    },
    "connectivity": {
        "default": 1,
        "type": "integer",
        "minimum": 1,
        "maximum": 2,
        "description": "of the pixels of an object",
    },
}


class Staged:
    """A threshold in stages, in batches of up to three images of one shape."""

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "staged",
            "model": "threshold",
            "model_sha256": None,
            "segmentation_version": 1,
            "versions": {"numpy": np.__version__},
            "embeddings": True,
            "device": "cpu",
            "parameters": {name: dict(schema) for name, schema in PARAMETERS.items()},
            "inference_parameters": ["scale"],
            "max_batch": 3,
        }

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        check_parameters(parameters, PARAMETERS)

    def prepare(
        self, image: Any, axes: str, parameters: dict[str, Any], statistics: Any = None
    ) -> Any:
        self.check_parameters(parameters)
        gray = image.astype(np.float64)
        if "C" in axes:
            gray = gray.mean(axis=axes.index("C"))
        if gray.min() == gray.max():
            return np.zeros(gray.shape, np.uint32)
        return Prepared(gray * parameters.get("scale", 1.0), gray.shape)

    def infer(self, prepared: Sequence[Prepared]) -> list[Any]:
        low = [each.content.min() for each in prepared]
        return [
            (each.content - least) / (each.content.max() - least)
            for each, least in zip(prepared, low, strict=True)
        ]

    def finish(self, state: Any, parameters: dict[str, Any]) -> Any:
        bright = state > parameters.get("level", 0.5)
        structure = ndimage.generate_binary_structure(state.ndim, parameters.get("connectivity", 1))
        return ndimage.label(bright, structure)[0].astype(np.uint32)

    def segment(
        self, image: Any, axes: str, parameters: dict[str, Any], statistics: Any = None
    ) -> Any:
        return segment_in_stages(Staged(), image, axes, parameters, statistics)

    def max_batch(self, batch_key: Hashable) -> int:
        return 1 if batch_key is None else 3

    def working_bytes(self, shape: tuple[int, ...], axes: str) -> int:
        return int(np.prod(shape)) * 16

    def encode(self, image: Any, axes: str) -> dict[str, Any]:
        return {"image": np.array(image)}

    def prepare_embedding(self, embedding: dict[str, Any], parameters: dict[str, Any]) -> Any:
        return self.prepare(embedding["image"], "YX", parameters)

    def segment_embedding(self, embedding: dict[str, Any], parameters: dict[str, Any]) -> Any:
        if not embedding:
            raise EmbeddingsUnsupported("no embedding")
        return self.segment(embedding["image"], "YX", parameters)


class TestStaged(StageTests):
    @pytest.fixture
    def engine(self) -> Staged:
        return Staged()

    image = EngineTests.image


class DependsOnItsBatch(Staged):
    def infer(self, prepared: Sequence[Prepared]) -> list[Any]:
        return [state * (1 if len(prepared) == 1 else 0.6) for state in super().infer(prepared)]


class LosesAnImage(Staged):
    def infer(self, prepared: Sequence[Prepared]) -> list[Any]:
        return super().infer(prepared)[:1]


class ChangesItsState(Staged):
    def finish(self, state: Any, parameters: dict[str, Any]) -> Any:
        labels = super().finish(state, parameters)
        state *= parameters.get("level", 0.5)
        return labels


class ReturnsItsState(Staged):
    def infer(self, prepared: Sequence[Prepared]) -> list[Any]:
        return [super(ReturnsItsState, self).finish(state, {}) for state in super().infer(prepared)]

    def finish(self, state: Any, parameters: dict[str, Any]) -> Any:
        return state


class ForgetsAParameter(Staged):
    def finish(self, state: Any, parameters: dict[str, Any]) -> Any:
        return super().finish(state, {**parameters, "level": 0.5})


class SharesOneState(Staged):
    def infer(self, prepared: Sequence[Prepared]) -> list[Any]:
        self._state = super().infer(prepared)[-1]
        return [None] * len(prepared)

    def finish(self, state: Any, parameters: dict[str, Any]) -> Any:
        return super().finish(self._state, parameters)


class IsNotThreadSafe(Staged):
    """Two calls of finish that overlap get the labels of one of them."""

    def __init__(self) -> None:
        self._both = threading.Barrier(2)

    def finish(self, state: Any, parameters: dict[str, Any]) -> Any:
        self._state = state
        if threading.current_thread() is not threading.main_thread():
            self._both.wait(10)
        return super().finish(self._state, parameters)


class ChangesTheImage(Staged):
    def prepare(
        self, image: Any, axes: str, parameters: dict[str, Any], statistics: Any = None
    ) -> Any:
        prepared = super().prepare(image, axes, parameters, statistics)
        image[...] = 0
        return prepared


class BatchesWithoutAKey(Staged):
    def max_batch(self, batch_key: Hashable) -> int:
        return 3


class KnowsEveryParameter(Staged):
    def check_parameters(self, parameters: dict[str, Any]) -> None:
        pass


class IgnoresTheParametersOfAnEmbedding(Staged):
    def prepare_embedding(self, embedding: dict[str, Any], parameters: dict[str, Any]) -> Any:
        return self.prepare(embedding["image"][::-1], "YX", parameters)


WRONG: list[tuple[type[Staged], str, dict[str, Any]]] = [
    (DependsOnItsBatch, "test_images_of_a_batch_have_the_labels_of_each_alone", {}),
    (LosesAnImage, "test_images_of_a_batch_have_the_labels_of_each_alone", {}),
    (ChangesItsState, "test_finish_with_other_parameters_uses_the_same_state", {}),
    (ReturnsItsState, "test_changing_labels_does_not_change_the_state", {}),
    (ForgetsAParameter, "test_finish_with_other_parameters_uses_the_same_state", {}),
    (SharesOneState, "test_an_image_inferred_meanwhile_changes_no_state", {}),
    (
        IsNotThreadSafe,
        "test_several_threads_prepare_and_finish_at_the_same_time",
        {"axes": "YX"},
    ),
    (ChangesTheImage, "test_the_stages_give_the_labels_of_segment", {"axes": "YX"}),
    (BatchesWithoutAKey, "test_an_image_that_may_not_be_batched_goes_alone", {}),
    (KnowsEveryParameter, "test_an_unknown_parameter_is_refused_by_prepare", {}),
    (
        IgnoresTheParametersOfAnEmbedding,
        "test_an_embedding_in_stages_gives_the_same_labels",
        {},
    ),
]


@pytest.mark.parametrize(("wrong", "test", "more"), WRONG, ids=[each[0].__name__ for each in WRONG])
def test_a_wrong_engine_fails(wrong: Callable[[], Staged], test: str, more: dict[str, Any]) -> None:
    image = np.zeros((40, 60), np.uint16)
    image[5:15, 5:15], image[20:30, 30:50], image[30, 50] = 300, 900, 600
    height, width = image.shape
    images = [image, image[::-1], image[:, ::-1], image[: height // 2], image[:, : width // 2]]
    arguments = {"image": image, "images": images, **more}
    function = getattr(StageTests, test)
    names = function.__code__.co_varnames[1 : function.__code__.co_argcount]
    given = {name: arguments[name] for name in names if name != "stages"}
    function(StageTests(), stages=Staged(), **given)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        function(StageTests(), stages=wrong(), **given)
