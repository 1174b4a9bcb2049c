"""A detector pruned with data: what is left behind, what a second run may do, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from leandet.card import Card
from leandet.compress import Budget, Quantity, Rule, Schedule, Target, recalibrate, shrink
from leandet.data.read import read
from leandet.data.shapes import CLASSES, draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, save_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.evaluate import evaluate
from leandet.pipeline import Latency, Milliseconds, Options, Pruning, Ratio, Remaining, prune, prune_detector, stages
from leandet.pipeline.goal import Uncut, remaining
from leandet.pipeline.plan import stages_of
from leandet.pipeline.scoring import CRITERIA, Pictures
from leandet.pipeline.stages import Work, run_stage
from leandet.preprocess import Size
from leandet.runtime import open_runtime

SIZE = Size(64, 64)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Latency is measured for less time; everything else is as a person gets it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prune, "BENCH_SECONDS", 0.1)
        patch.setattr(stages, "BENCH_SECONDS", 0.1)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return read(draw_shapes(tmp_path_factory.mktemp("shapes"), train=6, val=3, side=96))[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A detector with scores and boxes that depend on the picture, untrained."""
    torch.manual_seed(0)
    detector = Detector(Spec("mobilenet_v1_025", len(CLASSES), SIZE, width=16))
    for tower in detector.head.classify:
        torch.nn.init.normal_(tower[-1].weight, std=0.5)
    generator = np.random.default_rng(0)
    views = [cv2.resize(generator.integers(0, 256, (6, 8, 3), np.uint8), (64, 64)) for _ in range(16)]
    detector = recalibrate(detector, [torch.from_numpy(np.stack(views).transpose(0, 3, 1, 2))])
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_detector(detector, Card(CLASSES, detector.spec, {}, {"seed": "0"}), path)
    return path


HALF = Pruning(remaining(0.5), align=1, epochs=1, batch=4, threads=1)


@pytest.fixture(scope="module")
def pruned(model, dataset, tmp_path_factory):
    out, lines = tmp_path_factory.mktemp("pruned") / "half.safetensors", []
    return out, prune_detector(model, dataset, out, HALF, tell=lines.append), lines, HALF


def test_half_of_the_multiply_adds_go_and_an_ordinary_model_is_left(model, dataset, pruned):
    out, result, lines, _ = pruned
    assert [p["name"] for p in result["points"]] == ["before", "cut", "recalibrated", "tuned"]
    before, after = result["before"]["multiply_adds"], result["after"]["multiply_adds"]
    assert 0.4 < after / before <= 0.5
    detector, card = load_detector(out)
    assert detector.spec.kept
    assert card.spec == detector.spec
    assert card.provenance["seed"] == "0"
    assert card.provenance["pruned"] == "50.0% of the multiply-adds remain, taylor, global, steps 1"
    assert (card.provenance["teacher"], card.provenance["distill"]) == (model.name, "1")
    curves = json.loads((out.with_suffix(".pruning") / "tuned" / "curves.json").read_text())
    assert all(row["loss/distillation"] > 0 for row in curves)
    assert not [name for name in detector.state_dict() if "teacher" in name]
    assert card.metrics["ap"] == result["after"]["ap"]
    assert result["after"]["bytes"] == out.stat().st_size < model.stat().st_size
    assert result["before_p50_ms"] > 0 < result["p50_ms"]
    assert any(line.startswith("recalibrated: AP") for line in lines)
    assert json.loads(json.dumps(result)) == result


def test_every_point_is_a_file_with_its_own_figures(dataset, pruned):
    out, result, _, _ = pruned
    files = [(out.with_suffix(".pruning") / f"{p['name']}.safetensors", p) for p in result["points"]]
    for path, point in [*files[1:], (out, result["after"])]:
        scores, _ = evaluate(open_runtime(path, 1), dataset.splits["val"], dataset.classes)
        assert point["ap"] == pytest.approx(scores.ap, abs=1e-6)
        assert load_detector(path)[1].metrics["ap"] == point["ap"]
        assert point["parameters"] == sum(p.numel() for p in load_detector(path)[0].parameters())


