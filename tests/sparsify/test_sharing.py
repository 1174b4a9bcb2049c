"""Shared values."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from leandet.errors import UserError
from leandet.sparsify import share, sparsify
from leandet.sparsify.sharing import cluster, nearest


def cost(values, centres):
    return float(((values[:, None] - centres[None]) ** 2).min(1).sum())


def best_split(values, count):
    """The cheapest of all ways to part sorted values into ranges."""
    ordered = np.sort(values)
    parts = itertools.combinations(range(1, len(ordered)), count - 1)
    return min(sum(float(((p - p.mean()) ** 2).sum()) for p in np.split(ordered, list(ends))) for ends in parts)


def test_clusters_are_a_fixed_point_of_lloyds_algorithm():
    values = np.random.default_rng(0).standard_normal(5000)
    centres = cluster(values, 16)
    assert (np.diff(centres) > 0).all()
    chosen = np.abs(values[:, None] - centres).argmin(1)
    np.testing.assert_allclose(centres, [values[chosen == k].mean() for k in range(len(centres))], atol=1e-12)
    np.testing.assert_array_equal(nearest(values, centres), centres[chosen])


def test_separate_heaps_are_found():
    values = np.concatenate([np.random.default_rng(k).normal(c, 0.01, 6) for k, c in enumerate((-3, 0.5, 4))])
    assert cost(values, cluster(values, 3)) == pytest.approx(best_split(values, 3))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_weights_take_few_values_zeros_stay_and_the_rest_is_close(bits):
    torch.manual_seed(0)
    given_ = sparsify(nn.Sequential(nn.Linear(96, 96), nn.BatchNorm1d(96)), 0.5).module
    given_[1].running_var.uniform_(0.5, 2)
    made = share(given_, bits)
    weight, before = made[0].weight.detach(), given_[0].weight.detach()
    assert len(weight[weight != 0].unique()) <= 2**bits
    assert torch.equal(weight == 0, before == 0)
    assert (weight - before).abs().max() <= (before.max() - before.min()) / 2**bits
    assert made[1].running_var.equal(given_[1].running_var.bfloat16().float())
    assert made[1].num_batches_tracked == given_[1].num_batches_tracked


def test_values_that_are_few_enough_stay_as_they_are():
    layer = nn.Linear(64, 64)
    few = torch.tensor([-3.0, 0.0, 0.25, 4.0])
    with torch.no_grad():
        layer.weight.copy_(few[torch.randint(0, 4, (64, 64), generator=torch.Generator().manual_seed(0))])
    assert torch.equal(share(layer, 2).weight, layer.weight)


def test_the_start_beats_an_even_one():
    """Lloyd's algorithm from evenly spaced centres, to its end, on values with the tails that weights have."""
    values = np.random.default_rng(0).standard_t(3, 4000)
    centres, before = np.linspace(values.min(), values.max(), 64), None
    while not np.array_equal(centres, before):
        before = centres
        chosen = np.abs(values[:, None] - centres).argmin(1)
        centres = np.array([values[chosen == k].mean() if (chosen == k).any() else c for k, c in enumerate(centres)])
    assert cost(values, cluster(values, 64)) < 0.8 * cost(values, centres)


def test_equal_values_and_none():
    layer = nn.Linear(64, 64)
    for value in (0.0, 0.25):
        with torch.no_grad():
            layer.weight.fill_(value)
        assert torch.equal(share(layer, 2).weight, layer.weight)


@pytest.mark.parametrize("bits", [0, 9])
def test_impossible_bits(bits):
    with pytest.raises(UserError, match="1 to 8 bits"):
        share(nn.Linear(2, 2), bits)


def test_values_that_are_not_finite():
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"weight holds values that are not finite"):
        share(layer)
