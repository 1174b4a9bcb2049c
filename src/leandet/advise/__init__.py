"""ShuffleNetV2's guidelines (arXiv 1807.11164) as advice for one network on one runtime, measured there."""

from leandet.advise.advice import Advice, Guideline
from leandet.advise.advise import advise

__all__ = ["Advice", "Guideline", "advise"]
