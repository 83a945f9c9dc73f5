"""When a service that belongs to a run counts as not needed any more."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from samservice.engines.watershed import WatershedEngine
from samservice.server.app import SegmentationService
from samservice.server.idle import IdleTimer


def test_only_images_and_a_changed_owner_file_end_the_idle_time(tmp_path: Path) -> None:
    owner, idle_s, now_s = tmp_path / "needed", [0.0], [100.0]
    owner.touch()
    timer = IdleTimer(lambda: idle_s[0], owner, lambda: now_s[0])
    for later_s, service_idle_s, owner_ns, expected_s in [
        (10, 500.0, None, 10.0),  # the service had nothing to do before, the owner file existed
        (20, 0.0, None, 0.0),  # an image is being processed
        (30, 10.0, None, 10.0),
        (40, 20.0, 5_000_000_000, 0.0),  # the owner's clock is years behind, but its file changed
        (70, 50.0, 5_000_000_000, 30.0),  # unchanged
    ]:
        now_s[0], idle_s[0] = 100.0 + later_s, service_idle_s
        if owner_ns is not None:
            os.utime(owner, ns=(owner_ns, owner_ns))
        assert timer.idle_s() == expected_s, later_s
    owner.unlink()
    now_s[0] = 190.0
    assert timer.idle_s() == 50.0


async def test_a_service_is_idle_from_the_end_of_its_last_image() -> None:
    service = SegmentationService(WatershedEngine())
    try:
        before_s = service.idle_s()
        await service.segment_all(np.zeros((32, 32), np.uint16) + np.eye(32, dtype=np.uint16))
        assert service.idle_s() < before_s + 60
        with service._admission.hold_slot(None, 0):
            assert service.idle_s() == 0.0
    finally:
        service.close()
