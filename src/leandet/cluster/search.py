"""`leandet search` with its trials on a cluster: the study's storage is all that the workers share.

The machine that asks opens the study, measures the detector and, in the end, the finalists, and fine-tunes the winner.
Between, workers run what a search without a cluster runs, `Worker.run`, each in a process of its own with cores of its
own. They get the same channels' worth and the same clock, so a structure is the same on every machine.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from optuna.trial import TrialState

from leandet.cluster.connect import CLIENT, LOCAL, RESTARTS, Cluster, connected, the_ray
from leandet.data.sample import Dataset, Sample, evenly
from leandet.errors import UserError
from leandet.search.finalists import Tell
from leandet.search.judge import CALIBRATION, JUDGED, Judge
from leandet.search.request import Request
from leandet.search.run import Found, search
from leandet.search.scene import Scene
from leandet.search.space import Candidate
from leandet.search.strategies import Strategy
from leandet.search.study import Worker, judged, open_study

LOOK = 1.0  # seconds between two looks at how far the workers are
GOODBYE = 10.0  # seconds that workers have to put back what they were at

Reference = Any  # to what a worker will answer


@dataclass(frozen=True, slots=True)
class Errand:
    """What a worker needs to run trials; what it lacks of `Worker` is the study, which it opens itself.

    Attributes:
        url: of the study's database.
        scene: see `Worker`.
        strategy: see `Worker`.
        judge: see `Worker`.
        trials: see `Worker`.
        seed: see `Worker`.
        until: no trial starts after it; on the clock of `time.time`, which machines share.
        threads: of PyTorch.
    """

    url: str
    scene: Scene
    strategy: Strategy
    judge: Callable[[Candidate], float]
    trials: int
    seed: int
    until: float
    threads: int


@dataclass(frozen=True, slots=True)
class Hands:
    """Who runs the trials.

    Attributes:
        address: see `connected`.
        workers: how many; None for as many as there is room for.
        threads: cores that each has to itself.
    """

    address: str
    workers: int | None = None
    threads: int = 1


def search_on_ray(request: Request, dataset: Dataset, hands: Hands, tell: Tell | None = None) -> Found:
    """`search` with its trials on a Ray cluster.

    Args:
        request: see `Request`; its storage is one that every machine reaches.
        dataset: see `search`; every machine sees its images.
        hands: who runs the trials.
        tell: takes one line of progress at a time.

    Raises:
        UserError: as `search` and `connected`; or if a machine does not reach the storage or see an image, or trials
            kill every worker.
    """
    if hands.address == LOCAL:
        the_ray()  # it starts when the detector has been measured, so as not to disturb that
    else:
        with connected(hands.address) as cluster:
            reachable(request.url, hands.address, cluster)
            cluster.workers(hands.threads, hands.workers)
    return search(request, dataset, tell, lambda worker: run_trials(worker, request.url, hands))


def reachable(url: str, address: str, cluster: Cluster) -> str:
    """The storage's URL as the workers can use it.

    Raises:
        UserError: if it is a file, or memory, that only this machine or this process has.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError:
        return url  # the study says so when it is opened
    if parsed.get_backend_name() != "sqlite":
        return url
    file = parsed.database
    if len(cluster.cores) > 1 or address.startswith(CLIENT) or not file or file == ":memory:":
        raise UserError(
            f"the storage {url} is of one machine only: give --storage the URL of a database that all machines of the "
            "cluster reach, such as postgresql://host/studies."
        )
    return parsed.set(database=str(Path(file).absolute())).render_as_string(hide_password=False)


def run_trials(worker: Worker, url: str, hands: Hands) -> None:
    """See to it that a worker's study gets its trials, by workers on a cluster.

    Args:
        worker: what it would have run itself.
        url: of its study's database.
        hands: who runs the trials.

    Raises:
        UserError: see `search_on_ray`, and as `Worker.run`.
    """
    with connected(hands.address) as cluster:
        ray = the_ray()
        judge = worker.judge
        errand = Errand(
            reachable(url, hands.address, cluster),
            worker.scene,
            worker.strategy,
            _shipped(judge) if isinstance(judge, Judge) else judge,
            worker.trials,
            worker.seed,
            time.time() + worker.deadline - time.monotonic(),
            hands.threads,
        )
        count = min(worker.trials, cluster.workers(hands.threads, hands.workers))
        task = ray.remote(run_errand).options(num_cpus=hands.threads, max_retries=RESTARTS)
        shared = ray.put(errand)
        _watch(worker, [task.remote(shared) for _ in range(count)])


def run_errand(errand: Errand) -> None:
    """What a worker on the cluster does.

    Raises:
        UserError: as `Worker.run`, or if this machine does not see an image or reach the storage.
    """
    torch.set_num_threads(errand.threads)
    if isinstance(errand.judge, Judge):
        for samples in errand.judge.dataset.splits.values():
            for sample in samples:
                if not sample.image.is_file():
                    raise UserError(
                        f"{sample.image} is not to be seen on {socket.gethostname()}: put it where every machine "
                        "sees it."
                    )
    study = open_study(errand.url, None)
    deadline = time.monotonic() + errand.until - time.time()
    Worker(
        study,
        errand.scene,
        errand.strategy,
        errand.judge,
        errand.trials,
        errand.seed,
        deadline,
        lambda number, trial: None,
    ).run()


def _shipped(judge: Judge) -> Judge:
    """A judge with nothing but the images that it looks at, under paths that hold in every folder."""

    def those(split: str, count: int) -> tuple[Sample, ...]:
        return tuple(replace(one, image=one.image.absolute()) for one in evenly(judge.dataset.splits[split], count))

    splits = {"train": those("train", CALIBRATION), "val": those("val", JUDGED)}
    return Judge(judge.space, replace(judge.dataset, splits=splits))


def _watch(worker: Worker, tasks: list[Reference]) -> None:
    """Tell of trials as they end, until the workers have done.

    Raises:
        UserError: what a worker raised; or if all of them were lost.
    """
    ray = the_ray()
    told = {trial.number for trial in judged(worker.study, worker.scene.over)}
    pending, ended, lost = tasks, 0, None
    try:
        while pending and not (ended and not _running(worker)):
            done, pending = ray.wait(pending, timeout=LOOK)
            for trial in judged(worker.study, worker.scene.over):
                if trial.number not in told:
                    told.add(trial.number)
                    worker.tell(len(told), trial)
            for one in done:
                try:
                    ray.get(one)
                    ended += 1
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, UserError):
                        raise UserError(str(error.cause)) from error
                    raise
                except ray.exceptions.RayError as error:
                    lost = error
        if ended:
            _, pending = ray.wait(pending, num_returns=len(pending), timeout=LOOK) if pending else ([], [])
    finally:  # those for whom there was never room; after Ctrl-C all
        for one in pending:
            ray.cancel(one)
        if pending:
            ray.wait(pending, num_returns=len(pending), timeout=GOODBYE)
    if not ended:
        raise UserError(
            f"every worker was lost {RESTARTS + 1} times: trials may need more memory than there is; run the search "
            "again to go on."
        ) from lost


def _running(worker: Worker) -> bool:
    return bool(worker.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
