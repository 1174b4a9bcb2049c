from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leandet.cli.data import data_app
from leandet.data.read import read
from leandet.errors import UserError

CAT = ("cat", (1, 2, 31, 42))
runner = CliRunner()


@pytest.fixture
def data(root: Path, flat_voc: Callable[..., Path]) -> Path:
    for k in range(10):
        flat_voc(f"p{k}", [CAT, ("[red]dog", (5, 5, 5, 5) if k == 0 else (5, 5, 9, 9))])
    return root


def test_check(data: Path) -> None:
    result = runner.invoke(data_app, ["check", str(data)])
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "error: p0.xml:object 2: the box" in result.stderr
    assert "trains on 10 of 10 images, 19 of 20 boxes" in result.stderr
    assert "[red]dog" in result.stderr


def test_check_json_is_one_object(data: Path) -> None:
    result = runner.invoke(data_app, ["check", str(data), "--json", "--threads", "1"])
    assert json.loads(result.stdout)["used_boxes"] == 19
    assert result.stdout.count("\n") == 1


def test_convert_split_and_show(data: Path, tmp_path: Path) -> None:
    result = runner.invoke(data_app, ["convert", str(data), "--to", "yolo", "--out", str(tmp_path / "yolo"), "--json"])
    assert json.loads(result.stdout) == {
        "out": str(tmp_path / "yolo"),
        "layout": "yolo",
        "images": {"train": 10},
        "left_out": 0,
    }
    out = tmp_path / "split"
    result = runner.invoke(data_app, ["split", str(data), "--out", str(out), "--test-fraction", "0.2", "--seed", "3"])
    assert result.exit_code == 0
    back, report = read(out)
    assert {name: len(samples) for name, samples in back.splits.items()} == {"train": 6, "val": 2, "test": 2}
    assert not report.made
    result = runner.invoke(data_app, ["show", str(data), "--out", str(tmp_path / "shown"), "--count", "2", "--json"])
    assert all(Path(path).is_file() for path in json.loads(result.stdout)["pictures"])


def test_a_wrong_folder_is_the_users_error(tmp_path: Path) -> None:
    result = runner.invoke(data_app, ["check", str(tmp_path / "none")])
    assert isinstance(result.exception, UserError)
    assert result.stdout == ""


def test_importing_the_commands_is_light() -> None:
    heavy = (
        "import sys, leandet.cli.data; print([m for m in ('numpy', 'cv2', 'torch', 'rich.table') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert not {"numpy", "cv2", "torch"} & set(eval(done.stdout))


def test_reading_needs_no_torch() -> None:
    code = "import sys, leandet.data.read, leandet.data.convert, leandet.data.show; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
