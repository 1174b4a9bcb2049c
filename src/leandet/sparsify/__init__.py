"""Zeros in a network: which weights to cut, how to train the rest, and files that shrink for it."""

from leandet.compress.allocate import Scope
from leandet.sparsify.hold import Hold
from leandet.sparsify.masking import Plan, Sparsified, rewind, sparsify
from leandet.sparsify.patterns import Blocks, NofM, Unstructured
from leandet.sparsify.schedule import Ramp
from leandet.sparsify.scores import Movement, Random, lamp, magnitude
from leandet.sparsify.sharing import share
from leandet.sparsify.sparse_file import load_sparse, save_sparse

__all__ = [
    "Blocks",
    "Hold",
    "Movement",
    "NofM",
    "Plan",
    "Ramp",
    "Random",
    "Scope",
    "Sparsified",
    "Unstructured",
    "lamp",
    "load_sparse",
    "magnitude",
    "rewind",
    "save_sparse",
    "share",
    "sparsify",
]
