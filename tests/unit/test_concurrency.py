"""Work side by side: as many at once as there are places, and no more looks than work."""

from __future__ import annotations

import asyncio

from samcourier.concurrency import Places, together

WORKS = 400


async def test_the_number_at_work_follows_the_capacity_at_a_cost_that_does_not_grow() -> None:
    at_work, most, done, looks = 0, [], 0, 0

    def capacity() -> int:
        nonlocal looks
        looks += 1
        return 2 if done < WORKS // 2 else 5

    places = Places(capacity)

    async def one() -> None:
        nonlocal at_work, done
        async with places.place():
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
