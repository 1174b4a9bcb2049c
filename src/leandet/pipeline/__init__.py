"""The main job: labelled images in, an NMS-free detector with its figures out."""

from leandet.pipeline.goal import Latency, Milliseconds, Ratio, Remaining
from leandet.pipeline.options import Options
from leandet.pipeline.prune import Pruning, prune_detector
from leandet.pipeline.run import Result, build, train_only

__all__ = [
    "Latency",
    "Milliseconds",
    "Options",
    "Pruning",
    "Ratio",
    "Remaining",
    "Result",
    "build",
    "prune_detector",
    "train_only",
]
