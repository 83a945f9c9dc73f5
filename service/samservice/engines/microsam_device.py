"""The device's stage of micro-sam: its encoder, its decoder, and what else needs the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..contract.errors import ServiceError
from . import microsam_api
from .microsam_batches import affordable_batch, batch_size, largest_equal_batch, random_planes
from .microsam_errors import is_out_of_memory, micro_sam_failed, out_of_memory
from .microsam_input import EncoderInput, bytes_as_they_are
from .microsam_options import BFLOAT16
from .microsam_stages import ModelInput, ModelState, PlaneFeatures, ScaledPlane

R = TypeVar("R")

#: The keys of the state of an ``InstanceSegmentationWithDecoder`` (1.8), in the decoder's order.
_MAPS = ("foreground", "center_distances", "boundary_distances")

Maps = dict[str, npt.NDArray[np.float32]]


class MicroSamDevice:
    """Runs the model on its device. Only one thread may call it.

    Args:
        predictor: micro-sam's predictor.
        segmenter: micro-sam's segmenter.
        mode: ``ais``, ``amg`` or ``apg``.
        tiling: ``tile_shape`` and ``halo`` of micro-sam's own tiles, or nothing.
        dtype: ``float32`` or ``bfloat16``, of the encoder and of the decoder of AIS and APG. The
            other layers, and all results, are float32.
    """

    def __init__(
        self,
        predictor: Any,
        segmenter: Any,
        mode: str,
        tiling: dict[str, tuple[int, int]],
        dtype: str,
    ) -> None:
        self._predictor = predictor
        self._segmenter = segmenter
        self._mode = mode
        self._tiling = tiling
        #: The most planes that go through encoder and decoder together, a power of two.
        self.max_batch = 1
        if dtype == BFLOAT16:
            _compute_in_bfloat16(predictor.model.image_encoder, "forward", predictor.device.type)
            if mode != "amg":
                _compute_in_bfloat16(segmenter._decoder, "_forward_impl", predictor.device.type)

    @property
    def is_batched(self) -> bool:
        """Whether planes go through encoder and decoder together: AIS without tiles."""
        return self._mode == "ais" and not self._tiling

    def choose_batch(self) -> str | None:
        """Set ``max_batch``; return why there are no batches, None if there are."""
        device = self._predictor.device
        if not self.is_batched:
            tiles = " with tiles" if self._tiling else ""
            return f"off: with the mode {self._mode}{tiles}, images go alone"
        if device.type != "cuda":
            return f"off: not supported on {device.type}"
        side_px = int(self._predictor.model.image_encoder.img_size)
        one = random_planes(1, side_px)
        try:
            affordable = affordable_batch(lambda: self._maps(one), device)
            self.max_batch = largest_equal_batch(self._maps, side_px, affordable)
        except MemoryError as error:
            return f"off: {error}"
        if affordable == 1:
            return "off: the memory of the device suffices for one image"
        if self.max_batch == 1:
            return "off: on this device an image gives other values in a batch than alone"
        return None

    def infer(self, inputs: Sequence[ModelInput]) -> list[ModelState]:
        """Return the state of each image, in the memory of the CPU.

        Raises MemoryError when the device's memory does not suffice, SegmentationFailed.
        """
        states = self._states_in_batches if self.is_batched else self._states_one_by_one
        return self._translating_errors(
            lambda: [
                ModelState(each.shape, each.shown, tuple(planes))
                for each, planes in zip(inputs, states(inputs), strict=True)
            ],
            [each.shape for each in inputs],
        )

    def encode(self, plane: ScaledPlane) -> npt.NDArray[np.float32]:
        """Return the encoder's output of a plane, (1, 256, N, N).

        Raises MemoryError, SegmentationFailed.
        """

        def encoded() -> npt.NDArray[np.float32]:
            import torch

            with torch.no_grad():
                return np.asarray(self._features([plane]).cpu().numpy(), np.float32)

        return self._translating_errors(encoded, [plane.original_size])

    def maps(self, planes: Sequence[ScaledPlane | PlaneFeatures]) -> list[Maps]:
        """Return the state of each plane, all inferred together; only where ``is_batched``.

        The steps are those of ``InstanceSegmentationWithDecoder.initialize`` (1.8), for several
        planes at once as in ``TiledInstanceSegmentationWithDecoder._predict_decoder``.
        """
        import torch

        decoder = self._segmenter._decoder

        def at_full_size(decoded: Any, plane: ScaledPlane | PlaneFeatures) -> Any:
            maps = decoder.postprocess_masks(decoded, plane.input_size, plane.original_size)
            return maps.cpu().numpy().squeeze(0)

        with torch.no_grad():
            decoded = decoder._forward_impl(self._features(planes))
            # One plane after the other: their sizes differ, and they are large.
            return [
                dict(zip(_MAPS, at_full_size(decoded[n : n + 1], plane), strict=True))
                for n, plane in enumerate(planes)
            ]

    def _maps(self, planes: Sequence[ScaledPlane | PlaneFeatures]) -> list[Maps]:
        """Return :meth:`maps`, or raise MemoryError or a ServiceError."""
        return self._translating_errors(
            partial(self.maps, planes), [plane.original_size for plane in planes]
        )

    def _features(self, planes: Sequence[ScaledPlane | PlaneFeatures]) -> Any:
        """Return the encoder's output of all planes, (planes, 256, N, N), on the device.

        The steps are those of ``micro_sam.util._compute_embeddings_batched`` (1.8).
        """
        import torch

        device, model = self._predictor.device, self._predictor.model
        known = [plane.features for plane in planes if isinstance(plane, PlaneFeatures)]
        if known:
            return torch.cat([torch.from_numpy(features).to(device) for features in known])
        tensors = []
        for plane in planes:
            assert isinstance(plane, ScaledPlane)
            tensor = torch.as_tensor(plane.pixels, device=device)
            tensors.append(model.preprocess(tensor.permute(2, 0, 1).contiguous()[None]))
        return model.image_encoder(torch.cat(tensors))

    def _states_in_batches(self, inputs: Sequence[ModelInput]) -> Iterator[list[Maps]]:
        """Yield the states of the planes of each image.

        A batch that exceeds the memory is halved, and so are all later ones.
        """
        planes = [plane for each in inputs for plane in _planes_of(each)]
        states: list[Maps] = []
        while left := planes[len(states) :]:
            size = batch_size(len(left), self.max_batch)
            try:
                states += self._maps(left[:size])
            except MemoryError:
                if size == 1:
                    raise
                self.max_batch = size // 2
        remaining = iter(states)
        return ([next(remaining) for _ in _planes_of(each)] for each in inputs)

    def _states_one_by_one(self, inputs: Sequence[ModelInput]) -> Iterator[list[Any]]:
        return (self._states_of_image(each) for each in inputs)

    def _states_of_image(self, given: ModelInput) -> list[Any]:
        """Return the states of an image's planes, made by micro-sam's ``initialize``.

        The steps are those of ``micro_sam.automatic_segmentation.automatic_instance_segmentation``
        and ``micro_sam.multi_dimensional_segmentation.automatic_3d_segmentation`` (1.8).
        """
        try:
            if isinstance(given.source, PlaneFeatures):
                return [self._state(given, None, vars(given.source), None)]
            assert isinstance(given.source, EncoderInput)
            with bytes_as_they_are(given.source.is_final):
                return self._states_of(given, given.source)
        finally:
            self._predictor.reset_image()
            self._segmenter.clear_state()
            # clear_state does not delete the features that the tiled segmenters keep of every tile.
            if hasattr(self._segmenter, "_image_embeddings"):
                self._segmenter._image_embeddings = None

    def _states_of(self, given: ModelInput, source: EncoderInput) -> list[Any]:
        is_volume = len(given.shape) == 3
        pixels = source.pixels[list(given.shown)] if is_volume else source.pixels
        embeddings = microsam_api.util().precompute_image_embeddings(
            self._predictor, pixels, ndim=len(given.shape), verbose=False, **self._tiling
        )
        if not is_volume:
            return [self._state(given, pixels, embeddings, None)]
        return [self._state(given, plane, embeddings, i) for i, plane in enumerate(pixels)]

    def _state(self, given: ModelInput, plane: Any, embeddings: Any, number: int | None) -> Any:
        """Return the segmenter's state of a plane; in mode APG, whose ``generate`` uses the device,
        the labels."""
        self._segmenter.initialize(plane, image_embeddings=embeddings, verbose=False, i=number)
        if self._mode == "apg":
            return np.asarray(self._segmenter.generate(**given.generate))
        state = self._segmenter.get_state()
        for crop in state.get("crop_list", ()):
            for name, value in crop.items():
                crop[name] = value.cpu() if hasattr(value, "cpu") else value
        return state

    def _translating_errors(self, call: Callable[[], R], shapes: Sequence[tuple[int, ...]]) -> R:
        """Return the result of ``call``, or raise MemoryError or a ServiceError."""
        try:
            return call()
        except ServiceError:
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                raise micro_sam_failed(error) from error
        # Not in the except clause: its error refers to what fills the memory.
        self._free_memory()
        raise MemoryError(out_of_memory(str(self._predictor.device), shapes))

    def _free_memory(self) -> None:
        import torch

        if self._predictor.device.type == "cuda":
            torch.cuda.empty_cache()


def _planes_of(given: ModelInput) -> tuple[ScaledPlane | PlaneFeatures, ...]:
    if isinstance(given.source, PlaneFeatures):
        return (given.source,)
    assert isinstance(given.source, tuple)
    return given.source


def _compute_in_bfloat16(module: Any, method: str, device: str) -> None:
    """Let a method of a module, float32 to float32, compute in bfloat16."""
    import torch

    compute = getattr(module, method)

    def in_bfloat16(*arguments: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return compute(*arguments).float()

    setattr(module, method, in_bfloat16)
