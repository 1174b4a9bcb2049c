"""A cache folder of the tests' own."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LEANDET_CACHE", str(tmp_path_factory.getbasetemp() / "leandet-cache"))
