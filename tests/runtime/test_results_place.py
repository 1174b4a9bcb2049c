import pytest

from leandet.errors import UserError
from leandet.runtime.results_place import reserved


def test_recordings_at_once_have_names_of_their_own(tmp_path):
    out, film = tmp_path / "out", tmp_path / "camera.mov"
    film.touch()
    with reserved("0", out) as first:
        with reserved("1", out) as second:
            assert (first, second) == (out / "camera", out / "camera_2")
            (out / "camera_2.jsonl").write_text("{}\n")
            with reserved(str(film), out) as third:  # a film's name that a recording might have
                assert third == out / "camera_3"
        (out / "camera.jsonl").write_text("{}\n")
    (out / "camera_3.mp4").touch()
    with pytest.raises(UserError, match="no frame"), reserved("0", out) as fourth:
        raise UserError(f"no frame, {fourth}")
    assert fourth == out / "camera_4"
    assert sorted(p.name for p in out.iterdir()) == ["camera.jsonl", "camera_2.jsonl", "camera_3.mp4"]
    with pytest.raises(UserError, match="cannot be made"), reserved("0", out / "camera.jsonl"):
        pass


def test_no_film_is_drawn_over_itself_or_another(tmp_path):
    film = tmp_path / "film.mp4"
    film.touch()
    with reserved(str(film), tmp_path / "out") as place:
        assert place == tmp_path / "out" / "film"
    with pytest.raises(UserError, match=r"film\.mp4 would be overwritten"), reserved(str(film), tmp_path):
        pass
    other = tmp_path / "out" / "film.mp4"
    other.parent.mkdir()
    other.touch()
    with pytest.raises(UserError, match=r"film\.mp4 would be overwritten"), reserved(str(film), other.parent):
        pass
    other.with_suffix(".jsonl").touch()  # an earlier drawing, which is replaced
    with reserved(str(film), other.parent) as place:
        assert place == other.parent / "film"
    assert other.with_suffix(".jsonl").exists()
