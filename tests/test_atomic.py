import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from leandet import atomic
from leandet.errors import UserError


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "a.bin"
    for content in (b"", b"one", bytes(range(256)) * 1000, b"shorter"):
        atomic.write_bytes(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_text_and_json_are_utf_8(tmp_path):
    atomic.write_text(tmp_path / "a.txt", "ü\n")
    assert (tmp_path / "a.txt").read_bytes() == "ü\n".encode()
    atomic.write_json(tmp_path / "a.json", {"ü": [1, None, 0.1]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"ü": [1, None, 0.1]}
    assert text.endswith("\n")
    assert "ü" in text


@pytest.mark.parametrize("where", ["a file in place of a folder", "a folder in place of the file"])
def test_a_disk_that_refuses_is_the_persons_to_mend(tmp_path, where):
    path = tmp_path / "x" / "a.bin"
    if where == "a folder in place of the file":
        path.mkdir(parents=True)
    else:
        (tmp_path / "x").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written") as caught:
        atomic.write_bytes(path, b"content")
    assert str(path) in str(caught.value)
    left = {p.name for p in tmp_path.rglob("*")}
    assert left == {"x", "a.bin"} if path.is_dir() else left == {"x"}


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path):
    """A limit on the size of files stands for the full disk: the write itself fails, half-way."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom leandet import atomic\n"
        "from leandet.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n    atomic.write_bytes(Path(sys.argv[1]), b'x' * 100_000)\n"
        "except UserError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.startswith(f"{path} cannot be written: ")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_an_interrupt_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_reader_sees_one_whole_version_or_another(tmp_path):
    path, size, ended = tmp_path / "a.bin", 200_000, threading.Event()
    atomic.write_bytes(path, b"0" * size)

    def write() -> None:
        for n in range(30):
            atomic.write_bytes(path, str(n % 10).encode() * size)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not ended.is_set():
        content = path.read_bytes()
        assert len(content) == size
        assert len(set(content)) == 1
        reads += 1
    writer.join()
    assert reads > 0


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.bin"
    code = (
        "import itertools, sys\nfrom pathlib import Path\nfrom leandet import atomic\n"
        "for n in itertools.count():\n    atomic.write_bytes(Path(sys.argv[1]), bytes([n % 256]) * 300_000)\n"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)])
        until = time.monotonic() + 60
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = path.read_bytes()
        assert len(content) == 300_000
        assert len(set(content)) == 1
        path.unlink()


def test_files_of_one_folder_do_not_disturb_each_other(tmp_path):
    threads = [
        threading.Thread(target=atomic.write_bytes, args=(tmp_path / "a.bin", bytes([n]) * 50_000)) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set((tmp_path / "a.bin").read_bytes())) == 1
    assert [p.name for p in Path(tmp_path).iterdir()] == ["a.bin"]


def test_a_staged_file_or_folder_appears_whole(tmp_path):
    path = tmp_path / "new" / "model.onnx"
    with atomic.staged(path) as draft:
        assert draft.name == path.name
        draft.write_bytes(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"

    folder = tmp_path / "new" / "model.ncnn"
    for content in ("one", "two"):  # the second replaces the first
        with atomic.staged(folder) as draft:
            draft.mkdir()
            (draft / "a").write_text(content)
        assert (folder / "a").read_text() == content
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.ncnn", "model.onnx"]


def test_what_was_there_stays_when_the_staged_work_fails(tmp_path):
    folder = tmp_path / "model.ncnn"
    folder.mkdir()
    (folder / "a").write_text("old")

    def fail() -> None:
        with atomic.staged(folder) as draft:
            draft.mkdir()
            (draft / "a").write_text("half")
            raise UserError("no")

    with pytest.raises(UserError, match="no"):
        fail()
    assert (folder / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.ncnn"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    folder = tmp_path / "model.ncnn"
    folder.mkdir()
    (folder / "mine").write_text("mine")

    def write() -> None:
        with atomic.staged(folder) as draft:
            draft.mkdir()
            (draft / "a").write_text("new")

    with pytest.raises(UserError, match="'mine', which is not part of a model"):
        write()
    assert [p.name for p in folder.iterdir()] == ["mine"]


def test_the_name_of_a_file_that_is_no_unicode_is_written(tmp_path):
    """As Linux gives `caf\\xe9.jpg` of an old archive; JSON gives it back."""
    name = os.fsdecode(b"caf\xe9.jpg")
    atomic.write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "caf\\udce9.jpg"
    atomic.write_json(tmp_path / "a.json", {"image": name})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"image": name}
