"""Who learns which object: assigners, callables `(predictions, targets) -> Matches` that know nothing of losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from leandet.data.batch import Targets
from leandet.detector.decode import Predictions
from leandet.learn.geometry import Overlap, matched, near, pairwise

ALPHA = 0.25  # focal loss's balance and focus, arXiv 1708.02002, table 1b
GAMMA = 2.0
OUTSIDE = 1e4  # far above any cost: a location that the prior rules out is taken only when nothing else is left


class Matches(NamedTuple):
    """P pairs of a location and the object that it shall predict.

    Attributes:
        image: (P,) int64, row of the batch.
        location: (P,) int64, index into the N locations; unique within an image.
        target: (P,) int64, index into the M objects of that image.
        quality: (P,) in [0, 1], how good the match is among its object's; 1 for the best.
    """

    image: Tensor
    location: Tensor
    target: Tensor
    quality: Tensor


class Assigner(Protocol):
    """Chooses matches for a whole batch at once, without gradient."""

    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Predictions of B images and their targets -> matches."""
        ...


def of_class(values: Tensor, labels: Tensor) -> Tensor:
    """Values (B, N, C) at each object's class (B, M) -> (B, M, N)."""
    index = labels[..., None].expand(-1, -1, values.shape[1])
    return values.transpose(1, 2).gather(1, index)


def input_extent(predictions: Predictions) -> Tensor:
    """Width and height (2,) of the network's input in pixels: how far the finest locations reach.

    Coarser ones reach further where their stride does not divide the input.
    """
    finest = predictions.strides[0]
    extent: Tensor = predictions.points[predictions.strides == finest].amax(0) + finest / 2
    return extent


def classification_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """OneNet's classification cost (arXiv 2012.05780, section 3.2): focal loss as positive less as negative.

    Logits (B, N, C) and labels (B, M) -> (B, M, N).
    """
    return of_class(_positive_less_negative(logits), labels)


def _positive_less_negative(logits: Tensor) -> Tensor:
    """The focal loss of each logit as a positive, less that as a negative."""
    p = logits.sigmoid()
    positive = ALPHA * (1 - p) ** GAMMA * -(p + 1e-8).log()
    negative = (1 - ALPHA) * p**GAMMA * -(1 - p + 1e-8).log()
    return positive - negative


class Pairs(NamedTuple):
    """P pairs of an object and a location, and how their boxes lie.

    Attributes:
        image, target, location: (P,) int64, as in `Matches`.
        truth, boxes: (P, 4) of the objects, and of the locations.
        overlap: of the two, (P,).
    """

    image: Tensor
    target: Tensor
    location: Tensor
    truth: Tensor
    boxes: Tensor
    overlap: Overlap

    @classmethod
    @torch.no_grad()
    def near(cls, predictions: Predictions, targets: Targets, radius: float) -> Pairs:
        """Valid objects and the locations that may claim them by their place, a twentieth of all pairs."""
        allowed = near(targets.boxes, predictions.points, predictions.strides, radius) & targets.valid[..., None]
        image, target, location = allowed.nonzero(as_tuple=True)
        truth, boxes = targets.boxes[image, target], predictions.boxes[image, location]
        return cls(image, target, location, truth, boxes, matched(truth, boxes))

    def logits(self, predictions: Predictions, targets: Targets) -> Tensor:
        """(P,) at each object's class."""
        return predictions.logits[self.image, self.location, targets.labels[self.image, self.target]]

    def spread(self, values: Tensor, targets: Targets, predictions: Predictions, rest: float) -> Tensor:
        """Values (P,) -> (B, M, N), the other pairs at `rest`."""
        full = values.new_full((*targets.valid.shape, len(predictions.points)), rest)
        full[self.image, self.target, self.location] = values
        return full


