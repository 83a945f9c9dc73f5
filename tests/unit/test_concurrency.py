"""Work side by side, within its limits, and background tasks that end."""

from __future__ import annotations

import asyncio

import pytest

from samcourier.concurrency import Limiter, cancel_all, together
from samcourier.errors import TransportFailed

WORKS = 400


async def test_the_number_at_work_follows_the_capacity_at_a_cost_that_does_not_grow() -> None:
    at_work, most, done, looks = 0, [], 0, 0

    def capacity() -> int:
        nonlocal looks
        looks += 1
        return 2 if done < WORKS // 2 else 5

    limiter = Limiter(capacity)

    async def one() -> None:
        nonlocal at_work, done
        async with limiter.slot():
            at_work += 1
            most.append(at_work)
            await asyncio.sleep(0)
            at_work -= 1
            done += 1

    await together(one() for _ in range(WORKS))
    assert done == WORKS
    assert max(most[: WORKS // 2]) == 2
    assert max(most) == 5
    assert looks < 10 * WORKS


async def slow_to_end(release: asyncio.Event, error: Exception | None = None) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await release.wait()
        if error is not None:
            raise error


async def begun(release: asyncio.Event, error: Exception | None = None) -> asyncio.Task[None]:
    task = asyncio.ensure_future(slow_to_end(release, error))
    await asyncio.sleep(0)
    return task


async def test_who_is_cancelled_while_waiting_for_an_end_is_cancelled() -> None:
    release = asyncio.Event()
    task = await begun(release)
    waiting = asyncio.ensure_future(cancel_all([task]))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release.set()
    await asyncio.wait({task})


@pytest.mark.parametrize(
    ("error", "raised"),
    [(None, False), (TransportFailed("closed"), False), (KeyError("a defect of ours"), True)],
)
async def test_only_a_defect_is_raised(error: Exception | None, raised: bool) -> None:
    release = asyncio.Event()
    release.set()
    task = await begun(release, error)
    try:
        await cancel_all([task])
    except KeyError:
        assert raised
    else:
        assert not raised
    assert task.done()
