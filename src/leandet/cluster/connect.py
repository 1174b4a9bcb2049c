"""The way to a Ray cluster, or to one that is started on this machine and ends with the work."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leandet.errors import UserError, naming_extras

LOCAL, AUTO, CLIENT = "local", "auto", "ray://"
ANSWERS_WITHIN = 10.0  # seconds; Ray itself tries a wrong address for many minutes
OBJECT_STORE_BYTES = 256 << 20  # of a Ray started here: paths, figures and one detector are all that passes through it
RESTARTS = 5  # times that the same piece of work may lose its process before it is given up

# Ray reads these when it starts: it reports nothing to its makers, and its own log lines stay in its files.
_STARTING = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        cores: that Ray may give away on each living machine.
    """

    cores: tuple[int, ...]

    def workers(self, cores: int, wanted: int | None) -> int:
        """How many workers of so many cores each: as wanted, or as many as there is room for.

        Raises:
            UserError: if there is no room for one and none was wanted outright.
        """
        if wanted is not None:
            return wanted
        if room := sum(own // cores for own in self.cores):
            return room
        raise UserError(
            f"no machine of the cluster has {cores} cores for a worker: lower --threads, "
            "or give --workers where the cluster grows when it is asked to."
        )


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to a Ray cluster; at the end, disconnect, and end what was started.

    Args:
        address: `host:port` or `ray://host:port` of a cluster, `auto` for the one that runs on this machine, or
            `local` to start one on this machine for as long as this lasts.

    Raises:
        UserError: if Ray is not installed, no cluster answers, or it runs other versions of Ray or Python.
    """
    with _environment(_STARTING):
        ray = the_ray()
        _knock(address)
        here = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == LOCAL else {}
        try:
            with _hushed():
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **here)
        except Exception as error:  # Ray raises plain exceptions
            raise UserError(
                f"the Ray cluster {address!r} cannot be used ({_reason(error)}): give host:port of one that runs, "
                "auto for this machine's, or local to start one."
            ) from error
    try:
        yield Cluster(tuple(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]))
    finally:
        ray.shutdown()


def _reason(error: BaseException) -> str:
    """What Ray says, in one line."""
    if "InvalidAuthToken" in f"{error} {error.__cause__}":
        return "it asks for a token: copy its token file and set RAY_AUTH_MODE=token"
    return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")


def the_ray() -> Any:
    """Ray.

    Raises:
        UserError: if it is not installed.
    """
    with naming_extras():
        import ray
    return ray


def _knock(address: str) -> None:
    """See whether anybody listens at an address.

    Raises:
        UserError: if not.
    """
    place = _last_started() if address == AUTO else address.removeprefix(CLIENT)
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal():
        return  # Ray will say what it thinks of it
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster answers at {place} ({getattr(error, 'strerror', None) or error}): give host:port of one "
            "that runs, auto for this machine's, or local to start one."
        ) from error


def _last_started() -> str:
    """Where Ray will look for this machine's cluster, as far as it says: a variable, or the file that it leaves."""
    if found := os.environ.get("RAY_ADDRESS"):
        return found.removeprefix(CLIENT)
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    try:
        return note.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


@contextmanager
def _hushed() -> Iterator[None]:
    """Nothing on standard error, not from below Python either: Ray's core says there how much it is going to say."""
    sys.stderr.flush()
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
