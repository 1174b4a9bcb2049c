"""What a person asks of a search."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from leandet.errors import UserError
from leandet.export import SUFFIXES
from leandet.search.latency import Budget
from leandet.search.strategies import STRATEGIES, Strategy

STUDY = "study.db"


class JudgedBy(StrEnum):
    """Out of which network candidates are cut to be judged; their batch-norms are measured anew either way."""

    RECALIBRATE = "recalibrate"  # the trained detector as it is: EagleEye, arXiv 2007.02491
    SUPERNET = "supernet"  # the detector trained on, its sub-networks with it: see `leandet.search.supernet`


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asks of a search; the same words as on the command line.

    Attributes:
        model: a `.safetensors` detector, trained.
        out: folder for the results.
        budget: what the result may cost.
        trials: candidates to judge in all, by all workers and over all resumed runs.
        seconds: no trial starts after so many, a supernet's training not counted; None for no limit.
        strategy: a name of `STRATEGIES`.
        storage: URL of the study's database; None for a file in `out`.
        smaller_inputs: input sizes below the model's own that may be chosen.
        judge: what candidates are cut out of.
        supernet_epochs: of the supernet's training, where it judges; at least 1.
        epochs: of fine-tuning the winner where it is narrower than the model; taken back if it loses; 0 for none.
        batch: images a step of either.
        seed: of everything random.
        threads: of the measured engine and of PyTorch; None for all usable cores.
        to: the target, a name of `leandet export --to`.
        looks_ms: p50 of the uncut model as measured at other hours: a shared machine's speed changes.
        int8: whether the result will be quantised: latencies and file sizes are those in 8 bit. For the target onnx.
    """

    model: Path
    out: Path
    budget: Budget
    trials: int = 64
    seconds: float | None = None
    strategy: str = "evolution"
    storage: str | None = None
    smaller_inputs: int = 1
    judge: JudgedBy = JudgedBy.RECALIBRATE
    supernet_epochs: int = 30
    epochs: int = 0
    batch: int = 16
    seed: int = 0
    threads: int | None = None
    to: str = "onnx"
    int8: bool = False
    looks_ms: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UserError(f"the strategy must be one of {', '.join(STRATEGIES)}, not {self.strategy!r}.")
        if self.to not in SUFFIXES:
            raise UserError(f"the target must be one of {', '.join(SUFFIXES)}, not {self.to!r}.")
        if self.int8 and self.to != "onnx":
            raise UserError(f"a search for 8 bit is for the target onnx, not {self.to}: leave one of the two out.")
        for name, least in (("trials", 1), ("smaller_inputs", 0), ("supernet_epochs", 1), ("epochs", 0)):
            if (value := getattr(self, name)) < least:
                raise UserError(f"{name} must be at least {least}, not {value}.")

    @property
    def how(self) -> Strategy:
        """The strategy."""
        return STRATEGIES[self.strategy]

    @property
    def url(self) -> str:
        """Of the study's database."""
        return self.storage or f"sqlite:///{self.out / STUDY}"
