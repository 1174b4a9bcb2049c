"""Smaller networks that do the same: channels cut out exactly, and the proof."""

from leandet.compress.allocate import Budget, Quantity, Rule, Scope, Target
from leandet.compress.prune import Pruned, prune, shrink
from leandet.compress.recalibrate import recalibrate
from leandet.compress.reconstruct import Moments, reconstruct
from leandet.compress.schedule import Schedule
from leandet.compress.verify import Verification, verify

__all__ = [
    "Budget",
    "Moments",
    "Pruned",
    "Quantity",
    "Rule",
    "Schedule",
    "Scope",
    "Target",
    "Verification",
    "prune",
    "recalibrate",
    "reconstruct",
    "shrink",
    "verify",
]
