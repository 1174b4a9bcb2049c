import http.server
import json
import threading
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from leandet.errors import UserError
from leandet.runtime import frames as frames_module
from leandet.runtime import open_runtime
from leandet.runtime.frames import Frames, is_live, is_video

COUNT, RATE = 12, 10.0


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None: ...


def place(index: int) -> tuple[int, int, int, int]:
    """Where the red rectangle is in a frame."""
    return 10 + 4 * index, 20, 40 + 4 * index, 44


@pytest.fixture
def film(tmp_path, picture):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), RATE, (160, 96))
    for index in range(COUNT):
        writer.write(picture(96, 160, place(index))[..., ::-1])
    writer.release()
    return path


@pytest.mark.parametrize(
    ("source", "live"),
    [("0", True), ("rtsp://camera/1", True), ("HTTPS://x/y.m3u8", True), ("a.mp4", False), ("²", False), ("", False)],
)
def test_what_is_live(source, live):
    assert is_live(source) == live
    assert is_video(source) == live  # and a.mp4 is not there


def test_a_file_gives_every_frame_in_order(film):
    assert is_video(str(film))
    with Frames(str(film), queue=2) as frames:
        found = list(frames)
    assert [frame.index for frame in found] == list(range(COUNT))
    assert frames.rate == RATE
    assert frames.dropped == 0
    assert [round(f.seconds * RATE) for f in found] == list(range(COUNT))
    x = (place(3)[0] + place(3)[2]) // 2
    red, green, blue = (int(v) for v in found[3].image[32, x])
    assert red > 200
    assert max(green, blue) < 60


def test_a_camera_drops_the_oldest_and_counts(film, monkeypatch):
    monkeypatch.setattr(frames_module, "is_live", lambda source: source == str(film))

    def opened(source: str) -> SimpleNamespace:
        capture = cv2.VideoCapture(source)
        length = {cv2.CAP_PROP_FRAME_COUNT: -1.0}  # a camera has none
        return SimpleNamespace(
            get=lambda what: length.get(what, capture.get(what)), read=capture.read, release=capture.release
        )

    monkeypatch.setattr(frames_module, "_open", opened)
    with Frames(str(film), queue=3) as frames:
        frames._thread.join(10)  # all have come before the first is taken
        found = [frame.index for frame in frames]
    assert found == list(range(COUNT))[-3:]
    assert frames.dropped == COUNT - 3


def test_a_film_on_a_server_waits_like_a_file(film):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(film.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with Frames(f"http://127.0.0.1:{server.server_port}/{film.name}", queue=2) as frames:
                frames._thread.join(1)  # all would have come, and most be dropped
                found = [frame.index for frame in frames]
        finally:
            server.shutdown()
    assert found == list(range(COUNT))
    assert not frames.live


def test_leaving_early_ends_the_thread(film):
    with Frames(str(film), queue=1) as frames:
        next(iter(frames))
    assert not frames._thread.is_alive()
    assert "leandet-frames" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("content", [None, b"no video at all"])
def test_what_is_no_video(tmp_path, content):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="cannot open"):
        Frames(str(path))


@pytest.mark.parametrize("track", [False, True])
def test_a_drawn_video_and_a_line_for_each_frame(make_onnx, film, tmp_path, track):
    pytest.importorskip("supervision")
    pytest.importorskip("trackers")
    from leandet.runtime.video import detect_video

    out = tmp_path / "out"
    runtime = open_runtime(make_onnx(), 1)
    summary = detect_video(runtime, runtime.card.classes, str(film), out, 0.5, track=track)
    assert (summary.frames, summary.detections, summary.dropped) == (COUNT, COUNT, 0)
    assert summary.tracks == (1 if track else None)
    lines = [json.loads(line) for line in (out / "film.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(COUNT))
    for index, line in enumerate(lines):
        (one,) = line["detections"]
        assert one["name"] == "red"
        np.testing.assert_allclose(one["box"], place(index), atol=4)
        assert ("track" in one) == track
    with Frames(str(out / "film.mp4")) as drawn:
        pictures = [frame.image for frame in drawn]
    assert len(pictures) == COUNT
    assert pictures[0].shape == (96, 160, 3)
    assert sorted(p.name for p in out.iterdir()) == ["film.jsonl", "film.mp4"]
    assert detect_video(runtime, runtime.card.classes, str(film), out, 0.5, most=3).frames == 3
    with pytest.raises(UserError, match=r"film\.mp4 would be overwritten"):  # the source, whatever lies beside it
        detect_video(runtime, runtime.card.classes, str(out / "film.mp4"), out, 0.5)
    (out / "film.jsonl").unlink()  # now the .mp4 could be anybody's
    with pytest.raises(UserError, match=r"film\.mp4 would be overwritten"):
        detect_video(runtime, runtime.card.classes, str(film), out, 0.5)


def test_a_second_recording_is_numbered(make_onnx, film, tmp_path):
    pytest.importorskip("supervision")
    from leandet.runtime.video import detect_video

    out, runtime = tmp_path / "out", open_runtime(make_onnx(), 1)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(film.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            source = f"http://127.0.0.1:{server.server_port}/{film.name}"
            found = [detect_video(runtime, runtime.card.classes, source, out, 0.5, most=2) for _ in range(2)]
        finally:
            server.shutdown()
    assert [(one.video, one.results) for one in found] == [
        (str(out / f"{name}.mp4"), str(out / f"{name}.jsonl")) for name in ("stream", "stream_2")
    ]
    assert all(len((out / f"{name}.jsonl").read_text().splitlines()) == 2 for name in ("stream", "stream_2"))
    assert all(one.seconds > 0 for one in found)


def test_a_live_film_keeps_its_pace_and_every_size(picture, tmp_path):
    pytest.importorskip("supervision")
    from leandet.detections import Detections
    from leandet.runtime.video import _Film

    path = tmp_path / "live.mp4"
    with _Film(path, SimpleNamespace(rate=RATE, live=True), ("red",)) as film:
        for index, seconds, height in ((0, 0.0, 96), (5, 0.5, 96), (9, 0.9, 48)):  # the others were dropped
            frame = frames_module.Frame(index, seconds, picture(height, 160, place(0)))
            film.add(frame, Detections.empty(), None)
    with Frames(str(path)) as drawn:
        shapes = [frame.image.shape for frame in drawn]
    assert shapes == [(96, 160, 3)] * 9


def test_a_folder_is_no_camera(tmp_path, monkeypatch):
    (tmp_path / "2024").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_video("2024")
    assert is_video("2025")
