"""The search end to end on drawn data, and the judge against the evaluation that everyone else uses."""

import dataclasses
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sqlalchemy.exc import OperationalError

from leandet.card import Card
from leandet.compress.criteria import l1
from leandet.data.image import load_image
from leandet.data.read import read
from leandet.data.sample import evenly
from leandet.data.shapes import draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, save_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.evaluate import evaluate
from leandet.learn.recipe import Recipe
from leandet.learn.train import Outcome, train
from leandet.metrics import MIN_SCORE
from leandet.preprocess import Size
from leandet.runtime import open_runtime
from leandet.search import JudgedBy, Request, finalists, latency, run, search
from leandet.search.judge import Judge, channel_worth
from leandet.search.latency import Budget
from leandet.search.space import Space
from leandet.search.supernet import WEIGHTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def dataset(folder):
    return read(draw_shapes(folder / "shapes", train=16, val=6, side=64))[0]


@pytest.fixture(scope="module")
def model(folder, dataset):
    """Learned a little, so that AP is not zero."""
    torch.manual_seed(0)
    detector = Detector(Spec("mobilenet_v1_025", len(dataset.classes), Size(64, 64), width=16))
    recipe = Recipe.from_nothing(epochs=12, batch=8, seed=0)
    recipe = dataclasses.replace(recipe, workers=0, evaluations=1, mosaic_share=0.0, warmup_epochs=0.5, ema_decay=0.5)
    train(detector, dataset.splits["train"], dataset.splits["val"], dataset.classes, recipe, folder / "training")
    path = folder / "model.safetensors"
    save_detector(detector, Card(dataset.classes, detector.spec, {}, {}), path)
    return path


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(run, "TIMED_SECONDS", 0.1)
    monkeypatch.setattr(finalists, "FINALISTS", 1)
    monkeypatch.setattr(finalists, "ATTEMPTS", 1)
    monkeypatch.setattr(latency, "PROFILE_SECONDS", 0.1)


def labelled_by(runtime, sample):
    """The picture, with the answers that have an area as its labels."""
    found = runtime(load_image(sample.image))
    own = found[((found.boxes[:, 2:] - found.boxes[:, :2]).min(1) > 2) & (found.scores > MIN_SCORE)]
    nothing = {"crowd": np.zeros(len(own), bool), "areas": np.zeros(0, np.float32)}
    return dataclasses.replace(sample, boxes=own.boxes, labels=own.labels, **nothing)


def test_the_judge_measures_what_eval_measures(model, dataset, tmp_path):
    """On labels that are the candidate's own answers: where all are right, the last bit of a score moves no AP."""
    detector, card = load_detector(model)
    space = Space(detector, l1)
    candidate = space.candidate(space.even(8))
    made = Judge(space, dataset).calibrated(candidate)
    save_detector(made, Card(card.classes, made.spec, {}, {}), tmp_path / "cut.safetensors")
    runtime = open_runtime(tmp_path / "cut.safetensors", 1)
    own = tuple(labelled_by(runtime, sample) for sample in dataset.splits["val"])
    judge = Judge(space, dataclasses.replace(dataset, splits={**dataset.splits, "val": own}))
    scores, _ = evaluate(runtime, own, dataset.classes)
    assert judge(candidate) == pytest.approx(scores.ap, abs=1e-6)
    assert judge(candidate) == judge(candidate) > 0.99
    assert judge(space.candidate(space.even(4))) < 0.9 * scores.ap


