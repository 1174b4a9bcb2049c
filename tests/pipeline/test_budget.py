"""A build to a budget: the rule that shortlists, the time that is shared out, and the whole of it once."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from leandet import nets, pipeline
from leandet.data.read import read
from leandet.data.sample import Dataset, Sample
from leandet.data.shapes import draw_shapes
from leandet.detector.files import load_detector
from leandet.errors import UserError
from leandet.pipeline import Options, budget, stages, survey
from leandet.pipeline.budget import learnable, paced
from leandet.pipeline.options import Architecture
from leandet.pipeline.stages import Work, begin
from leandet.pipeline.survey import Surveyed
from leandet.preprocess import Size
from leandet.quantize import quantize
from leandet.runtime import open_runtime
from leandet.search import finalists, latency, run


def work_of(tmp_path, budget_ms=4.0, **options):
    """A build of twenty square photographs of 400 px."""
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    samples = tuple(Sample(tmp_path / f"{i}.jpg", Size(400, 400), *none, "a") for i in range(20))
    dataset = Dataset(tmp_path, "coco", ("a",), {"train": samples, "val": samples})
    return Work(Options(tmp_path, tmp_path / "out", budget_ms=budget_ms, **options), dataset, False)


def shortlisted(work, found, preparing=lambda size: 0.0):
    """By what the networks alone take, where nothing else is said."""
    return survey.shortlisted(survey.Places.of(work, preparing), found)


def surveyed(name="mobilenet_v2", at_320=8.0, size=9_000_000, top1=72.0):
    """A backbone whose time is 1 ms and the rest by area."""
    return Surveyed(name, 1.0, (at_320 - 1) / 320**2, size, top1)


def test_the_largest_input_within_reach_is_taken(tmp_path):
    # 1 ms stays, three fifths of the rest: (side / 320)^2 * 0.6 * 7 ms <= 3 ms up to 270 px
    assert shortlisted(work_of(tmp_path), [surveyed()]) == [Architecture("mobilenet_v2", 256)]


def test_without_time_to_cut_the_largest_input_is_one_that_is_in_time_as_it_is(tmp_path):
    places = survey.Places.of(work_of(tmp_path), lambda size: 0.0)
    # 1 ms stays, 7 ms by area: (side / 320)^2 * 7 ms + 1 ms <= 0.95 * 4 ms up to 202 px
    assert survey.fitting(places, [surveyed()], uncut=True) == [Architecture("mobilenet_v2", 192)]
    assert survey.fitting(places, [Surveyed("mobilenet_v2", 4.0, 1e-6, 1, 72.0)], uncut=True) == []
    large = survey.Places.of(work_of(tmp_path, max_bytes=5_000_000), lambda size: 0.0)
    assert survey.fitting(large, [surveyed()], uncut=True) == []  # nine megabytes, of which a third would be left
    assert survey.fitting(large, [surveyed()]) == [Architecture("mobilenet_v2", 256)]


def test_what_layers_cost_however_narrow_they_are_is_not_pruned(tmp_path):
    deep = Surveyed("mobilenet_v2", 3.7, 3 / 320**2, 9_000_000, 72.0)  # 0.6 * 3 ms * (side / 320)^2 <= 0.3 ms: 130 px
    assert shortlisted(work_of(tmp_path), [deep]) == [Architecture("mobilenet_v2", 128)]


def test_no_input_is_larger_than_the_photographs_need(tmp_path):
    assert shortlisted(work_of(tmp_path, 400.0), [surveyed()]) == [Architecture("mobilenet_v2", 416)]


def test_accuracy_and_resolution_rank(tmp_path):
    found = [surveyed("squeezenet1_1", top1=58.0), surveyed(), surveyed("mobilenet_v3_small", 2.0, top1=67.0)]
    ranked = [a.backbone for a in shortlisted(work_of(tmp_path), found)]
    assert ranked == ["mobilenet_v3_small", "mobilenet_v2", "squeezenet1_1"]  # 67 * 416^.5 > 72 * 256^.5
    assert len(shortlisted(work_of(tmp_path), [*found, surveyed("shufflenet_v2_x1_0")])) == 3


def test_a_backbone_goes_on_in_the_precision_that_suits_it(tmp_path):
    eight = dataclasses.replace(surveyed(at_320=5.0), int8=True)  # 352 px within reach instead of 256
    loss = dataclasses.replace(surveyed("squeezenet1_1", 5.0, top1=58.0), int8=True)
    found = [surveyed(), eight, surveyed("squeezenet1_1", 5.0, top1=58.0), loss]
    assert shortlisted(work_of(tmp_path), found) == [
        Architecture("mobilenet_v2", 352, int8=True),
        Architecture("squeezenet1_1", 352),  # no larger in 8 bit, and a little less accurate
    ]


def test_what_a_photograph_takes_to_become_an_input_counts(tmp_path):
    """256 px would be within reach, but take a millisecond to prepare; 224 px take none."""

    def preparing(size):
        return 1.0 if size.width == 256 else 0.0

    assert shortlisted(work_of(tmp_path), [surveyed()], preparing) == [Architecture("mobilenet_v2", 224)]
    slow = Surveyed("mobilenet_v2", 6.0, 1e-5, 1, 72.0)
    with pytest.raises(UserError, match=r"takes 6\.59 ms before pruning"):
        shortlisted(work_of(tmp_path, 1.0), [slow], lambda size: 0.5)


def test_a_folder_of_weights_says_which_backbones_there_are(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    work = work_of(tmp_path, weights=str(folder))
    with pytest.raises(UserError, match=r"needs a folder with NAME\.safetensors"):
        survey._available(work)
    (folder / "unknown.safetensors").touch()
    for name in ("shufflenet_v2_x0_5", "mobilenet_v1_050"):
        save_file(nets.create(name).state_dict(), folder / f"{name}.safetensors")
    assert sorted(survey._available(work)) == ["mobilenet_v1_050", "shufflenet_v2_x0_5"]
    detector, source = begin(work, Architecture("mobilenet_v1_050", 64))
    assert source == "mobilenet_v1_050.safetensors"
    kept = load_file(folder / source)
    assert all(torch.equal(value, kept[name]) for name, value in detector.backbone.state_dict().items())
    with pytest.raises(UserError, match=r"the folder has no mobilenet_v2\.safetensors"):
        begin(work, Architecture("mobilenet_v2", 64))


def test_what_is_asked_for_is_not_chosen_anew(tmp_path):
    assert shortlisted(work_of(tmp_path, size=224), [surveyed()]) == [Architecture("mobilenet_v2", 224)]


@pytest.mark.parametrize(
    ("asked", "measured"), [(None, (160, 320)), (320, (160, 320)), (224, (96, 224)), (32, (64, 32))]
)
def test_a_slope_is_measured_at_a_size_that_is_asked_for_too(asked, measured):
    """Without one nothing would seem to be saved by pruning."""
    assert survey._sides(asked) == measured


def test_a_file_far_too_large_is_left_out(tmp_path):
    found = [surveyed(), surveyed("shufflenet_v2_x0_5", 6.0, 2_000_000, 60.0)]
    ranked = shortlisted(work_of(tmp_path, max_bytes=1_000_000), found)
    assert [a.backbone for a in ranked] == ["shufflenet_v2_x0_5"]


def test_where_every_file_is_too_large_the_smallest_is_cut_at_its_largest_input(tmp_path):
    found = [surveyed(size=4_000_000), surveyed("shufflenet_v2_x0_5", 6.0, 2_000_000, 60.0)]
    assert shortlisted(work_of(tmp_path, max_bytes=700_000), found) == [Architecture("shufflenet_v2_x0_5", 320)]


def test_the_time_allowed_binds_the_epochs_asked_for(tmp_path):
    work = work_of(tmp_path, seconds=100.0, epochs=120)
    assert work.epochs == 120
    assert dataclasses.replace(work, done={"scout": {"epochs": 30}}).epochs == 30


@pytest.mark.parametrize(
    ("seconds", "allowed", "side"),
    [
        (10, 360, 320),
        (10, 1e9, 320),
        (20, 360, 224),
        (40, 360, 160),
        (10, float("inf"), 320),
        (1000, 1, 96),
        (1, -5, 96),
    ],
)
def test_what_there_is_no_time_to_train_becomes_smaller(seconds, allowed, side):
    """36 epochs of 108 are enough; an epoch takes as the area."""
    chosen = learnable(Architecture("mobilenet_v2", 320, True), seconds, allowed, 108)
    assert chosen == Architecture("mobilenet_v2", side, True)


@pytest.mark.parametrize(
    ("seconds", "scouts", "uncut"),
    [
        (None, [("mobilenet_v2", 256), ("shufflenet_v2_x0_5", 320)], False),
        # 88 % after scouting; of it 50 of 83 parts, 10 s an epoch: more than 100 epochs
        (2000.0, [("mobilenet_v2", 256), ("shufflenet_v2_x0_5", 320)], False),
        (1800.0, [("mobilenet_v2", 192), ("shufflenet_v2_x0_5", 256)], True),  # fewer
        (40.0, [("mobilenet_v2", 96)], True),  # 5 epochs of those; nor is there time for more than one scout
    ],
)
def test_what_there_is_no_time_to_train_and_cut_is_not_cut(tmp_path, monkeypatch, seconds, scouts, uncut):
    monkeypatch.setattr(budget, "seconds_for_epoch", lambda work, one: 10 * (one.side / 256) ** 2)
    work = work_of(tmp_path, seconds=seconds)
    work.done["survey"] = {
        "seconds": 0.0,
        "seconds_for_measurement": 0.0,
        "shortlist": [["mobilenet_v2", 256, False], ["shufflenet_v2_x0_5", 320, False]],
        "uncut": [["mobilenet_v2", 192, False], ["shufflenet_v2_x0_5", 256, False]],
    }
    pace = budget._pace(work, 100)
    assert ([(one.backbone, one.side) for one in pace.scouts], pace.uncut) == (scouts, uncut)
    again = dataclasses.replace(work, resume=True)
    monkeypatch.delattr(budget, "seconds_for_epoch")  # chosen once
    assert budget._pace(again, 100) == pace


@pytest.mark.parametrize(
    ("allowed", "found"),
    [(float("inf"), (3, 12)), (160, (3, 6)), (140, (3, 5)), (130, (2, 11)), (70, (2, 5)), (60, (1, 3)), (2, (1, 1))],
)
def test_scouts_are_fewer_rather_than_told_apart_by_nothing(allowed, found):
    """Epochs of 4, 6 and 10 s, a tenth of 120 wanted: five of each at least, or one alone for three; and all else."""
    assert paced([4.0, 6.0, 10.0], allowed, 120) == found


def test_short_trainings_have_short_scouts():
    assert paced([1.0, 1.0], 6.0, 10) == (2, 1)


def test_a_size_belongs_to_the_budget(tmp_path):
    options = work_of(tmp_path, max_bytes=1000).options
    assert options.in_time(4.0)
    assert not options.in_time(4.1)
    assert options.meets(4.0, 1000)
    assert not options.meets(4.1, 1000)
    assert not options.meets(4.0, 1001)
    assert Options(tmp_path, tmp_path).meets(1e9, 1 << 60)


def test_a_little_too_slow_is_left_to_pruning_and_far_too_slow_refused(tmp_path):
    slow = Surveyed("mobilenet_v2", 6.0, 1e-5, 1, 72.0)
    assert shortlisted(work_of(tmp_path, 2.0), [slow]) == [Architecture("mobilenet_v2", 96)]
    with pytest.raises(UserError, match=r"the budget of 1 ms cannot be met: the fastest found, .* takes 6.09 ms"):
        shortlisted(work_of(tmp_path, 1.0), [slow])


def test_the_time_left_is_what_finished_stages_leave(tmp_path):
    work = dataclasses.replace(work_of(tmp_path, seconds=100.0), done={"survey": {"seconds": 30.0}})
    assert budget.remaining_seconds(work) == 70
    assert budget.remaining_seconds(work_of(tmp_path)) == float("inf")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_bytes": 10}, "needs a budget"),
        ({"seconds": 10.0}, "needs a budget"),
        ({"budget_ms": 4.0, "max_bytes": 0}, "above 0 bytes"),
        ({"budget_ms": 4.0, "seconds": 0.0}, "time to work must be above 0"),
        ({"budget_ms": 4.0, "prune": 0.5}, "either a budget"),
        ({"target": "abacus"}, "must be one of onnx"),
    ],
)
def test_impossible_wishes_are_refused(tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        Options(tmp_path, tmp_path, **change)


@pytest.fixture(scope="module")
def quick():
    """Latency is measured for less time and fewer structures tried; everything else is as a person gets it."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (stages, "BENCH_SECONDS", 0.2),
            (survey, "SURVEY_SECONDS", 0.1),
            (budget, "SURVEY_SECONDS", 0.1),
            (budget, "TRIALS", 4),
            (survey, "BACKBONES", ("mobilenet_v1_025", "mobilenet_v1_050")),
            (survey, "SIDES", (64, 96)),
            (survey, "SMALLEST", 64),
            (run, "TIMED_SECONDS", 0.1),
            (finalists, "FINALISTS", 1),
            (finalists, "ATTEMPTS", 2),
            (latency, "PROFILE_SECONDS", 0.1),
        ):
            patch.setattr(module, name, value)
        yield


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp("budget")
    data = draw_shapes(root / "shapes", train=12, val=6, side=96)
    return Options(
        data, root / "out", None, "none", None, 16, 2, 4, threads=1, budget_ms=1e4, max_bytes=900_000, seconds=3600.0
    )


