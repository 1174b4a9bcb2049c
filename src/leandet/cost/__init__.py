"""What a network costs."""

from leandet.cost.count import Cost, count

__all__ = ["Cost", "count"]
