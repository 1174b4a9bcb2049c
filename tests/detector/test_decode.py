import torch

from leandet.detector.decode import boxes_at, flatten, locations, to_boxes, top_k


def maps(batch: int, channels: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, channels, h, w, generator=generator) for h, w in ((8, 12), (4, 6), (2, 3))]


def test_locations_are_the_cells_centres_in_reading_order_finest_first():
    features, strides = maps(1, 1), (8, 16, 32)
    points, sizes = locations(features, strides)
    wanted = [
        ((x + 0.5) * s, (y + 0.5) * s, s)
        for feature, s in zip(features, strides, strict=True)
        for y in range(feature.shape[2])
        for x in range(feature.shape[3])
    ]
    assert [(*p, s) for p, s in zip(points.tolist(), sizes.tolist(), strict=True)] == wanted


def test_flatten_keeps_each_value_at_its_location():
    features = maps(2, 5)
    flat = flatten(features)
    n = 0
    for feature in features:
        for y in range(feature.shape[2]):
            for x in range(feature.shape[3]):
                assert torch.equal(flat[:, n], feature[:, :, y, x])
                n += 1
    assert flat.shape == (2, n, 5)


def test_boxes_reach_the_distances_from_their_point():
    distances = flatten(maps(2, 4)).abs()
    points, strides = locations(maps(1, 1), (8, 16, 32))
    boxes = to_boxes(distances, points, strides)
    for b in range(2):
        for n, (x, y) in enumerate(points.tolist()):
            left, top, right, bottom = (distances[b, n] * strides[n]).tolist()
            torch.testing.assert_close(boxes[b, n], torch.tensor([x - left, y - top, x + right, y + bottom]))


def test_top_k_is_a_sort_of_each_locations_best_class():
    logits, generator = flatten(maps(3, 4)), torch.Generator().manual_seed(1)
    boxes = torch.rand(3, logits.shape[1], 4, generator=generator)
    for k in (1, 10, 126, 500):
        found_boxes, scores, labels = top_k(logits, boxes, k)
        assert labels.dtype == torch.int64
        for b in range(3):
            rows = logits[b].tolist()
            order = sorted(range(len(rows)), key=lambda n, rows=rows: -max(rows[n]))[:k]
            assert torch.equal(found_boxes[b], boxes[b, order])
            assert labels[b].tolist() == [rows[n].index(max(rows[n])) for n in order]
            torch.testing.assert_close(scores[b], torch.tensor([max(rows[n]) for n in order]).sigmoid())


def test_boxes_of_a_few_locations_are_theirs_among_all():
    distances = flatten(maps(2, 4)).abs()
    points, strides = locations(maps(1, 1), (8, 16, 32))
    places = torch.randint(len(points), (2, 7), generator=torch.Generator().manual_seed(0))
    wanted = to_boxes(distances, points, strides)
    for image in range(2):
        found = boxes_at(places[image : image + 1], distances[image : image + 1, places[image]], points, strides)
        assert torch.equal(found[0], wanted[image, places[image]])
