"""Feeds training: pictures kept in memory, views drawn by (seed, epoch, index) alone, so a resumed run repeats them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from leandet.data.augment import Augment, Example, to_tensor
from leandet.data.batch import Batch, collate
from leandet.data.image import load_image
from leandet.data.sample import Sample
from leandet.preprocess import Size

CACHE_BYTES = 1 << 30  # decoded pictures kept; beyond this they are decoded again each epoch
HEADROOM = 1.5  # pictures are kept up to this times the input's size, so that enlarged views stay sharp
MOSAIC = 0.5  # share of training pictures that are mosaics, until the schedule closes them


class Draw(NamedTuple):
    """One request for a training picture: everything its randomness depends on, beside the seed."""

    epoch: int
    sample: int
    mosaic: bool


class EpochSampler(Sampler[Draw]):
    """A seeded shuffle for each epoch; the order depends on (seed, epoch) alone.

    Args:
        count: number of samples.
        seed: of the whole training.
        mosaic_until: first epoch without mosaics.
        rank, world: of the order, this one of so many processes draws every `world`-th; each draws equally many.
    """

    def __init__(self, count: int, seed: int, mosaic_until: int, rank: int = 0, world: int = 1) -> None:
        self.count, self.seed, self.mosaic_until = count, seed, mosaic_until
        self.rank, self.world = rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch, after a resume too."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.world

    def __iter__(self) -> Iterator[Draw]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        order = order[self.rank : len(self) * self.world : self.world]
        mosaic = self.epoch < self.mosaic_until
        return (Draw(self.epoch, int(index), mosaic) for index in order)


class TrainingSet(Dataset[Example]):
    """Random views of samples.

    Args:
        samples: labelled images; crowd regions are left out.
        size: of the views.
        seed: of the whole training.
    """

    def __init__(self, samples: Sequence[Sample], size: Size, seed: int) -> None:
        self.samples, self.size, self.seed = samples, size, seed
        self.augment = Augment(size)
        self._cache: dict[int, Example] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getstate__(self) -> dict[str, object]:
        """Without the pictures, where loader processes are not forked: each decodes its own."""
        return self.__dict__ | {"_cache": {}, "_cached_bytes": 0}

    def warm(self) -> None:
        """Decode what fits in memory now, so that loader processes forked later share it."""
        for index in range(len(self.samples)):
            if self._cached_bytes > CACHE_BYTES:
                break
            self._decoded(index)

    def __getitem__(self, draw: Draw) -> Example:
        generator = np.random.default_rng((self.seed, draw.epoch, draw.sample))
        # Transforms v2 draw from torch's global generator: seed it for this picture, then give it back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(generator.integers(2**62)))
            first = self._decoded(draw.sample)
            if draw.mosaic and generator.random() < MOSAIC:
                others = generator.integers(len(self.samples), size=3)
                return self.augment.mosaic([first, *(self._decoded(int(i)) for i in others)])
            return self.augment.single(first)

    def _decoded(self, index: int) -> Example:
        if (found := self._cache.get(index)) is not None:
            return found
        sample = self.samples[index]
        image = load_image(sample.image)
        height, width = image.shape[:2]
        ratio = min(1.0, HEADROOM * min(self.size.height / height, self.size.width / width))
        if ratio < 1:
            shape = (max(1, round(width * ratio)), max(1, round(height * ratio)))
            image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        factor = np.array([image.shape[1] / width, image.shape[0] / height] * 2, np.float32)
        kept = ~sample.crowd
        example = Example(
            to_tensor(image), torch.from_numpy(sample.boxes[kept] * factor), torch.from_numpy(sample.labels[kept])
        )
        if self._cached_bytes <= CACHE_BYTES:
            self._cache[index] = example
            self._cached_bytes += image.nbytes
        return example


def training_loader(
    samples: Sequence[Sample],
    size: Size,
    *,
    batch: int,
    seed: int,
    mosaic_until: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Batch]:
    """Batches of random views; the last incomplete batch of an epoch is dropped unless it is the only one.

    Args:
        samples: of the training split.
        size: of the views, pixels.
        batch: images a batch.
        seed: decides every view together with the epoch.
        mosaic_until: first epoch without mosaics.
        workers: loader processes; 0 loads in the training process.
        rank, world: this one of so many training processes, each with batches of its own.
    """
    dataset = TrainingSet(samples, size, seed)
    dataset.warm()
    sampler = EpochSampler(len(samples), seed, mosaic_until, rank, world)
    return DataLoader[Batch](
        dataset,  # type: ignore[arg-type]  # the collate function turns its Examples into a Batch
        batch_size=batch,
        sampler=sampler,
        num_workers=workers,
        # So that they share the pictures that are decoded already; elsewhere forks are not safe, or there are none.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        collate_fn=collate,
        drop_last=len(sampler) >= batch,
        # Started once: a fork marks the whole heap copy-on-write, and with a training's gigabytes in it the next epoch
        # pays a page fault for each page.
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )
