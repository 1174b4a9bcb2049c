"""The main job: labelled images in, an NMS-free detector with its figures out."""

from leandet.pipeline.run import Result, build, train_only
from leandet.pipeline.options import Options

__all__ = ["Options", "Result", "build", "train_only"]
