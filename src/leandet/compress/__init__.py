"""Smaller and faster: from one detector to another that costs less."""
