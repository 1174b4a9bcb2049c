"""What opening a model costs a process that has done nothing else: time to the first boxes, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from leandet.errors import UserError
from leandet.runtime import open_runtime
from leandet.runtime.photograph import photograph_like

SECONDS_ALLOWED = 300
CALLS = 3  # engines may allocate until the second call


@dataclass(frozen=True, slots=True)
class Fresh:
    """Measured in a process of its own.

    Attributes:
        cold_start_ms: importing the engine, opening the model and detecting in a first photograph of 640x480 px.
        peak_memory_bytes: most memory resident at once, interpreter and libraries included; None where the platform
            does not say.
    """

    cold_start_ms: float
    peak_memory_bytes: int | None


def measure_fresh(path: Path, threads: int) -> Fresh:
    """Open a model in a new process and detect in the drawn photograph.

    Args:
        path: the model.
        threads: for one call.

    Raises:
        UserError: if the process fails or takes longer than five minutes.
    """
    # -P: a module in the folder that one works in must not stand for one of Python's.
    command = [sys.executable, "-P", "-m", "leandet.runtime.fresh", str(path), str(threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_ALLOWED, check=True)
        return Fresh(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"it ended with code {error.returncode}"]
        raise UserError(f"{path}: a new process could not run it ({lines[-1]}).") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{path}: a new process took longer than {SECONDS_ALLOWED} s to run it.") from error


def _here(path: Path, threads: int) -> Fresh:
    """What `measure_fresh` asks of the new process."""
    picture = photograph_like()
    start = time.perf_counter()
    runtime = open_runtime(path, threads)
    runtime(picture)
    cold = time.perf_counter() - start
    for _ in range(CALLS - 1):
        runtime(picture)
    return Fresh(round(cold * 1000, 2), _peak_memory())


def _peak_memory() -> int | None:
    """The most memory that this process had, in bytes; not what it inherited from the one that started it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_here(Path(sys.argv[1]), int(sys.argv[2])))) + "\n")
