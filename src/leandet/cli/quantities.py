"""Times and sizes as people write them."""

from __future__ import annotations

import re

from leandet.errors import UserError

_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3}


def milliseconds(text: str, option: str = "--budget") -> float:
    """A latency such as `8ms`, `8`, `7.5 ms` or `0.01s`, in ms.

    Raises:
        UserError: if it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)?", text.strip())
    if match is None or not float(match[1]) > 0:
        raise UserError(f"{option} must be a time above 0 such as 8ms, not {text!r}.")
    return float(match[1]) * (1000 if match[2] == "s" else 1)


def duration(text: str) -> float:
    """A time to work such as `2h`, `90m`, `90min`, `1h30m` or `45s`, in seconds.

    Raises:
        UserError: if it is none, or has no unit.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(h|min|m|s)\s*", text)
    if "".join(f"{number}{unit}" for number, unit in parts) != re.sub(r"\s", "", text):
        parts = []
    total = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not total > 0:
        raise UserError(f"--time must be a time above 0 with its unit such as 2h, 90m or 45s, not {text!r}.")
    return total


def size_in_bytes(text: str) -> int:
    """A file size such as `1MB`, `800kB` or `1.5 MB`, in bytes; 1 MB is a million.

    Raises:
        UserError: if it is none, or has no unit.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|GB)", text.strip())
    if match is None or not float(match[1]) > 0:
        raise UserError(f"--max-size must be a size above 0 with its unit such as 1MB or 800kB, not {text!r}.")
    return round(float(match[1]) * _BYTES[match[2]])
