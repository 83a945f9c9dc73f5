"""The service host: the canned service of ``bench``, registered with a Hypha server elsewhere.

One JSON line on standard input says which: ``server_url``, ``token``, ``mask`` (a file). One on
standard output, ``endpoint JSON``, says where the service is once it is registered. Ends when
killed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tifffile
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from canned_service import CannedEngine, serve_canned


async def main(settings: dict[str, Any]) -> None:
    engine = CannedEngine(tifffile.imread(settings["mask"]))

    def say(found: dict[str, Any]) -> None:
        print(f"endpoint {json.dumps(found)}", flush=True)

    await serve_canned(engine, settings["server_url"], settings["token"], say)


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.stdin.readline())))
