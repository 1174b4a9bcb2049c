"""Two processes train as one with the doubled batch does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from leandet.data.loader import EpochSampler
from leandet.data.read import read
from leandet.data.shapes import draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.learn.processes import Processes, share
from leandet.learn.recipe import Recipe
from leandet.learn.train import train
from leandet.preprocess import Size

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def learn(data: Path, out: Path, batch: int) -> None:
    torch.set_num_threads(1)
    dataset, _ = read(data)
    torch.manual_seed(0)
    detector = Detector(Spec("squeezenet1_1", len(dataset.classes), Size(64, 64), width=16))
    for module in detector.modules():  # over half a batch it would differ: there is no synchronised one on the CPU
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, self=module: self
    recipe = Recipe(epochs=3, batch=batch, evaluations=1, patience=0, workers=0, warmup_epochs=1.0)
    train(detector, dataset.splits["train"], dataset.splits["val"], dataset.classes, recipe, out)
    if Processes.here().first:
        torch.save(detector.state_dict(), out / "state.pt")


if __name__ == "__main__":
    learn(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("shapes"), train=17, val=3, side=96)


def test_a_gpu_is_fed_by_more_loaders_than_a_cpu(monkeypatch):
    monkeypatch.setattr("leandet.learn.processes.usable_cores", lambda: 16)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert Processes().loaders == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [Processes(world=n).loaders for n in (1, 4, 16)] == [8, 3, 1]


def start(command: list[str]) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=580, check=False, env=environment)


def test_two_processes_have_the_loss_curve_of_one_with_the_doubled_batch(data, tmp_path):
    one = start([sys.executable, __file__, str(data), str(tmp_path / "one"), "8"])
    assert one.returncode == 0, one.stderr
    two = start([*TORCHRUN, __file__, str(data), str(tmp_path / "two"), "4"])
    assert two.returncode == 0, two.stderr
    curves = [json.loads((tmp_path / name / "curves.json").read_text()) for name in ("one", "two")]
    assert len(curves[0]) == len(curves[1]) == 3
    for a, b in zip(*curves, strict=True):
        for name in (key for key in a if key.startswith("loss")):
            assert b[name] == pytest.approx(a[name], rel=1e-3), (a["epoch"], name)
        assert b["learning_rate"] == a["learning_rate"]
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("one", "two")]
    weights = [
        torch.cat([tensor.flatten() for tensor in state.values() if tensor.is_floating_point()]) for state in states
    ]
    assert (weights[1] - weights[0]).norm() < 1e-3 * weights[0].norm()


@pytest.mark.slow
def test_the_command_trains_under_torchrun_and_saves_once(data, tmp_path):
    options = ["--backbone", "squeezenet1_1", "--weights", "none", "--size", "64", "--width", "16", "--epochs", "1"]
    command = ["-m", "leandet.cli.app", "train", str(data), "--out", str(tmp_path / "out"), *options, "--batch", "4"]
    ended = start([*TORCHRUN, *command, "--threads", "1", "--json"])
    assert ended.returncode == 0, ended.stderr
    answers = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == 1
    assert json.loads(answers[0])["path"] == "model.safetensors"
    load_detector(tmp_path / "out" / "model.safetensors")


@pytest.mark.parametrize(("count", "batch"), [(16, 4), (17, 4), (19, 3)])
def test_each_step_sees_the_pictures_of_the_doubled_batch(count, batch):
    whole = [draw.sample for draw in EpochSampler(count, 3, 0)]
    ranks = [[draw.sample for draw in EpochSampler(count, 3, 0, rank, 2)] for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == count // 2
    for step in range(count // (2 * batch)):
        both = {sample for rank in ranks for sample in rank[step * batch : (step + 1) * batch]}
        assert both == set(whole[2 * step * batch : 2 * (step + 1) * batch])


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, Processes()),
        ({"WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "2", "RANK": "5"}, Processes(8, 2, 5)),
        (
            {"SLURM_NTASKS": "4", "SLURM_NNODES": "4", "SLURM_PROCID": "3", "SLURM_NTASKS_PER_NODE": "1"},
            Processes(4, 4, 3),
        ),
        ({"SLURM_NTASKS": "4", "SLURM_NNODES": "4"}, Processes()),
    ],
)
def test_the_environment_says_how_many(monkeypatch, environment, wanted):
    _clear(monkeypatch)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Processes.here() == wanted
    assert wanted.each * wanted.nodes == wanted.world


@pytest.mark.parametrize("values", [("3", "2", "0"), ("two", "1", "0"), ("2", "1", "2")])
def test_numbers_without_sense_are_refused(monkeypatch, values):
    _clear(monkeypatch)
    for name, value in zip(("WORLD_SIZE", "GROUP_WORLD_SIZE", "RANK"), values, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="WORLD_SIZE"):
        Processes.here()


def test_srun_has_to_say_how_many_each_machine_has(monkeypatch):
    """Lightning ends in a traceback without."""
    _clear(monkeypatch)
    for name, value in {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--ntasks-per-node"):
        Processes.here()


def _clear(monkeypatch):
    for name in (
        "WORLD_SIZE",
        "GROUP_WORLD_SIZE",
        "RANK",
        "SLURM_NTASKS",
        "SLURM_NNODES",
        "SLURM_PROCID",
        "SLURM_NTASKS_PER_NODE",
    ):
        monkeypatch.delenv(name, raising=False)


def test_alone_a_share_is_all_and_at_least_one():
    assert share(torch.tensor(5)) == 5
    assert share(torch.tensor(0)) == 1
