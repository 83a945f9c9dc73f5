"""The tests that every reader must pass."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ..errors import CourierError, ImageUnfit
from ..images.readers.open import find_reader, open_source
from ..images.readers.reader import HEAD_BYTES, READERS, Reader


class ReaderTests:
    """Subclass it as ``TestMyReader``, set ``name``, and implement :meth:`write`.

    Set ``axes``, ``dtype`` and ``shape`` to values that the format supports, with two planes or
    more if it supports several, and override :meth:`damage` if an image is a folder.
    """

    #: The name of the entry point.
    name: str
    #: The name of the image file; a reader that recognises files by their first bytes is also
    #: tested with another name.
    file_name: str
    shape: tuple[int, ...] = (3, 40, 56)
    dtype: str = "uint16"
    #: The axes that the source reports for :attr:`shape`, one letter per dimension.
    axes: str
    #: Largest accepted difference of a pixel; above 0 for a format with lossy compression.
    tolerance: float = 0.0

    def write(self, path: Path, pixels: npt.NDArray[Any]) -> None:
        """Write ``pixels``, of ``shape`` and ``dtype``, as an image of this format at ``path``."""
        raise NotImplementedError

    def damage(self, path: Path) -> None:
        """Damage the image at ``path`` so that some of its pixels cannot be read."""
        content = path.read_bytes()
        path.write_bytes(content[: max(len(content) // 2, HEAD_BYTES)])

    @pytest.fixture
    def pixels(self) -> npt.NDArray[Any]:
        """A smooth image whose planes differ, of ``shape`` and ``dtype``."""
        ramp = np.add.outer(np.arange(self.shape[0]), np.arange(int(np.prod(self.shape[1:]))) % 101)
        return ramp.reshape(self.shape).astype(self.dtype)

    @pytest.fixture
    def path(self, tmp_path: Path, pixels: npt.NDArray[Any]) -> Path:
        """The path of an image of this format with ``pixels``."""
        path = tmp_path / self.file_name
        self.write(path, pixels)
        return path

    def test_the_entry_point_names_a_valid_reader(self) -> None:
        reader = READERS.load(self.name)
        assert isinstance(reader, Reader) and reader.kind
        assert callable(pkgutil.resolve_name(reader.open))
        assert reader.magic or reader.suffixes or reader.folder_files
        assert all(0 < len(magic) <= HEAD_BYTES for magic in reader.magic)
        assert all(each.startswith(".") and each == each.lower() for each in reader.suffixes)

    def test_an_image_of_this_format_is_recognised(self, path: Path) -> None:
        assert find_reader(path).name == self.name

    def test_an_image_is_recognised_by_its_first_bytes_under_another_suffix(
        self, path: Path
    ) -> None:
        reader = READERS.load(self.name)
        if not reader.magic:
            pytest.skip("this reader recognises files by their suffix or folders by a file")
        assert find_reader(path.rename(path.with_name("plain.dat"))).name == self.name

    def test_the_source_reports_the_properties_of_the_image(self, path: Path) -> None:
        with open_source(path) as source:
            assert (source.axes, source.shape) == (self.axes, self.shape)
            assert source.dtype == np.dtype(self.dtype)
            assert len(source.axes) == len(source.shape)
            assert len(source.scene_names) >= 1
            assert set(source.geometry.letters) <= set("TZYX")
            for axis in source.geometry.axes:
                assert axis.scale is None or axis.scale > 0
            if "C" in source.axes and source.channel_names:
                assert len(source.channel_names) == source.shape[source.axes.index("C")]

    def test_the_pixels_read_equal_those_written(
        self, path: Path, pixels: npt.NDArray[Any]
    ) -> None:
        with open_source(path) as source:
            whole = source.read((slice(None),) * len(self.shape))
        assert isinstance(whole, np.ndarray) and whole.dtype == np.dtype(self.dtype)
        np.testing.assert_allclose(whole, pixels, rtol=0, atol=self.tolerance)

    def test_reading_a_part_returns_the_same_part_of_the_pixels(
        self, path: Path, pixels: npt.NDArray[Any]
    ) -> None:
        """An index has one integer or slice per dimension."""
        indices: list[tuple[int | slice, ...]] = [
            (0,) * (len(self.shape) - 2) + (slice(None), slice(None)),
            (self.shape[0] - 1,) + (slice(None),) * (len(self.shape) - 1),
            tuple(slice(size // 3, size - size // 4) for size in self.shape),
        ]
        with open_source(path) as source:
            for index in indices:
                part = source.read(index)
                expected = pixels[index]
                assert part.shape == expected.shape
                np.testing.assert_allclose(part, expected, rtol=0, atol=self.tolerance)

    def test_a_missing_scene_is_refused(self, path: Path) -> None:
        for scene in (99, "no such scene"):
            with pytest.raises(ImageUnfit, match=r"no scene.*expected"), open_source(path, scene):
                pass

    def test_a_damaged_image_is_refused_with_the_name_of_its_file(self, path: Path) -> None:
        self.damage(path)
        with pytest.raises(CourierError) as caught, open_source(path) as source:
            source.read((slice(None),) * len(source.shape))
        assert caught.value.kind in ("image", "unread")
        assert path.name in str(caught.value) and "\n" not in str(caught.value)
        assert "expected" in str(caught.value) or caught.value.kind == "unread"
