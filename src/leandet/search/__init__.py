"""Structures under a latency budget: candidates cut from one trained network, judged without training."""

from leandet.search.run import Found, Request, search
from leandet.search.strategies import STRATEGIES

__all__ = ["STRATEGIES", "Found", "Request", "search"]
