"""The tests that every engine must pass."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from samservice.contract.axes import MASK_AXES, mask_shape
from samservice.contract.engine_description import describe_engine
from samservice.contract.errors import EmbeddingsUnsupported, NotFinite, WrongParameter
from samservice.contract.identity import SERVICE_IDENTITY
from samservice.contract.parameters import parameter_problems
from samservice.engines.base import Engine, build_engine
from samservice.server.app import SegmentationService

from .engine_stages import StageTests

Image = npt.NDArray[Any]


class EngineTests(StageTests):
    """Subclass it as ``TestMyEngine`` and set ``name``.

    Override the fixture ``engine`` if the engine needs options, and the fixture ``image`` if it
    finds no objects in an image of bright discs on a dark, noisy background. An engine that offers
    the stages of :mod:`samservice.engines.stages` also runs the tests of
    :class:`samcourier.testing.engine_stages.StageTests`.
    """

    #: The name of the entry point, which is also ``describe()["engine"]``.
    name: str

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Engine:
        """The engine, built once for all tests of the class."""
        return build_engine(cls.name)

    @pytest.fixture
    def image(self) -> Image:
        """An image, (Y, X) uint16, in which the default parameters find two objects or more."""
        y, x = np.mgrid[:96, :128]
        centres = [(20, 24), (20, 80), (52, 50), (70, 100), (76, 24)]
        discs = np.any([(y - cy) ** 2 + (x - cx) ** 2 < 81 for cy, cx in centres], axis=0)
        noise = np.random.default_rng(7).normal(0, 4, discs.shape)
        return np.asarray(100 + 900 * discs + noise).astype(np.uint16)

    def test_the_entry_point_names_a_valid_description(self, engine: Engine) -> None:
        description = describe_engine(self.name)
        assert description.name == engine.describe()["engine"] == self.name
        assert description.summary and "\n" not in description.summary
        assert json.loads(json.dumps(description.options)) == description.options
        for option, schema in description.options.items():
            default = schema["default"]
            assert default is None or not parameter_problems({option: default}, {option: schema})
        if description.parameters is not None:
            # Described before the engine is built, for the options by default.
            assert description.parameters({}) in (None, engine.describe()["parameters"])

    def test_describe_returns_the_required_fields(self, engine: Engine) -> None:
        described = engine.describe()
        assert json.loads(json.dumps(described)) == described
        assert set(SERVICE_IDENTITY) <= described.keys()
        assert isinstance(described["model"], str) and described["model"]
        assert described["model_sha256"] is None or len(described["model_sha256"]) == 64
        assert isinstance(described["segmentation_version"], int)
        assert all(isinstance(version, str) for version in described["versions"].values())
        assert isinstance(described["embeddings"], bool)
        assert isinstance(described["device"], str)
        assert engine.describe() == described

    def test_changing_the_answer_of_describe_does_not_change_the_engine(
        self, engine: Engine
    ) -> None:
        expected = engine.describe()
        changed = engine.describe()
        for schema in changed["parameters"].values():
            schema["default"] = "changed"
        changed["versions"].clear()
        assert engine.describe() == expected

    def test_every_parameter_has_a_description_and_accepts_its_default_and_limits(
        self, engine: Engine
    ) -> None:
        for name, schema in engine.describe()["parameters"].items():
            assert schema["description"], name
            for value in (
                schema[key] for key in ("default", "minimum", "maximum") if key in schema
            ):
                engine.check_parameters({name: value})
            for value in schema.get("enum", ()):
                engine.check_parameters({name: value})

    def test_an_unknown_parameter_is_refused_with_the_known_ones(
        self, engine: Engine, image: Image
    ) -> None:
        unknown = {"no_such_parameter": 1}
        for refuse in (engine.check_parameters, lambda p: engine.segment(image, "YX", p)):
            with pytest.raises(WrongParameter) as caught:
                refuse(unknown)
            for name in ("no_such_parameter", *engine.describe()["parameters"]):
                assert name in caught.value.message

    @pytest.mark.parametrize("axes", sorted(MASK_AXES))
    def test_labels_have_the_images_shape_and_count_from_1_without_gaps(
        self, engine: Engine, image: Image, axes: str
    ) -> None:
        """Channels and depths are copies of the image."""
        sizes = {"C": 2, "Z": 3}
        given = np.broadcast_to(image, [*(sizes[axis] for axis in axes[:-2]), *image.shape])
        labels = engine.segment(np.ascontiguousarray(given), axes, {})
        assert isinstance(labels, np.ndarray) and labels.dtype == np.uint32
        assert labels.shape == mask_shape(given.shape, axes)
        ids = np.unique(labels)
        assert ids.max() >= 2
        np.testing.assert_array_equal(ids[ids > 0], np.arange(1, ids.max() + 1))

    def test_segment_changes_neither_the_image_nor_labels_returned_earlier(
        self, engine: Engine, image: Image
    ) -> None:
        given = image.copy()
        first = engine.segment(given, "YX", {})
        np.testing.assert_array_equal(given, image)
        expected = first.copy()
        first[:] = 7
        np.testing.assert_array_equal(engine.segment(given, "YX", {}), expected)

    def test_a_read_only_image_is_segmented(self, engine: Engine, image: Image) -> None:
        expected = engine.segment(image.copy(), "YX", {})
        image.flags.writeable = False
        np.testing.assert_array_equal(engine.segment(image, "YX", {}), expected)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64", ">u2"])
    def test_every_pixel_type_is_segmented(self, engine: Engine, image: Image, dtype: str) -> None:
        scaled = image if dtype != "uint8" else image // (image.max() // 255 + 1)
        assert engine.segment(scaled.astype(dtype), "YX", {}).max() >= 2

    def test_the_same_image_gives_the_same_labels(self, engine: Engine, image: Image) -> None:
        first = engine.segment(image, "YX", {})
        np.testing.assert_array_equal(engine.segment(image, "YX", {}), first)

    @pytest.mark.parametrize("value", [0, 7, 65535])
    def test_a_constant_image_has_no_objects(self, engine: Engine, value: int) -> None:
        labels = engine.segment(np.full((48, 64), value, np.uint16), "YX", {})
        assert labels.shape == (48, 64) and not labels.any()

    def test_the_service_returns_the_same_labels_and_refuses_nan(
        self, engine: Engine, image: Image
    ) -> None:
        service = SegmentationService(engine)
        with_nan = image.astype(np.float32)
        with_nan[3, 5] = np.nan

        async def segment_both() -> Image:
            with pytest.raises(NotFinite):
                await service.segment_all(with_nan, axes="YX")
            return np.asarray(await service.segment_all(image, axes="YX"))

        try:
            labels = asyncio.run(segment_both())
        finally:
            service.close()
        np.testing.assert_array_equal(labels, engine.segment(image, "YX", {}))

    def test_embeddings_give_the_same_labels_or_are_refused(
        self, engine: Engine, image: Image
    ) -> None:
        if engine.describe()["embeddings"]:
            labels = engine.segment_embedding(engine.encode(image, "YX"), {})
            np.testing.assert_array_equal(labels, engine.segment(image, "YX", {}))
            return
        with pytest.raises(EmbeddingsUnsupported):
            engine.encode(image, "YX")
        with pytest.raises(EmbeddingsUnsupported):
            engine.segment_embedding({}, {})
