"""hypha-rpc without aiortc and httpx without its command line: what is there, and what is not."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(script: str) -> None:
    """Run a script in a fresh interpreter; an assertion of it that fails is shown."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_neither_webrtc_nor_a_command_line_is_imported() -> None:
    run(
        "import sys, samservice.hypha.lean_rpc as lean\n"
        "assert lean.rpc is sys.modules['hypha_rpc.rpc']\n"
        "assert not {'aiortc', 'rich', 'pygments', 'httpx._main'} & set(sys.modules)"
    )


def test_its_webrtc_is_imported_when_a_peer_is_made() -> None:
    run(
        "import sys, samservice.hypha.lean_rpc\n"
        "from hypha_rpc import webrtc_client\n"
        "assert webrtc_client.AIORTC_AVAILABLE\n"
        "made = webrtc_client.RTCSessionDescription(sdp='v=0', type='offer')\n"
        "import aiortc\n"
        "assert type(made) is aiortc.RTCSessionDescription"
    )


@pytest.mark.parametrize("first", ["aiortc", "hypha_rpc", "httpx"])
def test_what_is_imported_already_stays(first: str) -> None:
    run(
        f"import sys, {first}\n"
        f"before = sys.modules['{first}']\n"
        "import samservice.hypha.lean_rpc, httpx, hypha_rpc, aiortc\n"
        f"assert sys.modules['{first}'] is before\n"
        "assert isinstance(aiortc.RTCPeerConnection, type)"
    )
