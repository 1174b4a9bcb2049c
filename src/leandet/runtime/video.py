"""Detect in a video: a drawn video, and one line of JSON for each frame. Drawing and tracking are supervision's."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import supervision

from leandet.atomic import staged
from leandet.detections import Detections
from leandet.errors import UserError
from leandet.preprocess import Image
from leandet.runtime.frames import Frame, Frames
from leandet.runtime.results_place import files, reserved

FAINT = 0.1  # ByteTrack follows objects through scores this low (arXiv 2110.06864, section 3)


@dataclass(slots=True)
class VideoSummary:
    """What one run did.

    Attributes:
        source: the video, camera or stream.
        video, results: the drawn `.mp4`, and the `.jsonl` of `{frame, seconds, detections}`.
        threshold: scores under it were dropped, 0 to 1, unless the object was on a track.
        frames: frames detected in.
        dropped: frames of a camera or stream that came too fast.
        detections: objects found in all frames.
        tracks: different objects followed; None without tracking.
        seconds: wall time.
    """

    source: str
    video: str
    results: str
    threshold: float
    frames: int = 0
    dropped: int = 0
    detections: int = 0
    tracks: int | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        """A plain object of the attributes and `frames_per_s`."""
        return {**asdict(self), "frames_per_s": round(self.frames / max(self.seconds, 1e-9), 2)}


def detect_video(
    model: Callable[[Image], Detections],
    classes: Sequence[str],
    source: str,
    out: Path,
    threshold: float,
    *,
    track: bool = False,
    most: int | None = None,
) -> VideoSummary:
    """Detect in each frame of a video.

    NAME is a file's own, and an earlier drawing of that name is replaced. A camera's or stream's recording cannot be
    made again: it is kept, and the next one numbered, as are files of such names (`camera.mov`, `stream_2.mp4`).

    `NAME.jsonl` has a line for each frame, `{frame, seconds, detections: [{box, score, label, name, track}]}`, boxes in
    pixels of the frame; `track` is there only when tracking, null until an
    object is seen again. Ctrl-C ends a camera or stream; what was seen is kept.

    Args:
        model: from a frame, uint8 (H, W, 3) RGB, to its detections.
        classes: names of the labels.
        source: a video file, a stream's address, or a camera's number.
        out: folder for `NAME.mp4` and `NAME.jsonl`.
        threshold: drop scores under it, 0 to 1.
        track: follow objects from frame to frame (ByteTrack).
        most: frames after which to stop; None for all.

    Raises:
        UserError: if the source cannot be opened or gives no frame, or `out` cannot be written or holds a film of
            that name that is no drawing of a film.
    """
    start = time.perf_counter()
    tracker = _Tracker(threshold) if track else None  # what it imports takes a second, in which a camera would run on
    with Frames(source) as frames, reserved(source, out) as place:
        summary = _detected(model, classes, frames, source, place, threshold, tracker, most)
    summary.seconds = round(time.perf_counter() - start, 3)
    return summary


def _detected(
    model: Callable[[Image], Detections],
    classes: Sequence[str],
    frames: Frames,
    source: str,
    place: Path,
    threshold: float,
    tracker: _Tracker | None,
    most: int | None,
) -> VideoSummary:
    """As `detect_video`, into the two files of a place; the time is not measured."""
    video, results = files(place)
    summary = VideoSummary(source, str(video), str(results), threshold)
    interrupted = False
    with staged(video) as video_draft, staged(results) as results_draft:
        with results_draft.open("w", encoding="utf-8") as lines, _Film(video_draft, frames, classes) as film:
            try:
                for frame in frames:
                    found, tracks = _look(model, tracker, frame, threshold)
                    lines.write(json.dumps(_line(frame, found, tracks, classes)) + "\n")
                    film.add(frame, found, tracks)
                    summary.frames += 1
                    summary.detections += len(found)
                    if summary.frames == most:
                        break
            except KeyboardInterrupt:
                interrupted = True
        summary.dropped = frames.dropped
        if not summary.frames:
            raise UserError(f"{source}: no frame could be read from it: check that it plays.")
    summary.tracks = None if tracker is None else len(tracker.seen)
    if interrupted and not frames.live:
        raise KeyboardInterrupt
    return summary


def to_supervision(found: Detections) -> supervision.Detections:
    """The same objects for supervision's annotators, trackers and zones."""
    return supervision.Detections(xyxy=found.boxes, confidence=found.scores, class_id=found.labels)


