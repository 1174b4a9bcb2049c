"""The main job end to end, on drawn data, once; then what a second run may and may not do."""

import dataclasses
import json
import shutil

import pytest
import torch

from leandet import pipeline
from leandet.card import Card
from leandet.data.read import read
from leandet.data.shapes import draw_shapes
from leandet.detector.files import load_detector
from leandet.errors import UserError
from leandet.evaluate import evaluate
from leandet.pipeline import Options, run, stages
from leandet.pipeline.plan import stages_of
from leandet.quantize import quantize as quantize_module
from leandet.runtime import open_runtime


@pytest.fixture(scope="module")
def quick():
    """Latency is measured for less time; everything else is as a person gets it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "BENCH_SECONDS", 0.2)
        yield


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp("build")
    data = draw_shapes(root / "shapes", train=12, val=6, side=96)
    return Options(data, root / "out", "mobilenet_v1_025", "none", size=64, width=16, epochs=1, batch=4, threads=1)


@pytest.fixture(scope="module")
def built(options, quick):
    lines = []
    return pipeline.build(options, tell=lines.append), lines


@pytest.fixture
def copy(built, options, tmp_path, quick):
    """A finished build of one's own."""
    shutil.copytree(options.out, tmp_path / "out")
    return dataclasses.replace(options, out=tmp_path / "out")


def test_a_build_leaves_what_it_promises(built, options):
    result, lines = built
    assert result.out == options.out
    for name in ("model.onnx", "model.safetensors", "results.json", "report.html"):
        assert (options.out / name).is_file(), name
    assert json.loads((options.out / "results.json").read_text()) == json.loads(json.dumps(result.results))
    assert [line for line in lines if line.startswith("stage")] == ["stage 1 of 2: train", "stage 2 of 2: export"]


def test_results_keep_the_names_that_others_rely_on(built, options):
    results = built[0].results
    names = {"data", "budget_ms", "met", "chosen", "stages", "candidates", "machine", "versions"}
    assert names <= set(results)
    assert {"path", "ap", "p50_ms", "bytes"} <= set(results["chosen"])
    assert [row["name"] for row in results["stages"]] == ["train", "export"]
    for row in results["stages"]:
        assert {"name", "ap", "p50_ms", "bytes", "parameters", "multiply_adds", "seconds"} <= set(row)
        assert row["p50_ms"] > 0
        assert row["seconds"] > 0
        assert row["bytes"] == (options.out / row["path"]).stat().st_size
    assert results["chosen"]["path"] == "model.onnx"
    assert results["budget_ms"] is None
    assert results["met"] is None


def test_the_figures_are_those_of_the_files(built, options):
    results = built[0].results
    detector, card = load_detector(options.out / "model.safetensors")
    parameters = sum(p.numel() for p in detector.parameters())
    assert [row["parameters"] for row in results["stages"]] == [parameters] * 2
    dataset, _ = read(options.data)
    assert card.classes == dataset.classes
    for row in results["stages"]:
        runtime = open_runtime(options.out / row["path"], 1)
        assert isinstance(runtime.card, Card)
        assert runtime.card == card
        scores, _ = evaluate(runtime, dataset.splits["val"], dataset.classes)
        assert row["ap"] == pytest.approx(scores.ap, abs=1e-6)
        assert row["images"] == len(dataset.splits["val"])
    assert card.metrics["ap"] == results["stages"][0]["ap"]
    assert 0 < card.metrics["threshold"] < 1
    assert card.threshold == card.metrics["threshold"]
    assert card.provenance["epochs"] == "1"
    assert card.provenance["backbone_weights"] == "none"


def test_the_report_stands_alone_and_names_the_figures(built, options):
    page = (options.out / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert "data:image/" in page
    for source in ('src="http', "src='http", 'rel="stylesheet"'):
        assert source not in page


@pytest.mark.parametrize("reasons", [(), ("it loses",)])  # what the gate says is tested where it lives
def test_the_gate_decides_which_file_is_chosen(copy, built, monkeypatch, reasons):
    monkeypatch.setattr(quantize_module, "_reasons", lambda judged, most: reasons)
    done = {row["name"]: row for row in built[0].results["stages"]}
    work = stages.Work(copy, read(copy.data)[0], False, done)
    row = stages.run_stage(stages.Quantize(), work)
    assert row["name"] == "quantize"
    assert row["path"] == ("model.onnx" if reasons else "model-int8.onnx")
    assert (copy.out / "model-int8.onnx").exists() == (not reasons) == row["int8"]["accepted"]
    assert row["bytes"] == (copy.out / row["path"]).stat().st_size
    assert [type(s).__name__ for s in stages_of(dataclasses.replace(copy, int8=True))][-1] == "Quantize"


def test_a_used_folder_is_refused_without_resume(built, options):
    with pytest.raises(UserError, match="already holds a build: add --resume"):
        pipeline.build(options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 96),
        ("width", 24),
        ("epochs", 2),
        ("batch", 8),
        ("seed", 1),
        ("backbone", "alexnet"),
        ("budget_ms", 5.0),
    ],
)
def test_a_resume_with_other_options_is_refused_and_named(built, options, name, value):
    with pytest.raises(UserError, match=f"begun with another {name}"):
        pipeline.build(dataclasses.replace(options, **{name: value}), resume=True)


