"""The best trials, measured: widened or narrowed until they use up the budget, and the best of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from leandet.detector.detector import Detector
from leandet.errors import UserError
from leandet.search.judge import Judge
from leandet.search.latency import Pace
from leandet.search.scene import Scene
from leandet.search.space import Candidate, Levels
from leandet.search.study import Trialled

FINALISTS = 3
AIM, SAFE, CLOSE = 0.95, 0.97, 0.9  # of the budget: aimed at, taken as met, and near enough to stop
ATTEMPTS = 4

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Settled:
    """A finalist whose measured latency meets the budget."""

    trial: Trialled
    detector: Detector
    ap: float


def settle(
    scene: Scene, judge: Judge, pace: Pace, trials: list[Trialled], say: Tell
) -> tuple[Trialled, Detector, float]:
    """The best of the finalists that meets the budget when measured; with its p50.

    Args:
        scene: of the search.
        judge: of the search.
        pace: measures.
        trials: that were judged.
        say: takes one line of progress at a time.

    Returns:
        Its trial, with the structure and AP that it has now; the detector; and its p50 in ms.

    Raises:
        UserError: if none meets the budget.
    """
    ranked = sorted((t for t in trials if t.met), key=lambda t: -t.ap) or sorted(trials, key=lambda t: t.latency_ms)
    finalists: list[_Settled] = []
    for trial in ranked[:FINALISTS]:
        say(f"measuring finalist {len(finalists) + 1}: trial {trial.number}")
        candidate, detector = _finalist(scene, judge, pace, trial, say)
        settled = replace(trial, candidate=candidate)
        finalists.append(_Settled(settled, detector, judge.ap(detector)))
    rows = pace(*(one.detector for one in finalists))
    met = [
        (one, row) for one, row in zip(finalists, rows, strict=True) if scene.budget.excess(row.p50_ms, row.bytes) <= 0
    ]
    if not met:
        fastest = min(row.p50_ms for row in rows)
        raise UserError(
            f"no finalist met the budget when measured, the fastest took {fastest:.2f} of {scene.budget.ms:g} ms: "
            "the machine may be busy; run the search again to measure again, no trial is repeated."
        )
    best, row = max(met, key=lambda pair: pair[0].ap)
    return replace(best.trial, ap=best.ap, latency_ms=row.p50_ms), best.detector, row.p50_ms


def _finalist(scene: Scene, judge: Judge, pace: Pace, trial: Trialled, say: Tell) -> tuple[Candidate, Detector]:
    """What is made of a trial; the whole detector, trained as it is, where that is within the budget when measured."""
    space, whole = scene.space, scene.space.whole
    if trial.candidate == whole:
        row = pace(space.detector)[0]
        if scene.budget.part(SAFE).excess(row.p50_ms, row.bytes) <= 0:
            return whole, space.detector
    candidate = _measured_fit(scene, pace, trial.levels, say)
    return candidate, judge.calibrated(candidate)


def _measured_fit(scene: Scene, pace: Pace, levels: Levels, say: Tell) -> Candidate:
    """The widest structure of a point's proportions that meets the budget when measured, or the last one tried."""
    budget, clock = scene.budget, scene.clock
    aim = budget.part(AIM)
    best, best_ms = None, 0.0
    tried: list[Candidate] = []
    for _ in range(ATTEMPTS):
        candidate = scene.space.fit(levels, Scene(scene.space, clock, aim).over, grow=True)
        if candidate in tried:
            break
        tried.append(candidate)
        row = pace(scene.space.cut(candidate))[0]
        say(f"it takes {row.p50_ms:.2f} ms, by its layers {clock.ms(scene.space, candidate):.2f} ms")
        if best_ms < row.p50_ms and budget.part(SAFE).excess(row.p50_ms, row.bytes) <= 0:
            best, best_ms = candidate, row.p50_ms
        if best_ms >= CLOSE * budget.ms:
            break
        clock = clock.corrected(scene.space, candidate, row)
    return best or tried[-1]
