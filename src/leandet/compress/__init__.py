"""Smaller networks that do the same: channels cut out exactly, and the proof."""

from leandet.compress.allocate import Quantity, Rule, Scope, Target
from leandet.compress.prune import Pruned, prune, shrink
from leandet.compress.recalibrate import recalibrate
from leandet.compress.verify import Verification, verify

__all__ = ["Pruned", "Quantity", "Rule", "Scope", "Target", "Verification", "prune", "recalibrate", "shrink", "verify"]
