"""Run Hypha's server as a child that cannot outlive its parent.

The parent holds the other end of this process's standard input and never writes to it. When the
parent ends, for whatever reason, the pipe closes and this process ends. It is started as
``python -m samcourier.deploy.local.hypha_server [DIRECTORY] --host=127.0.0.1 --port=N --from-env``;
DIRECTORY is its working directory.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def end_with_parent() -> None:
    """Block until standard input closes, then end this process at once."""
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    if not sys.argv[1].startswith("-"):
        os.chdir(sys.argv.pop(1))
    sys.argv[0] = "hypha.server"
    runpy.run_module("hypha.server", run_name="__main__")
