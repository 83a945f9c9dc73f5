"""Run every reproduction against what is installed here, and say which workaround can go.

Exits 0 also where a defect is mended, which is said; 1 when a reproduction itself breaks.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from importlib.metadata import version

from .reproductions import DEFECTS
from .stock import hypha_server

PACKAGES = ("hypha-rpc", "aiortc", "hypha", "websockets")
ROW = "{:32} {:22} {:12} {}"


async def main() -> int:
    """Print the table; return the exit status."""
    logging.disable()
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES))
    print(ROW.format("defect", "package", "", "workaround in samcourier"))
    broken = 0
    async with hypha_server() as url:
        for defect in DEFECTS:
            try:
                async with asyncio.timeout(60):
                    is_there = await defect.is_there(url)
            except Exception as error:
                broken += 1
                verdict = "broken"
                reason = f"the reproduction fails: {type(error).__name__}: {error}"
            else:
                verdict = "still there" if is_there else "MENDED"
                reason = defect.workaround if is_there else f"can go: {defect.workaround}"
            print(ROW.format(defect.name, defect.package, verdict, reason), flush=True)
    return 1 if broken else 0


sys.exit(asyncio.run(main()))