def test_recalibration_measures_the_training_images(dataset, pruned):
    folder = pruned[0].with_suffix(".pruning")
    cut, calm = (load_detector(folder / f"{name}.safetensors")[0] for name in ("cut", "recalibrated"))
    norm = next(name for name, part in cut.named_modules() if isinstance(part, torch.nn.BatchNorm2d))
    seen = []
    cut.get_submodule(norm).register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0].mean((0, 2, 3))))
    with torch.no_grad():
        for images in Pictures(dataset.splits["train"], SIZE, HALF.batch, 0).plain():
            cut(images)
    assert len(seen) == 2  # six pictures, four a batch
    mean = calm.get_submodule(norm).running_mean
    torch.testing.assert_close(mean, torch.stack(seen).mean(0), rtol=1e-3, atol=1e-4)
    for one, other in zip(cut.parameters(), calm.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_finished_pruning_is_not_done_again(model, dataset, pruned, monkeypatch):
    out, result, _, pruning = pruned

    def never(*arguments, **named):
        raise AssertionError("done again")

    monkeypatch.setattr(prune, "train", never)
    monkeypatch.setattr(prune, "shrink", never)
    with pytest.raises(UserError, match="already holds a pruning: add --resume"):
        prune_detector(model, dataset, out, pruning)
    weights = out.read_bytes()
    again = prune_detector(model, dataset, out, pruning, resume=True)
    assert again["points"] == result["points"]
    assert out.read_bytes() == weights
    with pytest.raises(UserError, match="begun with another criterion"):
        prune_detector(model, dataset, out, dataclasses.replace(pruning, criterion="l2"), resume=True)


def test_an_interrupted_pruning_goes_on_where_it_was(model, dataset, pruned, tmp_path):
    out, result, _, pruning = pruned
    shutil.copytree(out.with_suffix(".pruning"), tmp_path / "half.pruning")
    for name in ("tuned.json", "recalibrated.safetensors"):  # one point not reached, one not whole
        (tmp_path / "half.pruning" / name).unlink()
    shutil.rmtree(tmp_path / "half.pruning" / "tuned")
    lines = []
    same = dataclasses.replace(pruning, align=None)  # not asked for: as it was begun, whatever this machine's block
    again = prune_detector(model, dataset, tmp_path / "half.safetensors", same, resume=True, tell=lines.append)
    assert again["align"] == 1
    assert [p["ap"] for p in again["points"]] == pytest.approx([p["ap"] for p in result["points"]], abs=1e-6)
    assert any("recalibrated.safetensors is not whole" in line for line in lines)
    assert not any(line.startswith("cut:") for line in lines)


@pytest.mark.slow
def test_step_by_step_follows_the_schedule(model, dataset, tmp_path):
    rules = (Rule("neck.reduce.0.0", ratio=0.5),)
    pruning = dataclasses.replace(HALF, steps=2, epochs=0, schedule=Schedule.LINEAR, criterion="taylor", rules=rules)
    result = prune_detector(model, dataset, tmp_path / "p.safetensors", pruning)
    names = ["before", "1-cut", "1-recalibrated", "2-cut", "2-recalibrated"]
    assert [p["name"] for p in result["points"]] == names
    shares = [p["multiply_adds"] / result["before"]["multiply_adds"] for p in result["points"]]
    assert 0.7 < shares[1] <= 0.75
    assert 0.45 < shares[3] <= 0.5
    kept = load_detector(tmp_path / "p.safetensors")[0].spec.kept
    assert kept["neck.reduce.0.0"] == load_detector(model)[0].spec.width // 2  # half in the end, not half twice


def test_candidates_that_are_measured_know_their_widths(model):
    """A stopwatch exports each structure once, and tells them apart by what they say of themselves."""
    seen = []

    def measure(candidate):
        seen.append(candidate.spec.kept)
        return sum(parameter.numel() for parameter in candidate.parameters())

    uncut = load_detector(model)[0]
    half = 0.5 * sum(parameter.numel() for parameter in uncut.parameters())
    made = shrink(uncut, torch.zeros(1, 3, 64, 64), target=Budget(measure, half, "parameters")).module
    assert made.spec.kept in seen
    assert len({json.dumps(kept, sort_keys=True) for kept in seen}) == len(seen) > 3


def test_aims_add_up_to_the_goal(model):
    uncut, example = load_detector(model)[0], torch.zeros(1, 3, 64, 64)
    place = Uncut(uncut, example, lambda module: 10.0, lambda module: 0.9)
    assert Ratio(0.5).aim(place, uncut, 0.5, 0).ratio == pytest.approx(0.25)
    assert Ratio(0.5).aim(place, uncut, 1, 0.5).ratio == pytest.approx(1 - 0.5 / 0.75)
    half = shrink(uncut, example, target=Target(Quantity.PARAMETERS, 0.6))
    aim = Remaining(Target(Quantity.PARAMETERS, 0.5)).aim(place, half.module, 1, 0.8)
    assert aim.target.share == pytest.approx(0.5 / half.parameters)
    assert Milliseconds(4.0).aim(place, uncut, 0.5, 0).target.most == 7.0
    assert Milliseconds(4.0).aim(place, uncut, 1, 0.5).target.most == 4.0
    assert Latency(0.4).aim(place, uncut, 0.5, 0).target.most == pytest.approx(0.7)
    assert Latency(0.4).aim(place, uncut, 1, 0.5).target.most == pytest.approx(0.4)


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_ranks_a_detectors_channels(model, dataset, name):
    detector = load_detector(model)[0]
    criterion = CRITERIA[name](detector, Pictures(dataset.splits["train"], SIZE, 3, 0))
    result = shrink(detector, torch.zeros(1, 3, 64, 64), 0.5, criterion)
    other = shrink(detector, torch.zeros(1, 3, 64, 64), 0.5, lambda group: torch.arange(group.count))
    assert result.widths == other.widths
    pairs = zip(result.module.parameters(), other.module.parameters(), strict=True)
    assert not all(torch.equal(one, two) for one, two in pairs), "it ranks as if it did not look"
    assert not any(p.grad is not None for p in detector.parameters())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"goal": remaining(0.001)}, r"cannot be reached: .* remain at least"),
        ({"goal": remaining(0.001), "steps": 3}, r"cannot be reached: .* remain at least"),
        ({"rules": (Rule("nowhere.*", exclude=True),)}, "matches no layer that can be cut: there are backbone"),
        ({"teacher": Path("nowhere.safetensors")}, "no such file"),
        ({"teacher": Path("nowhere.safetensors"), "distill": 0.0}, "teaches nothing with the weight 0"),
        ({"distill": -1.0}, "at least 0, not -1"),
    ],
)
def test_what_a_person_can_mend_is_said_before_anything_is_trained(model, dataset, tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        prune_detector(model, dataset, tmp_path / "p.safetensors", dataclasses.replace(HALF, **change))
    assert not (tmp_path / "p.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"criterion": "l3"}, "must be one of l1, l2, fpgm"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"sparse_epochs": 2}, "need a scale_penalty above 0"),
    ],
)
def test_options_out_of_range(change, sentence):
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(HALF, **change)
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="from 0 to below 1"):
            Ratio(wrong)
    for wrong in (0.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="above 0 ms"):
            Milliseconds(wrong)
    for wrong in (0.0, 1.0, float("nan")):
        with pytest.raises(UserError, match="above 0 and below 1"):
            Latency(wrong)


