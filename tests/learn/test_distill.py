"""A teacher pulls where it is sure, beside the labels, and leaves no trace in what is saved."""

import copy

import pytest
import torch
from torch import Tensor

from leandet.card import Card
from leandet.compress import recalibrate
from leandet.data.read import read
from leandet.data.shapes import draw_shapes
from leandet.detector.decode import flatten
from leandet.detector.detector import Detector
from leandet.detector.files import save_detector
from leandet.detector.head import Maps
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.learn.distill import Distillation, answered, load_teacher, nearest
from leandet.learn.recipe import Recipe
from leandet.learn.train import LAST, train
from leandet.preprocess import Size

SIZE = Size(64, 64)


def tiny(seed: int, classes: int = 3) -> Detector:
    torch.manual_seed(seed)
    detector = Detector(Spec("mobilenet_v2_035", classes, SIZE, width=16))
    for tower in detector.head.classify:
        torch.nn.init.normal_(tower[-1].weight, std=2.0)
    recalibrate(detector, [pictures()])
    return detector


def pictures() -> Tensor:
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def maps_of(detector: Detector) -> Maps:
    with torch.no_grad():
        return detector.head(detector.features(pictures()))


def test_a_student_that_answers_alike_has_nothing_to_learn():
    teacher = tiny(0)
    assert float(Distillation(teacher)(teacher, maps_of(teacher), pictures())) == pytest.approx(0, abs=1e-5)
    assert float(Distillation(teacher)(teacher, maps_of(tiny(1)), pictures())) > 0.1


def test_the_nearer_to_the_teacher_the_less_the_loss():
    teacher, strange, wanted = tiny(0), maps_of(tiny(1)), maps_of(tiny(0))
    guide = Distillation(teacher)
    losses = []
    for share in (0.0, 0.5, 0.9, 1.0):
        mixed = Maps(
            *(
                [torch.lerp(a, b, share) for a, b in zip(*pair, strict=True)]
                for pair in zip(strange, wanted, strict=True)
            )
        )
        losses.append(float(guide(teacher, mixed, pictures())))
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < 0.2 * losses[0]


def test_a_duplicate_is_taught_to_be_silent():
    teacher = tiny(0)
    with torch.no_grad():
        for tower in teacher.head.choose:
            tower[-1].bias.fill_(-20)  # answers nowhere
    own = maps_of(teacher)
    chosen = [m.clone().fill_(5).requires_grad_() for m in own.chosen]
    Distillation(teacher)(teacher, own._replace(chosen=chosen), pictures()).backward()
    assert all((m.grad >= 0).all() for m in chosen)
    assert sum(float(m.grad.sum()) for m in chosen) > 0


def test_only_the_choice_learns_from_scores_and_boxes_count_where_the_teacher_is_sure():
    teacher = tiny(0)
    own = maps_of(tiny(1))
    sides = [m.clone().requires_grad_() for m in own.sides]
    Distillation(teacher)(teacher, own._replace(sides=sides), pictures()).backward()
    pull = torch.cat([m.grad.abs().sum(1).flatten(1) for m in sides], 1)
    sure = flatten(maps_of(teacher).classes).sigmoid().amax(-1)
    assert float(pull[sure > 0.5].mean()) > 3 * float(pull[sure < 0.05].mean())


def test_copies_share_the_teacher():
    guide = Distillation(tiny(0))
    assert copy.deepcopy(guide) is guide
    assert not any(p.requires_grad for p in guide.teacher.parameters())


def test_training_with_a_teacher_and_a_scale_penalty_saves_the_student_alone(tmp_path):
    dataset, _ = read(draw_shapes(tmp_path / "data", train=4, val=2, side=96))
    ends = []
    for name, guide, penalty in (("plain", None, 0.0), ("taught", Distillation(tiny(1, 5)), 1.0)):
        detector = tiny(0, 5)
        recipe = Recipe(epochs=1, batch=4, workers=0, patience=0, warmup_epochs=0.0, scale_penalty=penalty)
        splits = dataset.splits
        outcome = train(detector, splits["train"], splits["val"], dataset.classes, recipe, tmp_path / name, guide=guide)
        checkpoint = torch.load(tmp_path / name / LAST, weights_only=True)
        ends.append((outcome.curves[-1], set(checkpoint["state_dict"]), detector))
    (plain, names, one), (taught, others, other) = ends
    assert names == others
    assert "loss/distillation" not in plain
    assert taught["loss/distillation"] > 0
    assert set(taught) - set(plain) == {"loss/distillation", "loss/scales"}
    assert float(scales(other)) < float(scales(one))
    parts = sum(value for name, value in taught.items() if name.startswith("loss/"))
    assert taught["loss"] == pytest.approx(parts, rel=1e-4)


def scales(detector: Detector) -> Tensor:
    return sum(p.weight.detach().abs().sum() for p in detector.modules() if isinstance(p, torch.nn.BatchNorm2d))


def test_who_cannot_teach(tmp_path):
    detector = tiny(0)
    save_detector(detector, Card(("a", "b", "c"), detector.spec), tmp_path / "t.safetensors")
    assert load_teacher(tmp_path / "t.safetensors", ("a", "b", "c"), (8, 16, 32)).spec == detector.spec
    with pytest.raises(UserError, match="classes are not the 2"):
        load_teacher(tmp_path / "t.safetensors", ("a", "b"), (8, 16, 32))
    with pytest.raises(UserError, match=r"strides \[8, 16, 32\], not \[8, 16\]"):
        load_teacher(tmp_path / "t.safetensors", ("a", "b", "c"), (8, 16))
    with pytest.raises(UserError, match="must be above 0"):
        Distillation(detector, 0.0)
    with pytest.raises(UserError, match="scale_penalty must be at least 0"):
        Recipe(scale_penalty=-1.0)


def test_the_nearest_is_the_least_disturbed():
    whole = tiny(0).eval()
    made = []
    for size in (0.3, 0.03, 0.1):
        other = copy.deepcopy(whole)
        with torch.no_grad():
            for weight in other.neck.parameters():
                weight.mul_(1 + size)
        made.append(other)
    seen = [(pictures(), answered(whole, pictures()))]
    assert nearest(made, seen) is made[1]
    twin = copy.deepcopy(made[1])
    assert nearest([twin, made[1]], seen) is twin
