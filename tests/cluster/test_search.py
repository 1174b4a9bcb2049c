"""Workers on Ray share a study: as many trials as wanted, none twice, and none lost with a worker."""

import collections
import dataclasses
import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
import torch
from ray import cloudpickle

from leandet.card import Card
from leandet.cluster.connect import Cluster
from leandet.cluster.search import Hands, reachable, run_trials, search_on_ray
from leandet.data.read import read
from leandet.data.shapes import draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.files import save_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.learn.recipe import Recipe
from leandet.learn.train import train
from leandet.preprocess import Size
from leandet.search import Request, finalists, latency, run, search, study
from leandet.search.latency import Budget
from leandet.search.strategies import STRATEGIES

# The made-up machine of the search tests; importlib mode puts no test folder on the path.
_spec = importlib.util.spec_from_file_location("scenes", Path(__file__).parents[1] / "search" / "conftest.py")
scenes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(scenes)
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test

PATIENCE = 300  # seconds, on a busy machine


def wait_for(ready):
    end = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)


class Noting:
    """A judge that writes down who judges what; how many channels are left is what a structure is worth."""

    def __init__(self, log: Path, whole: int, partners: int) -> None:
        self.log, self.whole, self.partners = log, whole, partners

    def __setstate__(self, state):  # in a worker, before it opens the study: do not wait a minute for the dead
        self.__dict__.update(state)
        study.HEARTBEAT, study.GRACE = 1, 8

    def note(self, word, candidate):
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {word} {candidate.key}\n")

    def lines(self, word):
        """(process, candidate) of each run that begins or ends."""
        found = [line.split(" ", 2) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return [(int(process), key) for process, said, key in found if said == word]

    def __call__(self, candidate):
        self.note("begins", candidate)
        wait_for(lambda: len({process for process, _ in self.lines("begins")}) >= self.partners)
        time.sleep(0.05)
        self.note("ends", candidate)
        return sum(candidate.kept.values()) / self.whole


class Hanging(Noting):
    """The first worker to judge never ends."""

    @property
    def victim(self):
        return self.log.with_suffix(".victim")

    def __call__(self, candidate):
        try:
            with self.victim.open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return super().__call__(candidate)
        self.note("begins", candidate)
        time.sleep(10 * PATIENCE)
        return 0.0


@pytest.fixture(scope="module")
def scene():
    return scenes.make_scene(scenes.make_space())


def told_by(scene, judge, url, trials, hands):
    """What is told of a search's trials, and those that the study then holds."""
    told = []
    opened = study.open_study(url, {"what": "test"})
    worker = study.Worker(
        opened, scene, STRATEGIES["evolution"], judge, trials, 0, float("inf"), lambda n, trial: told.append((n, trial))
    )
    run_trials(worker, url, hands)
    return told, [t for t in opened.trials if t.state is optuna.trial.TrialState.COMPLETE]


def test_two_workers_run_the_wanted_trials_once_each(scene, ray_here, tmp_path):
    judge = Noting(tmp_path / "log", sum(scene.space.whole.kept.values()), partners=2)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    told, complete = told_by(scene, judge, url, 8, Hands(ray_here.address, workers=2))
    assert len(complete) == 8
    runs = judge.lines("ends")
    assert len({process for process, _ in runs}) == 2
    assert os.getpid() not in {process for process, _ in runs}
    assert sorted(judge.lines("begins")) == sorted(runs)
    assert max(collections.Counter(key for _, key in runs).values()) == 1
    assert [number for number, _ in told] == list(range(1, 9))
    assert {trial.candidate.key for _, trial in told} == {key for _, key in runs}
    again, complete = told_by(scene, judge, url, 8, Hands(ray_here.address, workers=1))
    assert (again, len(complete), judge.lines("ends")) == ([], 8, runs)


def test_a_killed_worker_loses_no_trial(scene, ray_here, tmp_path):
    judge = Hanging(tmp_path / "log", sum(scene.space.whole.kept.values()), partners=1)

    def kill():
        wait_for(lambda: judge.victim.exists() and judge.victim.read_text())
        wait_for(lambda: judge.lines("ends"))
        os.kill(int(judge.victim.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    told, complete = told_by(scene, judge, f"sqlite:///{tmp_path / 'study.db'}", 5, Hands(ray_here.address, workers=2))
    killer.join()
    ((_, lost),) = [one for one in judge.lines("begins") if one[0] == int(judge.victim.read_text())]
    assert len(complete) == len(told) == 5
    assert collections.Counter(key for _, key in judge.lines("ends"))[lost] == 1
    assert max(collections.Counter(key for _, key in judge.lines("ends")).values()) == 1
    assert lost in {trial.user_attrs["candidate"] for trial in complete}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Learned a little, so that AP is not zero."""
    folder = tmp_path_factory.mktemp("search")
    dataset = read(draw_shapes(folder / "shapes", train=16, val=6, side=64))[0]
    torch.manual_seed(0)
    detector = Detector(Spec("mobilenet_v1_025", len(dataset.classes), Size(64, 64), width=16))
    recipe = Recipe.from_nothing(epochs=12, batch=8, seed=0)
    recipe = dataclasses.replace(recipe, workers=0, evaluations=1, mosaic_share=0.0, warmup_epochs=0.5, ema_decay=0.5)
    train(detector, dataset.splits["train"], dataset.splits["val"], dataset.classes, recipe, folder / "training")
    save_detector(detector, Card(dataset.classes, detector.spec, {}, {}), folder / "model.safetensors")
    return folder


@pytest.mark.slow
def test_one_worker_finds_what_a_search_without_ray_finds(trained, ray_here, monkeypatch):
    monkeypatch.setattr(run, "TIMED_SECONDS", 0.1)
    monkeypatch.setattr(finalists, "FINALISTS", 1)
    monkeypatch.setattr(latency, "PROFILE_SECONDS", 0.1)
    monkeypatch.chdir(trained)  # the workers are elsewhere
    dataset, _ = read(Path("shapes"))
    model = Path("model.safetensors")
    here = Request(model, Path("here"), Budget(1e4, model.stat().st_size * 2 // 3), trials=4, threads=1)
    there = dataclasses.replace(here, out=Path("there"))
    lines = []
    found = search_on_ray(there, dataset, Hands(ray_here.address, workers=1), lines.append)
    wanted = search(here, dataset)
    assert [(t.number, t.candidate) for t in found.trials] == [(t.number, t.candidate) for t in wanted.trials]
    assert [t.ap for t in found.trials] == pytest.approx([t.ap for t in wanted.trials], abs=1e-6)
    assert max(t.ap for t in found.trials) > 0
    assert len([line for line in lines if line.startswith("trial ")]) == len(found.trials)
    assert found.path == Path("there") / "model.safetensors"
    assert found.path.is_file()


@pytest.mark.parametrize(
    ("url", "address", "machines"),
    [
        ("sqlite:///study.db", "auto", 2),
        ("sqlite:///study.db", "ray://host:10001", 1),
        ("sqlite:///:memory:", "local", 1),
        ("sqlite://", "local", 1),
    ],
)
def test_a_storage_of_one_machine_is_refused(url, address, machines):
    with pytest.raises(UserError, match="is of one machine only: give --storage"):
        reachable(url, address, Cluster((4,) * machines))


def test_where_the_storage_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert reachable("sqlite:///a/study.db", "local", Cluster((2,))) == f"sqlite:///{tmp_path}/a/study.db"
    shared = "postgresql://me:secret@host/studies"
    assert reachable(shared, "auto", Cluster((2, 2))) == shared


def test_how_many_workers_there_is_room_for():
    assert Cluster((4, 7, 1)).workers(2, None) == 5
    assert Cluster((4,)).workers(2, 9) == 9
    with pytest.raises(UserError, match="no machine of the cluster has 8 cores"):
        Cluster((4, 7)).workers(8, None)