def test_worth_is_the_losss_and_repeatable(model, dataset):
    detector, _ = load_detector(model)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    one, two = (channel_worth(detector, dataset.splits["train"], 0) for _ in range(2))
    assert all(torch.equal(one.importance[key], two.importance[key]) for key in one.importance)
    assert any(bool((value > 0).any()) for value in one.importance.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


@pytest.mark.slow
def test_a_search_from_end_to_end(model, dataset, folder, quick):
    limit = model.stat().st_size * 2 // 3
    request = Request(model, folder / "out", Budget(1e4, limit), trials=5, threads=1, epochs=1, batch=4)
    lines = []
    found = search(request, dataset, lines.append)
    assert found.path == folder / "out" / "model.safetensors"
    runtime = open_runtime(found.path, 1)
    scores, _ = evaluate(runtime, dataset.splits["val"], dataset.classes)
    assert found.ap == pytest.approx(scores.ap, abs=1e-6)
    assert runtime.card.metrics["val_ap"] == found.ap
    assert runtime.card.spec.kept  # it was narrowed, and is an ordinary file
    results = json.loads((folder / "out" / "front.json").read_text())
    assert results == json.loads(json.dumps(found.results))
    assert results["chosen"]["p50_ms"] > 0
    assert results["budget_bytes"] == limit
    assert 0 < len(results["front"]) <= len(results["trials"]) <= 5
    assert (folder / "out" / "front.svg").read_text().startswith("<svg")
    judged = [line for line in lines if line.startswith("trial ")]
    again = []
    search(dataclasses.replace(request, epochs=0), dataset, again.append)
    assert judged
    assert not [line for line in again if line.startswith("trial ")]  # all were finished


def test_some_judged_images_have_an_object(model, dataset):
    space = Space(load_detector(model)[0], l1)
    with_one = dataset.splits["val"][0]
    empty = dataclasses.replace(
        with_one,
        boxes=with_one.boxes[:0],
        labels=with_one.labels[:0],
        crowd=with_one.crowd[:0],
        areas=with_one.areas[:0],
    )

    def judging(samples):
        return Judge(space, dataclasses.replace(dataset, splits={**dataset.splits, "val": tuple(samples)}))

    rare = [*[empty] * 400, with_one, *[empty] * 400]
    assert with_one not in evenly(rare, 96)  # as it would be without looking
    assert 0 <= judging(rare).ap(space.detector) <= 1
    with pytest.raises(UserError, match="no labelled object"):
        judging([empty]).ap(space.detector)


def test_no_fine_tuning_goes_on_from_another_searchs(model, dataset, tmp_path):
    request = Request(model, tmp_path, Budget(4.0), epochs=3)
    other = tmp_path / "other.safetensors"
    detector, card = load_detector(model)
    with torch.no_grad():
        next(detector.parameters()).add_(1)
    save_detector(detector, card, other)
    whole = Space(detector, l1).whole
    requests = [request, *(dataclasses.replace(request, **change) for change in ({"model": other}, {"seed": 1}))]
    folders = {run._tuning_folder(one, dataset, whole) for one in requests}
    assert len(folders) == 3
    assert run._tuning_folder(request, dataset, whole) in folders


def test_a_storage_that_fails_beside_the_trials_is_one_sentence(model, dataset, tmp_path, quick):
    def fails(worker):
        raise OperationalError("SELECT", {}, RuntimeError("database or disk is full"))

    request = Request(model, tmp_path, Budget(1e4), trials=2, threads=1, epochs=0)
    with pytest.raises(UserError, match=r"storage failed \(.*disk is full.*run the search again"):
        search(request, dataset, run=fails)


@pytest.mark.parametrize(
    ("after", "at_equal_fall", "lost"),
    [(-1.0, None, True), (2.0, None, False), (-1.0, 2.0, False), (2.0, -1.0, True)],
)
def test_fine_tuning_that_loses_is_taken_back(model, dataset, tmp_path, monkeypatch, after, at_equal_fall, lost):
    detector, card = load_detector(model)
    space, request = Space(detector, l1), Request(model, tmp_path, Budget(4.0), threads=1, epochs=3)
    before = {name: value.clone() for name, value in detector.state_dict().items()}

    def tune(request, dataset, made, folder):
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(1)
        falls = {} if at_equal_fall is None else {made.spec.fall: at_equal_fall}
        made.spec = dataclasses.replace(made.spec, fall=made.spec.fall - 1)
        return Outcome(after, 2, 0.0, 0.0, [], falls)

    monkeypatch.setattr(run, "tune", tune)
    ap, epochs = run._tuned(request, dataset, card, detector, space.whole, lambda line: None)
    assert epochs == (0 if lost else 2)  # it stopped early
    assert (detector.spec == card.spec) is lost
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items()) is lost
    scores, _ = evaluate(open_runtime(model, 1), dataset.splits["val"], dataset.classes)
    assert ap == (pytest.approx(scores.ap, abs=1e-6) if lost else after)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_a_detector_within_the_budget_is_left_as_it_is(model, dataset, tmp_path, quick, strategy):
    lines = []
    request = Request(model, tmp_path, Budget(1e4), trials=5, threads=1, epochs=1, strategy=strategy, smaller_inputs=2)
    found = search(request, dataset, lines.append)
    made, whole = (load_detector(path)[0] for path in (found.path, model))
    assert made.spec == whole.spec
    for (name, value), other in zip(made.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert len(found.trials) == 1
    assert not [line for line in lines if "fine-tuning" in line]


@pytest.mark.slow
def test_a_search_that_its_time_stopped_goes_on(model, dataset, tmp_path, quick, monkeypatch):
    limit = Budget(1e4, model.stat().st_size * 2 // 3)
    request = Request(model, tmp_path, limit, trials=3, seconds=1e5, threads=1, strategy="random")
    clock, lines = time.monotonic, []

    def trials(said):
        return [line.split(":")[0] for line in said if line.startswith("trial ")]

    monkeypatch.setattr(time, "monotonic", lambda: clock() + 2e5 * bool(trials(lines)))  # over after the first trial
    search(request, dataset, lines.append)
    assert trials(lines) == ["trial 1 of 3"]
    monkeypatch.setattr(time, "monotonic", clock)
    again, once_more = [], []
    assert len(search(request, dataset, again.append).trials) == 3
    assert trials(again) == ["trial 2 of 3", "trial 3 of 3"]
    search(request, dataset, once_more.append)
    assert not [line for line in once_more if line.startswith(("trial ", "measuring finalist"))]


@pytest.mark.slow
def test_a_search_judged_by_a_supernet(model, dataset, tmp_path, quick):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    limit = Budget(1e4, model.stat().st_size * 2 // 3)
    request = Request(
        model, tmp_path / "one", limit, trials=2, threads=1, batch=8, strategy="random", storage=url,
        judge=JudgedBy.SUPERNET, supernet_epochs=1,
    )  # fmt: skip
    lines = []
    found = search(request, dataset, lines.append)
    assert "training the supernet, 1 epochs" in lines
    assert found.results["judge"] == "supernet"
    (net,) = (tmp_path / "one").glob("supernet-*-1x8")
    # The winner is cut from the supernet, not from the model: what no cut touches is the supernet's.
    made, whole, trained = (load_detector(path)[0].state_dict() for path in (found.path, net / WEIGHTS, model))
    outputs = [name for name in made if name.startswith("head.classify") and name.endswith(".2.bias")]
    assert outputs
    assert all(torch.equal(made[name], whole[name]) for name in outputs)
    assert not any(torch.equal(made[name], trained[name]) for name in outputs)
    again = []
    search(request, dataset, again.append)
    assert not [line for line in again if line.startswith(("trial ", "training the supernet"))]
    # Another judge is another search; another worker needs the same supernet, and is told so before it trains one.
    with pytest.raises(UserError, match="holds a search with another judge"):
        search(dataclasses.replace(request, judge=JudgedBy.RECALIBRATE), dataset)
    other = dataclasses.replace(request, out=tmp_path / "two", trials=3)
    with pytest.raises(UserError, match="another worker's supernet judges the trials of this storage"):
        search(other, dataset)
    shutil.copytree(net, tmp_path / "two" / net.name, dirs_exist_ok=True)
    assert len(search(other, dataset).trials) > len(found.trials)


@pytest.mark.slow
def test_a_budget_that_cannot_be_met_is_one_sentence(model, folder):
    command = [sys.executable, "-m", "leandet.cli.app", "search", str(model), "--data", str(folder / "shapes")]
    ended = subprocess.run(
        [*command, "--budget", "0.001ms", "--threads", "1", "--out", str(folder / "never")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert "the budget cannot be met with this detector: its narrowest structure, 64x64 px, takes" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert not (folder / "never" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategy": "luck"}, "must be one of evolution"),
        ({"to": "abacus"}, "must be one of onnx"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"epochs": -1}, "epochs must be at least 0"),
        ({"supernet_epochs": 0}, "supernet_epochs must be at least 1"),
    ],
)
def test_impossible_requests_are_refused(tmp_path, change, said):
    request = Request(tmp_path / "m.safetensors", tmp_path, Budget(4.0))
    with pytest.raises(UserError, match=said):
        dataclasses.replace(request, **change)


@pytest.mark.parametrize("change", [{"ms": 0.0}, {"ms": float("inf")}, {"ms": 1.0, "bytes": 0}])
def test_impossible_budgets_are_refused(change):
    with pytest.raises(UserError, match="must be above 0"):
        Budget(**change)
