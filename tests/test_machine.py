import json
from importlib import metadata

import pytest
import torch

from leandet import machine


def test_what_is_measured_on_is_plain_and_names_the_software():
    found = machine.describe_machine()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["numpy"] == metadata.version("numpy")
    assert found["versions"]["leandet"] == metadata.version("leandet")


def test_run_from_its_source_leandet_has_a_version_too(monkeypatch):
    known = metadata.version

    def version(name):
        if name in ("leandet", "torch"):
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "version", version)
    assert machine.versions()["leandet"] == machine.UNINSTALLED
    assert "torch" not in machine.versions()  # what is not there at all is left out


@pytest.mark.parametrize(("capability", "size"), [("AVX512", 16), ("AVX2", 8), ("DEFAULT", 8)])
def test_blocks_are_the_machines(capability, size, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert machine.channel_block() == size