@dataclass(frozen=True, slots=True)
class MinimumCost:
    """OneNet's one-to-one assignment: each object goes to the location of least classification plus location cost.

    Where two objects want one location, the cheaper keeps it and the other takes its next best, so no object is lost
    (the paper lets the last class win).

    Attributes:
        classification, l1, giou: weights of the cost's terms (the paper's 2, 5, 2). `classification=0` is the ablation
            that needs NMS.
        radius: locations further than this many strides from an object's centre and outside its box are last resorts;
            infinity, as in the paper, admits all.
    """

    classification: float = 2.0
    l1: float = 5.0
    giou: float = 2.0
    radius: float = 1.5

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Predictions of B images and their targets -> exactly one match for each valid object."""
        if self.radius == float("inf"):
            return one_to_one(self.cost(predictions, targets), targets.valid)
        return self.among(Pairs.near(predictions, targets, self.radius), predictions, targets)

    @torch.no_grad()
    def among(self, pairs: Pairs, predictions: Predictions, targets: Targets) -> Matches:
        """As a call, where the pairs within the radius are known."""
        cost = pairs.spread(self._cost_of(pairs, predictions, targets), targets, predictions, float("inf"))
        matches = one_to_one(cost, targets.valid)
        if cost[matches.image, matches.target, matches.location].isinf().any():  # a last resort is needed: rare
            return one_to_one(self.cost(predictions, targets), targets.valid)
        return matches

    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """Cost (B, M, N) of giving object m to location n."""
        cost = self._of_boxes(
            pairwise(targets.boxes, predictions.boxes).giou,
            targets.boxes[..., None].unbind(2),
            predictions.boxes[:, None].unbind(3),
            input_extent(predictions),
        )
        if self.classification:
            cost += classification_cost(predictions.logits, targets.labels).mul_(self.classification)
        if self.radius != float("inf"):
            cost += (~near(targets.boxes, predictions.points, predictions.strides, self.radius)).mul(OUTSIDE)
        return cost

    def _cost_of(self, pairs: Pairs, predictions: Predictions, targets: Targets) -> Tensor:
        """As `cost`, of some pairs (P,)."""
        sides, extent = (pairs.truth.unbind(1), pairs.boxes.unbind(1)), input_extent(predictions)
        cost = self._of_boxes(pairs.overlap.giou.clone(), *sides, extent)
        if self.classification:
            cost += _positive_less_negative(pairs.logits(predictions, targets)).mul_(self.classification)
        return cost

    def _of_boxes(self, giou: Tensor, truth: tuple[Tensor, ...], boxes: tuple[Tensor, ...], extent: Tensor) -> Tensor:
        """The boxes' part of the cost, in place of their GIoU; four coordinates of each, which broadcast to it."""
        cost = giou.mul_(-self.giou)
        for axis, (one, other) in enumerate(zip(truth, boxes, strict=True)):
            cost.addcdiv_((one - other).abs_(), extent[axis % 2], value=self.l1)
        return cost


def one_to_one(cost: Tensor, valid: Tensor) -> Matches:
    """Every valid object (B, M) to a location of its own, by cost (B, M, N).

    In rounds; the cheapest claim on a location wins.

    Whole-batch tensor operations; the loop runs once for each round of conflicts (two or three in practice), not for
    each image or object. Objects beyond the number of locations stay unmatched.
    """
    batch, most, count = cost.shape
    if most == 0:
        none = torch.zeros(0, dtype=torch.int64, device=cost.device)
        return Matches(none, none, none, none.float())
    valid = valid & (valid.cumsum(1) <= count)
    best, location = cost.min(-1)
    rank = torch.arange(most, device=cost.device).expand(batch, -1)
    for _ in range(most):
        least = cost.new_full((batch, count), torch.inf)
        least.scatter_reduce_(1, location, best.masked_fill(~valid, torch.inf), "amin")
        contender = valid & (best <= least.gather(1, location))
        first = rank.new_full((batch, count), most)
        first.scatter_reduce_(1, location, rank.masked_fill(~contender, most), "amin")
        loser = valid & (first.gather(1, location) != rank)
        if not loser.any():
            break
        image, row = loser.nonzero(as_tuple=True)
        open_cost = cost[image, row].masked_fill((first < most)[image], torch.inf)
        best[image, row], location[image, row] = open_cost.min(-1)
    image, target = valid.nonzero(as_tuple=True)
    return Matches(image, location[image, target], target, torch.ones(len(image), device=cost.device))


@dataclass(frozen=True, slots=True)
class TopQuality:
    """One-to-many: each object to its k best locations by quality p^(1-a) * IoU^a (POTO, arXiv 2012.03544, equation 4).

    For the auxiliary branch that trains beside the one-to-one branch; it never decides what is detected.

    Attributes:
        k: locations for each object (the paper's 9).
        balance: a, the weight of overlap against class probability (the paper's 0.8).
        radius: as in `MinimumCost`.
    """

    k: int = 9
    balance: float = 0.8
    radius: float = 1.5

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Predictions of B images and their targets -> up to k matches for each valid object."""
        return self.among(Pairs.near(predictions, targets, self.radius), predictions, targets)

    @torch.no_grad()
    def among(self, pairs: Pairs, predictions: Predictions, targets: Targets) -> Matches:
        """As a call, where the pairs within the radius are known."""
        probability = pairs.logits(predictions, targets).sigmoid()
        quality = (probability ** (1 - self.balance)).mul_(pairs.overlap.iou**self.balance)
        return one_to_many(pairs.spread(quality, targets, predictions, -1.0), self.k)


def one_to_many(quality: Tensor, k: int) -> Matches:
    """Each object's k best locations by quality (B, M, N), negative where barred; a location serves its best object."""
    if quality.shape[1] == 0:
        none = torch.zeros(0, dtype=torch.int64, device=quality.device)
        return Matches(none, none, none, none.float())
    value, index = quality.topk(min(k, quality.shape[-1]), -1)
    chosen = torch.full_like(quality, -1).scatter_(-1, index, value)
    best, target = chosen.max(1)
    image, location = (best >= 0).nonzero(as_tuple=True)
    owner = target[image, location]
    top = value[image, owner, 0].clamp(min=1e-6)
    return Matches(image, location, owner, (best[image, location] / top).clamp(0, 1))
