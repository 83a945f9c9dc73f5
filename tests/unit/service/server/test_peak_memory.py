"""The memory of a service while many large images wait, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

MIB = 1 << 20
#: One image of 4096 x 4096 needs it: uint16 pixels, float32 content, three float32 maps and
#: uint32 labels.
MAX_WORKING_BYTES = 4096 * 4096 * (2 + 4 + 12 + 4)
#: Buffers of the codec and what the allocator keeps, whatever the images.
OVERHEAD_BYTES = 96 * MIB

PROGRAM = textwrap.dedent("""
    import asyncio, json, resource, sys

    import numpy as np

    from samservice.contract.errors import SegmentationFailed
    from samservice.contract.wire import pack_array
    from samservice.engines.stages import Prepared
    from samservice.server.app import Limits, SegmentationService


    class Engine:
        def describe(self):
            return {"engine": "large", "model": "none", "embeddings": False, "max_batch": 2,
                    "inference_parameters": [], "device_threads": 0}

        def check_parameters(self, parameters):
            pass

        def prepare(self, image, axes, parameters, statistics=None):
            content = image.astype(np.float32)
            if image.max() == 9999:
                raise MemoryError("host")
            return Prepared(content, image.shape)

        def infer(self, prepared):
            states = [np.stack([each.content] * 3) for each in prepared]
            if any(each.content.max() == 9998 for each in prepared):
                raise MemoryError("device")
            return states

        def finish(self, state, parameters):
            labels = (state[0] > 500).astype(np.uint32)
            if state.max() == 9997:
                raise MemoryError("host")
            return labels

        def max_batch(self, batch_key):
            return 2

        def working_bytes(self, shape, axes):
            return shape[0] * shape[1] * (2 + 4 + 12 + 4)

        def segment(self, *arguments):
            raise NotImplementedError

        encode = segment_embedding = segment


    def peak_bytes():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


    def packed(number):
        image = np.zeros((4096, 4096), np.uint16)
        image[:1024, :1024] = {3: 9999, 4: 9998, 5: 9997}.get(number % 8, 1000)
        return pack_array(image, "blosc-lz4")


    async def main():
        limits = Limits(max_working_bytes=int(sys.argv[1]), finish_threads=4)
        service = SegmentationService(Engine(), limits)
        given = [packed(number) for number in range(32)]
        before_bytes = peak_bytes()
        ends = await asyncio.gather(
            *(
                service.segment_all(each, axes="YX", context={"user": {"id": str(number % 4)}})
                for number, each in enumerate(given)
            ),
            return_exceptions=True,
        )
        service.close()
        failed = [n for n, end in enumerate(ends) if isinstance(end, SegmentationFailed)]
        done = [n for n, end in enumerate(ends) if isinstance(end, dict)]
        print(json.dumps([before_bytes, peak_bytes(), failed, done]))


    asyncio.run(main())
""")


def test_the_peak_of_32_waiting_images_is_below_the_declared_bound() -> None:
    """The images that run out of memory fail alone, and hold none of it."""
    printed = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(MAX_WORKING_BYTES)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    before_bytes, peak_bytes, failed, done = json.loads(printed)
    assert failed == [n for n in range(32) if n % 8 in (3, 4, 5)]
    assert done == [n for n in range(32) if n % 8 not in (3, 4, 5)]
    # One image at a time, as the bound says: two would need 352 MiB more.
    assert peak_bytes - before_bytes < MAX_WORKING_BYTES + OVERHEAD_BYTES
