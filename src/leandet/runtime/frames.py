"""Frames of a video file, a camera or a network stream, read by a thread of its own into a bounded queue."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from leandet.errors import UserError
from leandet.preprocess import Image

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
STREAMS = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://")
QUEUE = 4  # frames waiting; a camera's older ones are dropped, for what is shown must be now
TIMEOUT_MS = 15_000
USUAL_RATE = 30.0  # frames per second, where the source does not say


def is_video(source: str) -> bool:
    """Whether a source is a video file, a stream's address or a camera's number, rather than photographs."""
    if Path(source).is_dir():
        return False  # whatever its name: a folder may be called 2024
    return is_live(source) or (Path(source).suffix.lower() in VIDEO_SUFFIXES and Path(source).is_file())


def is_live(source: str) -> bool:
    """Whether frames may come at their own pace: a camera's number or an address."""
    return (source.isascii() and source.isdigit()) or source.lower().startswith(STREAMS)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a video.

    Attributes:
        index: its place in the source, dropped frames counted too.
        seconds: from the beginning of a file, or from the opening of a camera or stream.
        image: uint8 (H, W, 3) RGB.
    """

    index: int
    seconds: float
    image: Image


class Frames:
    """An open video; iterate over it inside a `with`.

    A file waits for whoever reads it. A camera or stream does not: when `queue` frames wait, the oldest is dropped.

    Args:
        source: a path, an address, or a camera's number.
        queue: frames that may wait, at least 1.

    Raises:
        UserError: if it cannot be opened.

    Attributes:
        live: whether frames come at their own pace.
        rate: frames per second, as the source says.
        dropped: frames dropped so far.
    """

    def __init__(self, source: str, queue: int = QUEUE) -> None:
        self._capture = _open(source)
        # A film that lies on a server has a length, and waits like any file.
        self.live = is_live(source) and not self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and 1 <= rate <= 1000 else USUAL_RATE
        self.dropped = 0
        self._queue: deque[Frame] = deque()
        self._most = queue
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._thread = threading.Thread(target=self._read, name="leandet-frames", daemon=True)

    def __enter__(self) -> Frames:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(TIMEOUT_MS / 1000)  # a stream may be waiting for its next packet
        if not self._thread.is_alive():
            self._capture.release()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._ended)
                if not self._queue:
                    return
                frame = self._queue.popleft()
                self._changed.notify_all()
            yield frame

    def _read(self) -> None:
        start = time.monotonic()
        index = 0
        try:
            while not self._closed:
                whole, picture = self._capture.read()
                if not whole:
                    return
                seconds = time.monotonic() - start if self.live else index / self.rate
                image = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
                self._put(Frame(index, seconds, image))
                index += 1
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, frame: Frame) -> None:
        with self._changed:
            if not self.live:
                self._changed.wait_for(lambda: len(self._queue) < self._most or self._closed)
            elif len(self._queue) >= self._most:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(frame)
            self._changed.notify_all()


def _open(source: str) -> cv2.VideoCapture:
    try:
        if source.isascii() and source.isdigit():
            capture = cv2.VideoCapture(int(source))
        elif is_live(source):
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
            capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        else:
            capture = cv2.VideoCapture(source)
        opened = capture.isOpened()
    except (cv2.error, OverflowError):
        opened = False
    if not opened:
        raise UserError(f"{source}: OpenCV cannot open this video, camera or stream: check its name and that it plays.")
    return capture
