"""The choice's own last epochs."""

from dataclasses import replace

import pytest
import torch

from leandet.data.loader import training_loader
from leandet.errors import UserError
from leandet.learn.peaks import FALLS, accuracies, keep_apart, steepest
from leandet.learn.recipe import Recipe
from leandet.learn.settle import settle
from leandet.learn.validation import validation_loader

RECIPE = Recipe(epochs=20, batch=4, workers=0, settling=0.5)


def settled(dataset, detector, recipe=RECIPE):
    size = detector.spec.size
    loader = training_loader(dataset.splits["train"], size, batch=4, seed=0, mosaic_until=9, workers=0)
    judge = validation_loader(dataset.splits["val"], size, 4)
    return settle(detector, loader, judge, dataset.splits["val"], dataset.classes, recipe), loader


def test_only_the_choice_changes(dataset, untrained):
    detector = untrained()
    detector.backbone.requires_grad_(False)
    frozen = "head.choose.0.2.weight"
    detector.get_parameter(frozen).requires_grad_(False)
    learned = {name: weight.requires_grad for name, weight in detector.named_parameters()}
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    figures, loader = settled(dataset, detector)
    after = detector.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name for name in before if name.startswith("head.choose")} - {frozen}
    assert {name: weight.requires_grad for name, weight in detector.named_parameters()} == learned
    assert not any(module.training for module in detector.modules())
    assert loader.sampler.mosaic_until == 0
    assert 0 <= figures.ap <= 1
    assert detector.spec.fall == steepest(figures.ap_by_fall, dataset.splits["val"])
    judge = validation_loader(dataset.splits["val"], detector.spec.size, 4)
    own, together = (
        accuracies(detector, judge, dataset.splits["val"], dataset.classes, [detector.spec.fall], classwise=classwise)
        for classwise in (True, False)
    )
    fall = detector.spec.fall
    assert own[fall] == figures.ap_by_fall[fall]
    assert detector.spec.classwise == keep_apart(own[fall], together[fall])
    assert figures.ap == (own if detector.spec.classwise else together)[fall]


@pytest.mark.parametrize(
    ("without", "together", "classwise", "ap"),
    [(0.5, 0.5, False, 0.5), (0.5, 0.4995, False, 0.4995), (0.5, 0.49, True, 0.5), (0.9, 0.9, True, 0.9)],
)
def test_classes_compete_with_each_other_where_that_costs_nothing(
    dataset, untrained, monkeypatch, without, together, classwise, ap
):
    """AP is .5 with every fall; without one so much better in the last row that nothing competes."""

    def told(detector, validation, samples, classes, falls=FALLS, *, classwise=True):
        return {fall: without if not fall else 0.5 if classwise else together for fall in falls}

    monkeypatch.setattr("leandet.learn.settle.accuracies", told)
    detector = untrained()
    figures, _ = settled(dataset, detector, replace(RECIPE, settling=0.05))
    assert (detector.spec.classwise, figures.ap) == (classwise, ap)


def test_the_choice_learns_the_height_of_scores(dataset, untrained):
    """A choice that says yes everywhere is brought down."""
    detector = untrained()
    for tower in detector.head.choose:
        torch.nn.init.constant_(tower[-1].bias, 3.0)
    first, _ = settled(dataset, detector, replace(RECIPE, settling=0.05))
    last, _ = settled(dataset, detector, replace(RECIPE, settling=1.0))
    assert last.loss < 0.8 * first.loss


def test_zeros_stay(dataset, untrained):
    detector = untrained()
    weight = detector.head.choose[0][0][1][0].weight
    cut = torch.zeros_like(weight, dtype=torch.bool)
    cut[::2] = True
    with torch.no_grad():
        weight[cut] = 0
    kept = weight.detach().clone()
    settled(dataset, detector)
    assert (weight[cut] == 0).all()
    assert not torch.equal(weight, kept)


def test_epochs_are_a_share_of_the_recipes():
    assert Recipe(epochs=100).settling_epochs == 16
    assert Recipe(epochs=1).settling_epochs == 1
    assert Recipe(epochs=100, settling=0).settling_epochs == 0
    assert Recipe(epochs=100, scale_penalty=1e-4).settling_epochs == 0
    with pytest.raises(UserError, match="settling must be from 0 to 1, not 2"):
        Recipe(settling=2)
