"""More than one process: what torchrun and SLURM say of them, and sums over all of them.

Each process draws every n-th picture of the epoch's order, so that n processes with a batch of b see, step by step, the
pictures that one process with a batch of n * b sees.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from leandet.errors import UserError
from leandet.machine import usable_cores

MOST_LOADERS = 8
SLURM_EACH = "SLURM_NTASKS_PER_NODE"


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of one training.

    Attributes:
        world: how many there are.
        nodes: on how many machines, the same number on each.
        rank: this one's number, from 0.
    """

    world: int = 1
    nodes: int = 1
    rank: int = 0

    @property
    def each(self) -> int:
        """Processes on one machine."""
        return self.world // self.nodes

    @property
    def loaders(self) -> int:
        """Processes that make pictures for each, where a recipe does not say how many.

        One where the CPU trains: more would take its cores. A GPU is fed by as many as there are cores for: it trains a
        light network on a picture in less time than one core needs to make it.
        """
        if not torch.cuda.is_available():
            return 1
        return max(1, min(MOST_LOADERS, usable_cores() // self.each - 1))

    @property
    def device(self) -> torch.device:
        """Where this one trains: a GPU of its own where there are any."""
        return torch.device("cuda", self.rank % self.each) if torch.cuda.is_available() else torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this one writes, measures and tells."""
        return self.rank == 0

    @classmethod
    def here(cls) -> Processes:
        """As the environment says: torchrun's variables, else SLURM's of an `srun`, else one process.

        Raises:
            UserError: if the numbers make no sense, or `srun` was not told how many processes a machine has, which
                Lightning insists on.
        """
        for world, nodes, rank in (
            ("WORLD_SIZE", "GROUP_WORLD_SIZE", "RANK"),
            ("SLURM_NTASKS", "SLURM_NNODES", "SLURM_PROCID"),
        ):
            if world in os.environ and rank in os.environ:
                try:
                    found = cls(int(os.environ[world]), int(os.environ.get(nodes, "1")), int(os.environ[rank]))
                except ValueError as error:
                    raise UserError(f"{world}, {nodes} and {rank} must be whole numbers: {error}.") from error
                if found.nodes < 1 or found.world % found.nodes or not 0 <= found.rank < found.world:
                    raise UserError(f"{world}, {nodes} and {rank} do not fit: start the same number on each machine.")
                if found.world > 1 and world.startswith("SLURM") and SLURM_EACH not in os.environ:
                    raise UserError("start it with srun --ntasks-per-node N, where N divides the number of processes.")
                return found
        return cls()


def share(total: Tensor) -> Tensor:
    """This process's share of a sum over all processes, the sum taken as at least 1.

    A loss divided by it and then averaged over the processes, as their gradients are, equals the loss of one process
    that sees all their pictures (OneNet and DETR normalise so).

    Args:
        total: a scalar of this process.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return total.clamp(min=1)
    everywhere = total.detach().float()
    torch.distributed.all_reduce(everywhere)
    return everywhere.clamp(min=1) / torch.distributed.get_world_size()