def _look(
    model: Callable[[Image], Detections], tracker: _Tracker | None, frame: Frame, threshold: float
) -> tuple[Detections, list[int | None] | None]:
    """The objects in a frame, and the number of each one's track."""
    if tracker is None:
        return model(frame.image).above(threshold), None
    return tracker.follow(model(frame.image).above(min(FAINT, threshold)))


class _Tracker:
    """ByteTrack over the frames of one video."""

    def __init__(self, threshold: float) -> None:
        from trackers import ByteTrackTracker

        self._tracker = ByteTrackTracker(
            track_activation_threshold=threshold, high_conf_det_threshold=threshold, minimum_consecutive_frames=1
        )
        self._threshold = threshold
        self.seen: set[int] = set()

    def follow(self, found: Detections) -> tuple[Detections, list[int | None]]:
        """The objects on a track or scored over the threshold, best first, and each one's track (None if new)."""
        answer = self._tracker.update(to_supervision(found))
        if not len(answer):
            return Detections.empty(), []
        numbers = np.asarray(answer.tracker_id)
        best = np.argsort(-answer.confidence, kind="stable")
        order = [i for i in best if numbers[i] >= 0 or answer.confidence[i] >= self._threshold]
        kept = Detections(
            np.asarray(answer.xyxy[order], np.float32).reshape(-1, 4),
            np.asarray(answer.confidence[order], np.float32),
            np.asarray(answer.class_id[order], np.int64),
        )
        tracks = [int(numbers[i]) if numbers[i] >= 0 else None for i in order]
        self.seen |= {number for number in tracks if number is not None}
        return kept, tracks


def _line(frame: Frame, found: Detections, tracks: list[int | None] | None, classes: Sequence[str]) -> dict[str, Any]:
    objects = found.to_json(classes)
    for one, number in zip(objects, tracks or (), strict=False):
        one["track"] = number
    return {"frame": frame.index, "seconds": round(frame.seconds, 3), "detections": objects}


class _Film:
    """The drawn video: H.264's predecessor MPEG-4 in `.mp4`, which every OpenCV can write.

    A camera's or stream's frames are repeated for those that were dropped, so that the film keeps their pace.
    """

    def __init__(self, path: Path, frames: Frames, classes: Sequence[str]) -> None:
        self._path, self._rate, self._live, self._classes = path, frames.rate, frames.live, classes
        self._size, self._written = (0, 0), 0
        self._writer: cv2.VideoWriter | None = None
        self._boxes, self._labels = supervision.BoxAnnotator(), supervision.LabelAnnotator()

    def __enter__(self) -> _Film:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()

    def add(self, frame: Frame, found: Detections, tracks: list[int | None] | None) -> None:
        """Draw one frame and append it."""
        scene = np.ascontiguousarray(frame.image[..., ::-1])
        drawn = to_supervision(found)
        names = [f"{self._classes[label]} {score:.2f}" for label, score in zip(found.labels, found.scores, strict=True)]
        if tracks is not None:
            names = [
                name if number is None else f"#{number} {name}" for number, name in zip(tracks, names, strict=True)
            ]
        scene = self._labels.annotate(self._boxes.annotate(scene, drawn), drawn, names)
        if self._writer is None:
            self._size = (scene.shape[1], scene.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(os.fspath(self._path), code, self._rate, self._size)
            if not self._writer.isOpened():
                raise UserError(f"{self._path.name} cannot be written: this OpenCV has no MPEG-4 encoder.")
        if (scene.shape[1], scene.shape[0]) != self._size:  # a stream may change; the writer would drop it silently
            scene = cv2.resize(scene, self._size, interpolation=cv2.INTER_AREA)
        times = max(1, round(frame.seconds * self._rate) - self._written) if self._live else 1
        for _ in range(times):
            self._writer.write(scene)
        self._written += times