@pytest.fixture(scope="module")
def built(options, quick):
    lines = []
    return pipeline.build(options, tell=lines.append), lines


def test_a_build_to_a_budget_leaves_what_it_promises(built, options):
    results = built[0].results
    assert [row["name"] for row in results["stages"]] == ["train", "search", "export"]
    assert results["met"] is True
    assert results["chosen"]["path"] == "model.onnx"
    assert results["chosen"]["bytes"] <= 900_000
    by_stage = {row["stage"] for row in results["candidates"]}
    assert by_stage == {"survey", "scout", "search"}
    for row in results["candidates"]:
        assert row["p50_ms"] > 0
        assert (row["ap"] is None) == (row["stage"] == "survey")
    assert json.loads((options.out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert "search trial 0" in (options.out / "report.html").read_text(encoding="utf-8")


def test_the_chosen_scout_is_the_one_that_is_trained(built, options):
    results = built[0].results
    scouts = [row for row in results["candidates"] if row["stage"] == "scout"]
    _, card = load_detector(options.out / "model.safetensors")
    best = max(scouts, key=lambda row: row["ap"])
    assert best["name"].startswith(f"{card.spec.backbone} at {max(card.spec.size.height, card.spec.size.width)} px")
    assert card.classes == read(options.data)[0].classes


def test_a_finished_build_is_not_done_again(built, options, monkeypatch):
    def never(*arguments, **named):
        raise AssertionError("done again")

    for module, name in ((survey, "_measure"), (budget, "_scouted"), (budget, "search")):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr(stages, "train", never)
    again = pipeline.build(options, resume=True).results
    assert again["stages"] == built[0].results["stages"]
    assert again["candidates"] == built[0].results["candidates"]


def test_a_file_that_missed_the_budget_is_measured_again(built, options, monkeypatch, tmp_path):
    """Once within the same export, and by a resume: a machine may have been busy."""
    moved = shutil.copytree(options.out, tmp_path / "moved")
    note = moved / "stages" / "export.json"
    kept = json.loads(note.read_text())
    note.write_text(json.dumps(kept | {"p50_ms": 2e4}))
    measured = iter((3e4, 1.5e4, 2.0))

    def timed(work, path):
        return {"p50_ms": next(measured), "p90_ms": 4e4, "bytes": path.stat().st_size}

    monkeypatch.setattr(stages, "timed", timed)
    monkeypatch.setattr(stages, "train", None)
    lines = []
    results = pipeline.build(dataclasses.replace(options, out=moved), resume=True, tell=lines.append).results
    assert (results["met"], results["chosen"]["p50_ms"]) == (True, 2.0)
    assert results["chosen"]["measured_p50_ms"] == [3e4, 1.5e4, 2.0]
    assert [line for line in lines if "over the budget" in line] == [
        f"measured {ms:.2f} ms, over the budget: measuring again" for ms in (3e4, 1.5e4)
    ]


@pytest.mark.slow
def test_a_budget_may_be_planned_in_8_bit(options, quick, monkeypatch, tmp_path):
    """As it would be where 8 bit is much faster; the gate, which judges a detector of two epochs, is left open."""
    monkeypatch.setattr(survey, "ROUNDED", 2.0)
    monkeypatch.setattr(quantize, "_reasons", lambda judged, max_drop: ())
    eight = dataclasses.replace(options, out=tmp_path / "out", int8=True)
    results = pipeline.build(eight).results
    assert [row["name"] for row in results["stages"]] == ["train", "search", "export", "quantize"]
    assert results["met"] is True
    assert results["chosen"]["path"] == "model-int8.onnx"
    assert open_runtime(eight.out / "model-int8.onnx", 1).precision == "int8"
    names = [row["name"] for row in results["candidates"] if row["stage"] in ("survey", "scout")]
    assert sum("INT8" in name for name in names if "untrained" in name) == 4  # two backbones at two inputs
    assert all("INT8" in name for name in names if "epochs" in name)
    front = json.loads((eight.out / "search" / "front.json").read_text())
    assert front["int8"] is True
    assert results["chosen"]["bytes"] < 0.6 * (eight.out / "model.onnx").stat().st_size
    # The float32 file need not be in time, so a resume leaves it alone; INT8 that was refused is tried again.
    for name, slow in (("export", {"p50_ms": 2e4}), ("quantize", {"p50_ms": 2e4, "path": "model.onnx"})):
        note = eight.out / "stages" / f"{name}.json"
        note.write_text(json.dumps(json.loads(note.read_text()) | slow))
    monkeypatch.setattr(stages, "export", None)
    again = pipeline.build(eight, resume=True).results
    assert (again["met"], again["chosen"]["path"]) == (True, "model-int8.onnx")


@pytest.mark.slow
def test_a_budget_that_cannot_be_met_says_what_the_fastest_is(options, tmp_path):
    command = [sys.executable, "-m", "leandet.cli.app", "build", str(options.data), "--budget", "0.001ms"]
    ended = subprocess.run(
        [*command, "--backbone", "mobilenet_v1_025", "--size", "64", "--weights", "none", "--out", str(tmp_path / "o")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert (
        "the budget of 0.001 ms cannot be met: the fastest found, mobilenet_v1_025 at 64x64 px, takes" in ended.stderr
    )
    assert "Traceback" not in ended.stderr
