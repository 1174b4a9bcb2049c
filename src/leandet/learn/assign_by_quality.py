"""Rivals of OneNet's assignment that look at classes and boxes too: its optimum, DeFCN's and TOOD's."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from leandet.data.batch import Targets
from leandet.detector.decode import Predictions
from leandet.learn.assign import OUTSIDE, Matches, MinimumCost, of_class, one_to_many, one_to_one
from leandet.learn.geometry import near, pairwise


@dataclass(frozen=True, slots=True)
class Hungarian:
    """One-to-one with the least total cost, as DETR (arXiv 2005.12872, equation 1) and DeFCN match.

    scipy solves one image after another on the CPU. `MinimumCost` differs only where objects want the same location.

    Attributes:
        cost: gives the cost of each pair.
    """

    cost: MinimumCost = field(default_factory=MinimumCost)

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Predictions of B images and their targets -> one match for each valid object, while locations last."""
        from scipy.optimize import linear_sum_assignment

        cost = self.cost.cost(predictions, targets)
        images, locations, objects = [], [], []
        for row, valid in enumerate(targets.valid):
            kept = valid.nonzero()[:, 0]
            chosen, columns = linear_sum_assignment(cost[row, kept].double().cpu().numpy())
            locations.append(torch.from_numpy(columns))
            objects.append(kept[torch.from_numpy(chosen).to(kept.device)])
            images.append(torch.full((len(columns),), row))
        device = cost.device
        image, location = torch.cat(images).to(device), torch.cat(locations).to(device)
        return Matches(image, location, torch.cat(objects), torch.ones(len(image), device=device))


def alignment(predictions: Predictions, targets: Targets, probability: float, overlap: float) -> Tensor:
    """p^probability * IoU^overlap (B, M, N), p the probability of the object's class."""
    p = of_class(predictions.logits.sigmoid(), targets.labels)
    iou = pairwise(targets.boxes, predictions.boxes).iou
    return (p**probability).mul_(iou**overlap)


@dataclass(frozen=True, slots=True)
class HighestQuality:
    """One-to-one by quality p^(1-a) * IoU^a: POTO (DeFCN, arXiv 2012.03544, equation 4).

    POTO solves for the highest total quality; here the better of two objects keeps a location that both want.

    Attributes:
        balance: a, the weight of overlap against class probability (the paper's 0.8).
        radius: locations further than this many strides from an object's centre and outside its box are last resorts.
    """

    balance: float = 0.8
    radius: float = 1.5

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Predictions of B images and their targets -> one match for each valid object, while locations last."""
        quality = alignment(predictions, targets, 1 - self.balance, self.balance)
        far = ~near(targets.boxes, predictions.points, predictions.strides, self.radius)
        return one_to_one(far.mul(OUTSIDE).sub_(quality), targets.valid)


@dataclass(frozen=True, slots=True)
class TaskAligned:
    """One-to-many: each object to its k best aligned locations (TOOD, arXiv 2108.07755, equation 3; YOLOv8 and later).

    A location that several objects choose serves the one with which it is best aligned; an object all of whose
    locations serve others stays without.

    Attributes:
        k: locations for each object.
        probability, overlap: powers of the class probability and of the IoU (0.5 and 6 in the YOLO family, 1 and 6 in
            the paper).
        radius: locations further than this many strides from an object's centre must lie in its box.
    """

    k: int = 10
    probability: float = 0.5
    overlap: float = 6.0
    radius: float = 1.5

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Predictions of B images and their targets -> up to k matches for each valid object."""
        quality = alignment(predictions, targets, self.probability, self.overlap)
        allowed = near(targets.boxes, predictions.points, predictions.strides, self.radius)
        return one_to_many(quality.masked_fill_(~(allowed & targets.valid[..., None]), -1), self.k)
