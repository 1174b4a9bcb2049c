"""`leandet nets`."""

import json

import pytest

from leandet import nets
from leandet.cli.nets import nets_command
from leandet.errors import UserError


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(nets, "TABLE", {name: nets.TABLE[name] for name in ("mobilenet_v2", "shufflenet_v2_x0_5")})


def test_json_has_the_promised_keys(two, capsys):
    nets_command(224, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["mobilenet_v2", "shufflenet_v2_x0_5"]
    assert rows[0]["parameters"] == 3_504_872
    assert rows[0]["multiply_adds"] == 300_774_272
    assert rows[0]["taps"][2] == {"channels": 320, "stride": 32}
    assert {"memory_access_bytes", "activations", "source"} <= rows[0].keys()


def test_the_table_prints_whole_rows(two, capsys):
    nets_command(64)
    out = capsys.readouterr().out
    assert "MobileNetV2, arXiv 1801.04381" in out
    assert "32, 96, 320" in out


def test_a_size_without_features_is_refused():
    with pytest.raises(UserError, match="--size must be from 64"):
        nets_command(32)
