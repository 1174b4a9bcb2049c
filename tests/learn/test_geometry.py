import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, generalized_box_iou

from leandet.learn.geometry import matched, near, pairwise


def random_boxes(*shape: int, seed: int, side: float = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * side
    return torch.cat([corner, corner + 1 + torch.rand(*shape, 2, generator=generator) * side], -1)


@pytest.mark.parametrize("seed", range(5))
def test_pairwise_overlap_is_torchvisions(seed):
    objects, predictions = random_boxes(3, 7, seed=seed), random_boxes(3, 40, seed=seed + 100)
    overlap = pairwise(objects, predictions)
    for image in range(3):
        torch.testing.assert_close(overlap.iou[image], box_iou(objects[image], predictions[image]))
        torch.testing.assert_close(overlap.giou[image], generalized_box_iou(objects[image], predictions[image]))
    assert (overlap.iou > 0.1).any()  # not all of them apart
    assert (overlap.iou == 0).any()


# Whole pixels: touching, nested and equal boxes come up often.
corners = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 12)] * 2)


@given(st.lists(st.tuples(corners, corners), min_size=1, max_size=20))
@settings(max_examples=60)
def test_matched_overlap_is_torchvisions(pairs):
    a, b = (
        torch.tensor([(x, y, x + w, y + h) for x, y, w, h in boxes], dtype=torch.float32)
        for boxes in zip(*pairs, strict=True)
    )
    overlap = matched(a, b)
    torch.testing.assert_close(overlap.iou, box_iou(a, b).diagonal(), rtol=0, atol=1e-6)
    torch.testing.assert_close(overlap.giou, generalized_box_iou(a, b).diagonal(), rtol=0, atol=1e-6)


def test_boxes_without_area_have_a_finite_overlap_and_gradient():
    flat = torch.tensor([[5.0, 5, 5, 5], [1, 1, 4, 1]], requires_grad=True)
    overlap = matched(flat, flat.detach().clone())
    overlap.giou.sum().backward()
    assert torch.isfinite(overlap.giou).all()
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("radius", [0.0, 0.5, 1.5, 4.0])
def test_near_is_what_a_loop_over_locations_says(radius):
    objects = random_boxes(2, 6, seed=3, side=40)
    objects[0, 0] = torch.tensor([10.0, 10, 11, 11])  # too small to hold a location
    points, strides = [], []
    for stride in (8, 16, 32):
        for y in range(96 // stride):
            for x in range(64 // stride):
                points.append(((x + 0.5) * stride, (y + 0.5) * stride))
                strides.append(float(stride))
    found = near(objects, torch.tensor(points), torch.tensor(strides), radius)
    assert found.shape == (2, 6, len(points))
    for image in range(2):
        for row, (left, top, right, bottom) in enumerate(objects[image].tolist()):
            for n, ((x, y), stride) in enumerate(zip(points, strides, strict=True)):
                inside = left < x < right and top < y < bottom
                gap = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2))
                assert bool(found[image, row, n]) == (inside or gap < radius * stride)
