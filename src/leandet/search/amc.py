"""AMC (He et al., arXiv 1802.03494): an actor walks over the channel groups and says of each what share of it stays.

Actor and critic are those of a deep deterministic policy gradient, with one difference: they are trained anew for each
draw, from the finished trials. So they remember nothing that the study does not, and a search can be stopped, resumed
and shared. A search has a few dozen trials where the paper has hundreds of episodes. Therefore the actor is also pulled
to what the best trials did (Fujimoto and Gu, arXiv 2106.06860, eq. 3): where the critic has seen little, its slope is a
guess.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leandet.search.scene import Scene, Tried
from leandet.search.space import LEVELS, SIZE, Candidate, Levels

WARM_UP = 16  # trials, the starting points among them, before the actor is asked; until then actions are uniform
NOISE, FALL, LEAST = 0.5, 0.93, 0.05  # deviation of the noise on actions (section 3.3): first, per trial, at the end
IMITATED = 0.25  # share of the trials, the best, that pull the actor
AMBITION = 0.25  # weight of the critic beside that pull
HIDDEN, RATE, DECAY = 24, 1e-2, 1e-3
CRITIC_STEPS, ACTOR_STEPS = 120, 80
TRIES = 50  # of a draw of the noise outside of (0, 1]


@dataclass(frozen=True, slots=True)
class Course:
    """What an actor walks over: the input's size, where it may be chosen, then the groups in the network's order.

    Attributes:
        names: of the dimensions, T of them.
        own: (T, 4) what is known of each beforehand: its place, whether it is a group, the logarithm of its channels,
            and its share of what narrowing can save, all in [0, 1].
        sizes: how many input sizes there are.
    """

    names: tuple[str, ...]
    own: Tensor
    sizes: int

    @classmethod
    def of(cls, scene: Scene) -> Course:
        """The course of a scene."""
        space, whole = scene.space, scene.ms(scene.space.whole)
        widths = {choice.group.name: choice.group.width for choice in space.choices}
        names = sorted(space.dimensions, key=lambda name: name != SIZE)  # stable: the groups keep their order
        saved = []
        for name in names:
            least = space.dimensions[name][1] if name == SIZE else 1
            saved.append(max(0.0, whole - scene.ms(space.candidate(space.even() | {name: least}))))
        total = max(sum(saved), 1e-9)
        rows = [
            [place / len(names), float(name != SIZE), math.log2(widths.get(name, 1)) / 12, saving / total]
            for place, (name, saving) in enumerate(zip(names, saved, strict=True))
        ]
        return cls(tuple(names), torch.tensor(rows), len(space.sizes))

    def actions(self, scene: Scene, candidate: Candidate) -> list[float]:
        """(T,) what was done to get a structure: the share that each group keeps, in (0, 1]."""
        space = scene.space
        shares = {c.group.name: candidate.kept[c.group.name] / c.group.steps for c in space.choices}
        place = space.sizes.index(candidate.size)
        return [1 - place / self.sizes if name == SIZE else shares[name] for name in self.names]

    def level(self, name: str, action: float) -> int:
        """The level of a dimension that an action in (0, 1] stands for."""
        if name == SIZE:
            return min(self.sizes - 1, int((1 - action) * self.sizes + 1e-6))
        return min(LEVELS, max(1, round(action * LEVELS)))

    def states(self, actions: Tensor) -> Tensor:
        """Actions (N, T) -> what is known before each, (N, T, 7), in [0, 1].

        That is `own`, and as in the paper (section 3.1) the previous action, what has been saved so far, and what the
        dimensions still to come could save.
        """
        share = self.own[:, 3]
        saved = (share * (1 - actions)).cumsum(1) - share * (1 - actions)
        previous = torch.cat([torch.ones_like(actions[:, :1]), actions[:, :-1]], 1)
        left = (share.sum() - share.cumsum(0)).expand_as(actions)
        return torch.cat([self.own.expand(len(actions), -1, -1), torch.stack([previous, saved, left], 2)], 2)


class Walker:
    """Draws points for a scene: the actor's actions, with noise that falls with the number of finished trials.

    It keeps the last actor, for a structure that has to be drawn again; the same trials always train the same one.

    Args:
        scene: where the search takes place.
        seed: of the first weights.
    """

    def __init__(self, scene: Scene, seed: int) -> None:
        self._seed = seed
        self._course = Course.of(scene)
        self._known: tuple[tuple[int, float], ...] = ()
        self._actor: nn.Module | None = None

    def __call__(self, scene: Scene, tried: Sequence[Tried], number: int, chance: random.Random) -> Levels:
        """One walk; the point meets the budget if any does."""
        actor = self._trained(scene, tried) if len(tried) >= WARM_UP else None
        noise = max(LEAST, NOISE * FALL ** (len(tried) - WARM_UP))
        course, levels = self._course, dict[str, int]()
        actions = torch.zeros(1, len(course.names))
        for place, name in enumerate(course.names):
            if actor is None:
                action = 1 - chance.random()
            else:
                with torch.no_grad():
                    action = _near(float(actor(course.states(actions)[0, place])), noise, chance)
            levels[name] = affordable(scene, levels, name, course.level(name, action))
            done = 1 - levels[name] / course.sizes if name == SIZE else levels[name] / LEVELS
            actions[0, place] = done
        return levels

    def _trained(self, scene: Scene, tried: Sequence[Tried]) -> nn.Module:
        known = tuple((trial.number, trial.ap) for trial in tried)
        if self._actor is None or known != self._known:
            actions = torch.tensor([self._course.actions(scene, trial.candidate) for trial in tried])
            worst = min(trial.ap for trial in tried)
            rewards = torch.tensor([trial.ap if trial.met else worst for trial in tried])
            self._actor = trained(self._course.states(actions), actions, rewards, self._seed)
            self._known = known
        return self._actor


def _near(mean: float, deviation: float, chance: random.Random) -> float:
    """From the normal distribution around an action, cut off outside of (0, 1] (section 3.3)."""
    for _ in range(TRIES):
        if 0 < (action := chance.gauss(mean, deviation)) <= 1:
            return action
    return mean


def affordable(scene: Scene, chosen: Levels, name: str, wanted: int) -> int:
    """The wanted level of a dimension, or the next lower that leaves the budget within reach (algorithm 1).

    It is within reach while a structure that is as narrow as it can be in everything not yet chosen meets it.

    Args:
        scene: space, cost and budget.
        chosen: levels of the dimensions before it.
        name: of the dimension.
        wanted: its level.

    Returns:
        The level; the cheapest one where none is within reach.
    """
    space = scene.space
    least = {other: high if other == SIZE else low for other, (low, high) in space.dimensions.items()}

    def within(level: int) -> bool:
        return not scene.over(space.candidate(least | chosen | {name: level}))

    if within(wanted):
        return wanted
    if name == SIZE:  # higher places are smaller inputs
        return next((place for place in range(wanted + 1, len(space.sizes)) if within(place)), least[SIZE])
    low, high = 0, wanted  # `low` is within reach, or below all
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return max(1, low)


def trained(states: Tensor, actions: Tensor, rewards: Tensor, seed: int) -> nn.Module:
    """An actor that learned from finished trials; the same for the same arguments.

    The critic learns what a trial is worth that takes an action in a state. As in the paper nothing is discounted and
    rewards are taken less their mean; since only the end of a walk is rewarded, that reward is the return of each of
    its steps, and no step has to be learned from the next. The actor climbs the critic and stays near what the best
    trials did.

    Args:
        states: (N, T, F), of N trials of T steps.
        actions: (N, T) in (0, 1].
        rewards: (N,).
        seed: of the first weights; PyTorch's own generator is left alone.

    Returns:
        From states (..., F) to actions (..., 1) in (0, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    features = states.shape[-1]
    critic = _network(features + 1, generator)
    actor = _network(features, generator, nn.Sigmoid())
    worth = (rewards - rewards.mean()) / rewards.std().clamp_min(1e-6)
    best = rewards.argsort(descending=True, stable=True)[: max(2, math.ceil(IMITATED * len(rewards)))]
    taken, wanted = actions[..., None], worth[:, None, None].expand(*actions.shape, 1)
    with torch.enable_grad():
        _minimise(critic, CRITIC_STEPS, lambda: (critic(torch.cat([states, taken], -1)) - wanted).square().mean())
        critic.requires_grad_(False)

        def regret() -> Tensor:
            own = actor(states)
            far: Tensor = (own[best] - taken[best]).square().mean()
            value: Tensor = critic(torch.cat([states, own], -1)).mean()
            return far - AMBITION * value

        _minimise(actor, ACTOR_STEPS, regret)
    return actor


def _network(inputs: int, generator: torch.Generator, *ends: nn.Module) -> nn.Sequential:
    """Two hidden layers: (..., inputs) -> (..., 1), then the ends."""
    layers: list[nn.Module] = []
    for width, outputs in ((inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1)):
        layer = nn.Linear(width, outputs, device="meta").to_empty(device="cpu")  # no numbers drawn yet
        with torch.no_grad():
            layer.weight.copy_(torch.randn(outputs, width, generator=generator) / math.sqrt(width))
            layer.bias.zero_()
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1], *ends)


def _minimise(network: nn.Module, steps: int, loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.Adam(network.parameters(), RATE, weight_decay=DECAY)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
