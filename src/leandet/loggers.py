"""Other packages' loggers, kept off a person's screen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

ROOT = "root"  # of those that log without a logger of their own


@contextmanager
def only_errors(*names: str) -> Iterator[None]:
    """Within, the named loggers pass errors alone: their warnings are for their own callers, not for ours."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