def test_a_build_is_taught_and_says_so(built, options, tmp_path, quick):
    out, teacher = tmp_path / "taught", options.out / "model.safetensors"
    pipeline.build(dataclasses.replace(options, out=out, teacher=teacher))
    detector, card = load_detector(out / "model.safetensors")
    assert card.provenance["teacher"] == teacher.name
    assert [name for name in detector.state_dict() if "teacher" in name] == []
    alone, _ = load_detector(teacher)
    weights, others = detector.state_dict(), alone.state_dict()
    assert any(not torch.equal(weights[name], others[name]) for name in weights)  # the teacher did change something


def test_a_teacher_that_cannot_teach_is_refused_before_any_work(options, tmp_path):
    for budget in (None, 5.0):
        asked = dataclasses.replace(options, out=tmp_path / "out", teacher=tmp_path / "nowhere.safetensors")
        with pytest.raises(UserError, match="no such file"):
            pipeline.build(dataclasses.replace(asked, budget_ms=budget))
    assert not (tmp_path / "out").exists()


def test_nothing_to_resume(options, tmp_path):
    with pytest.raises(UserError, match="holds no build to resume"):
        pipeline.build(dataclasses.replace(options, out=tmp_path / "new"), resume=True)
    assert not (tmp_path / "new").exists()


def test_a_damaged_request_is_refused(copy):
    (copy.out / "build.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        pipeline.build(copy, resume=True)


def test_a_finished_stage_is_not_run_again(copy, built, monkeypatch):
    (copy.out / "stages" / "export.json").unlink()
    (copy.out / "model.onnx").unlink()
    weights = (copy.out / "model.safetensors").read_bytes()

    def never(*arguments, **named):
        raise AssertionError("trained again")

    monkeypatch.setattr(stages, "train", never)
    again = pipeline.build(copy, resume=True).results
    assert again["stages"][0] == built[0].results["stages"][0]
    assert (copy.out / "model.safetensors").read_bytes() == weights
    assert (copy.out / "model.onnx").is_file()
    assert again["chosen"]["ap"] == pytest.approx(built[0].results["chosen"]["ap"], abs=1e-6)


@pytest.mark.parametrize("harm", ["none", "missing model", "damaged note", "empty note", "note of another kind"])
def test_a_stage_whose_trace_is_not_whole_is_run_again(copy, built, options, monkeypatch, harm):
    asked = []

    def record(stage, work):
        asked.append(stage.name)
        shutil.copy(options.out / "model.onnx", copy.out)
        return built[0].results["chosen"]

    monkeypatch.setattr(run, "run_stage", record)  # what an export does is tested above; here, whether it is asked for
    if harm == "missing model":
        (copy.out / "model.onnx").unlink()
    elif harm != "none":
        content = {"damaged note": "{", "empty note": "", "note of another kind": "[]"}[harm]
        (copy.out / "stages" / "export.json").write_text(content)
    assert pipeline.build(copy, resume=True).results["stages"] == built[0].results["stages"]
    assert asked == ([] if harm == "none" else ["export"])


def test_a_training_of_its_own_is_the_first_stage(options, quick, built, tmp_path):
    row = pipeline.train_only(dataclasses.replace(options, out=tmp_path / "train"))
    wanted = built[0].results["stages"][0]
    assert row["ap"] == pytest.approx(wanted["ap"], abs=1e-6)  # the same seed, the same detector
    one, other = (load_detector(p / "model.safetensors")[0].state_dict() for p in (tmp_path / "train", options.out))
    for a, b in zip(one.values(), other.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not (tmp_path / "train" / "model.onnx").exists()


@pytest.mark.parametrize(
    "change",
    [{"data": None}, {"weights": "none.safetensors"}, {"backbone": "mobilenet_v9"}],
    ids=lambda c: next(iter(c)),
)
def test_a_mistake_found_at_once_does_not_use_up_the_folder(options, quick, tmp_path, change):
    if "data" in change:
        change = {"data": tmp_path / "nowhere"}
    wrong = dataclasses.replace(options, out=tmp_path / "out", **change)
    with pytest.raises(UserError):
        pipeline.build(wrong)
    result = pipeline.train_only(dataclasses.replace(options, out=tmp_path / "out"))  # mended: goes on, no --resume
    assert result["path"] == "model.safetensors"
