"""Which stages a build has: the one place where the options choose them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from leandet.detector.files import load_detector
from leandet.pipeline.budget import Scout, Search
from leandet.pipeline.goal import remaining
from leandet.pipeline.options import Options
from leandet.pipeline.prune import REQUEST, SUFFIX, Pruning, prune_detector
from leandet.pipeline.stages import Export, Quantize, Stage, Train, Work, describe
from leandet.pipeline.survey import Survey

PRUNED = "pruned.safetensors"


class Prune:
    """Cuts a share of the multiply-adds out of the trained detector and fine-tunes what is left."""

    name = "prune"

    def run(self, work: Work) -> dict[str, Any]:
        """Prune the latest model, describe the result."""
        options = work.options
        pruning = Pruning(
            remaining(1 - (options.prune or 0.0)),
            epochs=None if options.epochs is None else max(1, options.epochs // 2),
            batch=options.batch,
            seed=options.seed,
            threads=options.threads,
        )
        path = work.path(PRUNED)
        resume = work.resume and (path.with_suffix(SUFFIX) / REQUEST).is_file()
        result = prune_detector(work.latest, work.dataset, path, pruning, resume=resume, tell=work.tell)
        described = describe(work, path, load_detector(path)[0])
        return {**described, "goal": result["goal"], "criterion": result["criterion"], "points": result["points"]}


def stages_of(options: Options) -> tuple[Stage, ...]:
    """The stages that these options ask for, in order; a new stage is one line."""
    return tuple(_chosen(options))


def _chosen(options: Options) -> Iterator[Stage]:
    if options.budget_ms is not None:
        yield Survey()
        yield Scout()
    yield Train()
    if options.budget_ms is not None:
        yield Search()
    if options.prune is not None:
        yield Prune()
    yield Export()
    if options.int8:
        yield Quantize()