def test_names_that_would_overwrite_or_mislead(model, dataset, tmp_path):
    with pytest.raises(UserError, match="is the model itself"):
        prune_detector(model, dataset, model, HALF)
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        prune_detector(model, dataset, tmp_path / "p.onnx", HALF)
    other = dataclasses.replace(dataset, classes=("cat", "dog"))
    with pytest.raises(UserError, match="classes are not those of"):
        prune_detector(model, other, tmp_path / "p.safetensors", HALF)


def test_the_stages_of_a_build_follow_its_options(tmp_path):
    options = Options(tmp_path, tmp_path / "out")
    assert [stage.name for stage in stages_of(options)] == ["train", "export"]
    assert [s.name for s in stages_of(dataclasses.replace(options, prune=0.4))] == ["train", "prune", "export"]
    for wrong in (0.0, 1.0, -0.5):
        with pytest.raises(UserError, match="above 0 and below 1"):
            dataclasses.replace(options, prune=wrong)


@pytest.mark.slow
def test_what_is_exported_is_the_pruned_detector(model, dataset, tmp_path):
    shutil.copy(model, tmp_path / "model.safetensors")
    options = Options(dataset.root, tmp_path, size=64, epochs=1, batch=4, threads=1, prune=0.5)
    trained = {"name": "train", "path": "model.safetensors"}
    work = Work(options, dataset, resume=False, done={"train": trained})
    _, *rest = stages_of(options)
    for stage in rest:
        work.done[stage.name] = run_stage(stage, work)
    row, exported = work.done["prune"], work.done["export"]
    assert {"name", "ap", "p50_ms", "bytes", "parameters", "multiply_adds", "seconds", "points"} <= set(row)
    assert row["multiply_adds"] == exported["multiply_adds"]
    assert exported["path"] == "model.onnx"
    assert open_runtime(tmp_path / "model.onnx", 1).card.spec == load_detector(tmp_path / "pruned.safetensors")[0].spec


@pytest.mark.slow
def test_a_mistake_found_at_once_does_not_use_up_the_folder(model, dataset, tmp_path):
    out = tmp_path / "p.safetensors"
    with pytest.raises(UserError, match="matches no layer"):
        prune_detector(model, dataset, out, dataclasses.replace(HALF, rules=(Rule("nowhere"),)))
    result = prune_detector(model, dataset, out, dataclasses.replace(HALF, epochs=0))  # mended: goes on, no --resume
    assert [p["name"] for p in result["points"]] == ["before", "cut", "recalibrated"]


def test_what_another_pruning_began_with_is_not_believed(model, dataset, tmp_path, monkeypatch):
    """Nothing of it is worth keeping, so its folder is taken; its figures are not."""
    out = tmp_path / "p.safetensors"
    note = out.with_suffix(".pruning") / "before.json"
    note.parent.mkdir()
    note.write_text("{}", encoding="utf-8")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prune, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prune_detector(model, dataset, out, HALF)
    assert not note.exists()
