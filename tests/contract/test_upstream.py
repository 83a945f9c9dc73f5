"""Why the workarounds are there: each defect in the packages below us, shown on stock packages.

A test here that turns red means that a release has mended the defect, and names what may go.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from samcourier.transports import Endpoint
from upstream.reproductions import DEFECTS, Defect, raises

pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """hypha-rpc warns of each connection that a reproduction loses."""
    logging.getLogger("RPC").setLevel(logging.CRITICAL)
    yield


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
async def test_a_defect_we_work_around_is_still_there(
    live_endpoint: Endpoint, defect: Defect
) -> None:
    assert await defect.is_there(live_endpoint.server_url), (
        f"{defect.package} has mended {defect.place}: {defect.workaround} can go"
    )


async def test_a_reproduction_with_another_error_is_not_a_proof() -> None:
    """It is no sign that the defect is mended."""

    async def fail(text: str | None) -> None:
        if text is not None:
            raise RuntimeError(text)

    assert await raises("Context is required", fail("AssertionError: Context is required"))
    assert not await raises("Context is required", fail(None))
    with pytest.raises(RuntimeError, match="no answer"):
        await raises("Context is required", fail("no answer"))
