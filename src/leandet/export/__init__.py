"""The bridge from training to the edge: one self-describing model, checked against PyTorch before it appears."""

from leandet.export.export import SUFFIXES, export
from leandet.export.parity import BOX_TOLERANCE, SCORE_TOLERANCE, SURE, Parity, compare

__all__ = ["BOX_TOLERANCE", "SCORE_TOLERANCE", "SUFFIXES", "SURE", "Parity", "compare", "export"]
