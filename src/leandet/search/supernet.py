"""A trained detector trained on as a supernet: one set of weights that serves every width of the space.

The sandwich rule with in-place distillation (Yu and Huang, Universally Slimmable Networks, arXiv 1903.05134, sections
3.2 and 3.4): each step the whole network learns from the labels, and the narrowest structure and some random ones learn
from the whole network's answers of the same step; their gradients add up in the weights that they share. The narrowest
has a fifth of the multiply-adds (theirs a sixteenth), not the least that can be cut: what no budget asks for would take
its part of every weight.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import safetensors.torch
from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.func import functional_call

from leandet.atomic import write_bytes
from leandet.card import Card
from leandet.compress.criteria import Taylor
from leandet.compress.cut import cut, gathered
from leandet.data.sample import Dataset
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, save_detector
from leandet.detector.head import Maps
from leandet.errors import UserError
from leandet.learn.distill import answers, imitation
from leandet.learn.recipe import Recipe
from leandet.learn.train import train
from leandet.search.judge import channel_worth
from leandet.search.space import SIZE, Candidate, Levels, Space

RATE = 5e-3  # half of a training's, as when a winner is fine-tuned
DRAWN = 2  # random structures a step
LEAST, MOST = 0.2, 0.9  # of the multiply-adds that a sub-network has
POOL = 64  # that they are drawn from: how channels flow in a new one takes about as long to find as to train it once
WEIGHTS, WORTH, TRAINING = "supernet.safetensors", "worth.safetensors", "training"


class _Hearing(nn.Module):
    """A detector whose output is its head's maps, as losses see them."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Maps:
        """Images (B, 3, H, W) in 0..255 -> maps by level."""
        maps: Maps = self.detector.head(self.detector.features(images))
        return maps


class SubNetwork:
    """A candidate that has no weights of its own: it is run on the whole detector's, gathered anew each time.

    What it answers is what `Space.cut` of the candidate answers in the same mode, and gradients go on to the whole
    detector. Running statistics are its own: in training it normalises by its own batch, as the others do by theirs
    (arXiv 1903.05134, section 3.3: they are measured anew before a structure is used).

    Args:
        space: of the whole detector.
        candidate: its input size does not matter.

    Raises:
        UserError: if the network's code does not run at these widths.
    """

    def __init__(self, space: Space, candidate: Candidate) -> None:
        self._plan = space.plan(candidate)
        made = cut(space.detector, self._plan)
        if not isinstance(made, Detector):
            raise TypeError("a cut detector is a detector")
        self.detector = made.requires_grad_(False)
        self._hearing = _Hearing(made)

    def __call__(self, whole: Detector, images: Tensor) -> Maps:
        """Images (B, 3, H, W) in 0..255 -> its maps, in the mode and on the device of the whole detector."""
        self._hearing.to(whole.device).train(whole.training)
        weights = gathered(dict(whole.named_parameters()), self._plan)
        own = {f"detector.{name}": weight for name, weight in weights.items()}
        maps: Maps = functional_call(self._hearing, own, (images,))
        return maps


class Sandwich(Callback):
    """Adds to the whole detector's loss that of sub-networks which imitate it: a guide and a callback in one.

    Which structures a step trains depends on the seed and the step's number alone, so a resumed training goes on as an
    uninterrupted one. It belongs to no module: checkpoints hold the whole detector and nothing else.

    Args:
        space: of the detector that is trained.
        seed: of the draws.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._seed, self._step = space, seed, 0
        self._narrowest = _with_work(space, space.even(), LEAST)
        self._pool = [_drawn(space, random.Random(f"{seed} structure {place}")) for place in range(POOL)]
        self._networks: dict[str, SubNetwork | None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Sandwich:
        """The same: averaged weights are a copy of the detector, not of this."""
        return self

    def structures(self, step: int) -> list[Candidate]:
        """What a step trains beside the whole network, the narrowest first."""
        return [self._narrowest, *random.Random(f"{self._seed} step {step}").sample(self._pool, DRAWN)]

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the step's number."""
        self._step = trainer.global_step

    def __call__(self, student: Detector, maps: Maps, images: Tensor) -> Tensor:
        """The whole detector, its maps and their images (B, 3, H, W) -> the sub-networks' losses, summed."""
        wanted, total = answers(student, maps), images.new_zeros(()).float()
        for candidate in self.structures(self._step):
            if (network := self._network(candidate)) is not None:
                total = total + imitation(network.detector, network(student, images), wanted)
        return total

    def _network(self, candidate: Candidate) -> SubNetwork | None:
        """Made at its first use; None where the network's code refuses the widths, as it will when they are judged."""
        if (key := candidate.key) not in self._networks:
            try:
                self._networks[key] = SubNetwork(self._space, candidate)
            except UserError:
                self._networks[key] = None
        return self._networks[key]


