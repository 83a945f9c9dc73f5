"""The tests that an engine with stages must pass."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from samservice.contract.axes import MASK_AXES
from samservice.contract.errors import WrongParameter
from samservice.engines.base import Engine
from samservice.engines.stages import Prepared, StagedEngine, has_stages, infers_embeddings

Image = npt.NDArray[Any]


class StageTests:
    """The part of :class:`samcourier.testing.EngineTests` for engines that offer stages.

    An engine without stages skips these tests.
    """

    @pytest.fixture
    def stages(self, engine: Engine) -> StagedEngine:
        """The engine, as one with stages."""
        if not has_stages(engine):
            pytest.skip("the engine offers no stages")
        return engine

    @pytest.fixture
    def images(self, image: Image) -> list[Image]:
        """Images of several contents and sizes, some of them with equal sizes."""
        height, width = image.shape
        return [image, image[::-1], image[:, ::-1], image[: height // 2], image[:, : width // 2]]

    @pytest.mark.parametrize("axes", sorted(MASK_AXES))
    def test_the_stages_give_the_labels_of_segment(
        self, stages: StagedEngine, image: Image, axes: str
    ) -> None:
        given = _with_axes(image, axes)
        prepared = stages.prepare(given, axes, {})
        np.testing.assert_array_equal(given, _with_axes(image, axes))
        assert isinstance(prepared, Prepared)
        labels = stages.finish(_state(stages, prepared), {})
        assert labels.dtype == np.uint32
        np.testing.assert_array_equal(labels, stages.segment(given, axes, {}))

    def test_images_of_a_batch_have_the_labels_of_each_alone(
        self, stages: StagedEngine, images: list[Image]
    ) -> None:
        prepared = [stages.prepare(each, "YX", {}) for each in images]
        groups: dict[Hashable, list[int]] = {}
        for number, each in enumerate(prepared):
            assert isinstance(each, Prepared)
            key = number if each.batch_key is None else (each.batch_key,)
            groups.setdefault(key, []).append(number)
        for numbers in groups.values():
            together = [each for n in numbers if isinstance(each := prepared[n], Prepared)]
            limit = stages.max_batch(together[0].batch_key)
            assert limit >= 1
            for begin in range(0, len(numbers), limit):
                states = stages.infer(together[begin : begin + limit])
                assert len(states) == len(numbers[begin : begin + limit])
                for number, state in zip(numbers[begin:], states, strict=False):
                    expected = stages.segment(images[number], "YX", {})
                    np.testing.assert_array_equal(stages.finish(state, {}), expected)

    def test_an_image_that_may_not_be_batched_goes_alone(self, stages: StagedEngine) -> None:
        assert stages.max_batch(None) == 1

    def test_finish_with_other_parameters_uses_the_same_state(
        self, stages: StagedEngine, image: Image
    ) -> None:
        state = _state(stages, stages.prepare(image, "YX", {}))
        for parameters in _of_finish(stages.describe()):
            np.testing.assert_array_equal(
                stages.finish(state, parameters),
                stages.segment(image, "YX", parameters),
                err_msg=str(parameters),
            )
        np.testing.assert_array_equal(stages.finish(state, {}), stages.segment(image, "YX", {}))

    def test_changing_labels_does_not_change_the_state(
        self, stages: StagedEngine, image: Image
    ) -> None:
        state = _state(stages, stages.prepare(image, "YX", {}))
        first = stages.finish(state, {})
        expected = first.copy()
        first[:] = 7
        np.testing.assert_array_equal(stages.finish(state, {}), expected)

    @pytest.mark.parametrize("axes", ["YX", "ZYX"])
    def test_several_threads_prepare_and_finish_at_the_same_time(
        self, stages: StagedEngine, images: list[Image], axes: str
    ) -> None:
        given = [_with_axes(each, axes) for each in images]
        expected = [stages.segment(each, axes, {}) for each in given]
        with ThreadPoolExecutor(4) as threads:
            prepared = list(threads.map(lambda each: stages.prepare(each, axes, {}), given * 2))
            states = [_state(stages, each) for each in prepared[: len(images)]]
            # Each state is finished by two threads.
            labels = list(threads.map(lambda state: stages.finish(state, {}), states * 2))
        for found, wanted in zip(labels, expected * 2, strict=True):
            np.testing.assert_array_equal(found, wanted)

    def test_an_image_inferred_meanwhile_changes_no_state(
        self, stages: StagedEngine, images: list[Image]
    ) -> None:
        states = [_state(stages, stages.prepare(each, "YX", {})) for each in images]
        for state, image in reversed(list(zip(states, images, strict=True))):
            np.testing.assert_array_equal(stages.finish(state, {}), stages.segment(image, "YX", {}))

    def test_a_constant_image_is_finished_without_objects(self, stages: StagedEngine) -> None:
        prepared = stages.prepare(np.full((48, 64), 7, np.uint16), "YX", {})
        if isinstance(prepared, Prepared):
            prepared = stages.finish(_state(stages, prepared), {})
        assert prepared.shape == (48, 64) and not prepared.any()

    def test_an_unknown_parameter_is_refused_by_prepare(
        self, stages: StagedEngine, image: Image
    ) -> None:
        with pytest.raises(WrongParameter, match="no_such_parameter"):
            stages.prepare(image, "YX", {"no_such_parameter": 1})

    def test_an_embedding_in_stages_gives_the_same_labels(
        self, stages: StagedEngine, image: Image
    ) -> None:
        with_embeddings: Any = stages
        if not infers_embeddings(with_embeddings):
            pytest.skip("the engine does not infer embeddings")
        embedding = stages.encode(image, "YX")
        for parameters in ({}, *_of_finish(stages.describe())):
            prepared = with_embeddings.prepare_embedding(embedding, parameters)
            labels = stages.finish(_state(stages, prepared), parameters)
            np.testing.assert_array_equal(labels, stages.segment(image, "YX", parameters))

    def test_larger_images_hold_more_bytes(self, stages: StagedEngine) -> None:
        small, large = (stages.working_bytes((n, n), "YX") for n in (64, 128))
        assert isinstance(small, int) and 64 * 64 <= small < large
        assert stages.working_bytes((9, 64, 64), "ZYX") > small

    def test_describe_says_what_the_stages_depend_on(self, stages: StagedEngine) -> None:
        described = stages.describe()
        assert set(described["inference_parameters"]) <= set(described["parameters"])
        assert described.get("max_batch", 1) >= 1
        assert described.get("device_threads", 0) >= 0


def _with_axes(image: Image, axes: str) -> Image:
    sizes = {"C": 2, "Z": 3}
    copies = [*(sizes[axis] for axis in axes[:-2]), *image.shape]
    return np.array(np.broadcast_to(image, copies))


def _state(stages: StagedEngine, prepared: object) -> Any:
    assert isinstance(prepared, Prepared)
    (state,) = stages.infer([prepared])
    return state


def _of_finish(described: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield parameters, each with one value other than the default, that only finish uses."""
    for name, schema in described["parameters"].items():
        if name in described["inference_parameters"]:
            continue
        values = list(schema.get("enum", ()))
        if schema["type"] == "boolean":
            values += [True, False]
        limits = [schema[limit] for limit in ("minimum", "maximum") if limit in schema]
        if limits and isinstance(schema["default"], int | float):
            values += [type(schema["default"])((schema["default"] + limit) / 2) for limit in limits]
        for value in values:
            if value != schema["default"]:
                yield {name: value}
                break
