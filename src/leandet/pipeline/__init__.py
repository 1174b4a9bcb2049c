"""The main job: labelled images in, an NMS-free detector with its figures out."""

from leandet.pipeline.options import Options
from leandet.pipeline.run import Result, build, train_only

__all__ = ["Options", "Result", "build", "train_only"]
