from pathlib import Path

import pytest

from leandet.errors import UserError
from leandet.runtime.sources import find_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "notes.txt", ".hidden.jpg", "odd[1].jpg", "raw.dat"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def _names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_with_its_subfolders(photos):
    assert _names(find_images([str(photos)])) == ["a.PNG", "b.jpg", "odd[1].jpg", "c.webp"]


def test_a_file_named_outright_whatever_its_suffix(photos):
    assert _names(find_images([str(photos / "raw.dat"), str(photos / "odd[1].jpg")])) == ["odd[1].jpg", "raw.dat"]


def test_patterns(photos):
    assert _names(find_images([str(photos / "*.jpg")])) == ["b.jpg", "odd[1].jpg"]
    assert "c.webp" in _names(find_images([str(photos / "**" / "*.webp")]))


def test_each_image_once(photos, monkeypatch):
    monkeypatch.chdir(photos)
    (photos / "link.jpg").symlink_to(photos / "b.jpg")
    assert _names(find_images(["b.jpg", str(photos / "b.jpg"), "sub/../b.jpg", "link.jpg"])) == ["b.jpg"]


@pytest.mark.parametrize("source", ["none.jpg", "*.gif", "empty", "nul\0byte", "~nobody-at-all/x.jpg", ""])
def test_what_matches_nothing_is_one_sentence(photos, monkeypatch, source):
    (photos / "empty").mkdir()
    monkeypatch.chdir(photos / "empty" if source == "" else photos)
    with pytest.raises(UserError) as caught:
        find_images([source])
    assert "\n" not in str(caught.value)


def test_no_sources():
    with pytest.raises(UserError, match="no images were given"):
        find_images([])
