"""Structures under a latency budget: candidates cut from one trained network, judged without training."""

from leandet.search.request import JudgedBy, Request
from leandet.search.run import Found, search
from leandet.search.strategies import STRATEGIES

__all__ = ["STRATEGIES", "Found", "JudgedBy", "Request", "search"]
