"""The packages of docs/extending.md, installed, segment images through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from samcourier.masks.omezarr import read_mask

pytestmark = pytest.mark.live

COMMAND_TIMEOUT_S = 60
START_TIMEOUT_S = 30


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of two images that no built-in reader opens, with two and three squares."""
    folder = tmp_path / "data"
    folder.mkdir()
    for count in (2, 3):
        image = np.full((64, 64), 100, np.uint16)
        for number in range(count):
            image[4 + 20 * number : 14 + 20 * number, 8:20] = 900
        np.save(folder / f"squares_{count}.npy", image)
    return folder


def segment(python: Path, data: Path, *options: object) -> tuple[dict[str, int], set[str], str]:
    """Return the objects of each image's mask, over which transports they came, and all said."""
    results = data.parent / "results"
    command = [python, "-m", "samcourier.cli", "segment", data, "--dataset-dir", results, *options]
    done = subprocess.run(
        [str(word) for word in command],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if name != "HYPHA_TOKEN"},
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    logs = [json.loads(path.read_text()) for path in results.glob("logs/*.json")]
    counts = {
        log["image"]: int(read_mask(results / "masks" / f"{log['image']}.ome.zarr").max())
        for log in logs
    }
    for log in logs:
        assert log["service"]["engine"] == "threshold"
        assert log["service"]["versions"]["samcourier-threshold"] == "1.0"
    carried = {attempt["transport"] for log in logs for attempt in log["attempts"]}
    return counts, carried, done.stdout


def test_the_engine_and_the_reader_through_a_local_service(
    extended_python: Path, data: Path
) -> None:
    counts, carried, _ = segment(extended_python, data, "--engine", "threshold")
    assert counts == {"squares_2.npy": 2, "squares_3.npy": 3}
    assert carried <= {"websocket", "webrtc", "http"}


def test_the_transport_to_a_service_at_a_socket(extended_python: Path, data: Path) -> None:
    # A socket's path has at most 107 bytes.
    path = Path(os.path.relpath(data.parent / "socket"))
    served = subprocess.Popen(
        [extended_python, "-m", "samcourier_socket.server", path, "threshold"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not path.exists():
            assert served.poll() is None, served.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        existing = ["--target", "existing", "--server-url", "http://localhost"]
        counts, carried, _ = segment(
            extended_python, data, *existing, "--service-id", path, "--transport", "socket"
        )
    finally:
        served.terminate()
        served.communicate(timeout=START_TIMEOUT_S)
    assert counts == {"squares_2.npy": 2, "squares_3.npy": 3}
    assert carried == {"socket"}