def _drawn(space: Space, chance: random.Random) -> Candidate:
    """Channels shared out by chance, and by chance how many in all."""
    levels = {name: 0 if name == SIZE else chance.randint(*ends) for name, ends in space.dimensions.items()}
    return _with_work(space, levels, chance.uniform(LEAST, MOST))


def _with_work(space: Space, levels: Levels, share: float) -> Candidate:
    """The structure of a point's proportions that has a share of the whole detector's multiply-adds, at most."""
    most = share * space.multiply_adds(space.whole)
    return space.fit(levels, lambda candidate: space.multiply_adds(candidate) > most, grow=True)


@dataclass(frozen=True, slots=True)
class Supernet:
    """A supernet on disk: trained once, then read.

    Attributes:
        folder: for its files and its training's checkpoints.
        epochs: of its training.
        batch: images a step.
        seed: of everything random.
    """

    folder: Path
    epochs: int
    batch: int
    seed: int

    @property
    def finished(self) -> bool:
        """Whether it is trained."""
        return (self.folder / WEIGHTS).is_file()

    @property
    def digest(self) -> str:
        """The same text for the same weights and worths; only of a finished one."""
        content = b"".join((self.folder / name).read_bytes() for name in (WORTH, WEIGHTS))
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def worth(self, detector: Detector, dataset: Dataset) -> Taylor:
        """What the channels of the detector are worth before it is trained on: measured once, then read.

        The order of the channels decides which weights a sub-network has, so it must never change afterwards.

        Raises:
            UserError: if the file is damaged.
        """
        path = self.folder / WORTH
        if not path.is_file():
            found = channel_worth(detector, dataset.splits["train"], self.seed).importance
            write_bytes(path, safetensors.torch.save({f"{name}|{dim}": part for (name, dim), part in found.items()}))
        try:
            known = safetensors.torch.load(path.read_bytes())
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is damaged ({error}): delete its folder, and the supernet begins again."
            ) from error
        keys = {key: key.rsplit("|", 1) for key in known}
        return Taylor({(keys[key][0], int(keys[key][1])): part for key, part in known.items()})

    def train(self, space: Space, classes: tuple[str, ...], dataset: Dataset) -> None:
        """Give the space's detector the supernet's weights, in place; trained now, or read if it was before.

        Args:
            space: whose channels are ordered by `worth`.
            classes: of the detector.
            dataset: `train` trains, `val` measures the whole network at the end.

        Raises:
            UserError: as `train`, or if the file is damaged or of another detector.
            KeyboardInterrupt: after Ctrl-C; it goes on from the last whole epoch.
        """
        path = self.folder / WEIGHTS
        if not self.finished:
            sandwich = Sandwich(space, self.seed)
            recipe = Recipe(
                epochs=self.epochs,
                batch=self.batch,
                learning_rate=RATE,
                backbone_rate=1.0,
                settling=0.0,  # it would teach the whole network's choice alone
                evaluations=1,  # at the end: early weights are good for the whole network, and for no other
                patience=0,
                seed=self.seed,
            )
            folder, splits = self.folder / TRAINING, dataset.splits
            ap = train(
                space.detector,
                splits["train"],
                splits["val"],
                classes,
                recipe,
                folder,
                resume=True,
                guide=sandwich,
                callbacks=[sandwich],
            ).best_ap
            save_detector(space.detector, Card(classes, space.detector.spec, {"val_ap": ap}, {}), path)
        made, card = load_detector(path)
        if card.spec != space.detector.spec:
            raise UserError(f"{path} is of another detector: delete its folder, and the supernet begins again.")
        space.detector.load_state_dict(made.state_dict())
        space.detector.eval()
