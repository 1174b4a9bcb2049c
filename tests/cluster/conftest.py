"""One Ray for all these tests, started as people start one, with its files in a place of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # for the Ray below and for who connects to it; Ray reads it once
pytest.importorskip("ray", reason="the extra `cluster` is not installed")
pytest.importorskip("ray.data", reason="the extra `cluster` is not installed")

CORES = 2
STARTS_WITHIN = 300  # seconds, on a busy machine


@dataclass(frozen=True)
class Running:
    """A Ray that runs: its address, and the processes below the one that was started."""

    address: str
    pid: int

    def workers(self, title: str) -> list[int]:
        """Processes of this Ray's workers whose title begins so."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                words = (entry / "cmdline").read_bytes()
                if words.startswith(title.encode()) and self._is_ours(int(entry.name)):
                    found.append(int(entry.name))
            except (OSError, IndexError):
                continue  # it has ended
        return found

    def _is_ours(self, pid: int) -> bool:
        while pid > 1:
            if pid == self.pid:
                return True
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return False


@pytest.fixture(scope="session")
def ray_here() -> Iterator[Running]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = Path(tempfile.mkdtemp(prefix="ray-"))  # the paths of its sockets have to be short
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats",
        f"--port={port}", "--node-ip-address=127.0.0.1", f"--num-cpus={CORES}", "--include-dashboard=false",
        "--object-store-memory=100000000", f"--temp-dir={place}",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    running = Running(f"127.0.0.1:{port}", process.pid)
    try:
        end = time.monotonic() + STARTS_WITHIN
        while not (place / "session_latest" / "sockets" / "raylet").exists():
            assert process.poll() is None, "Ray did not start"
            assert time.monotonic() < end
            time.sleep(0.2)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(place, ignore_errors=True)
