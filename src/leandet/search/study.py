"""A search's memory: an Optuna study behind a URL, so that it can be stopped, resumed, watched and shared.

A trial is run by one worker. A worker that dies leaves its trial's heart silent; another takes the same point up.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from leandet.errors import UserError
from leandet.search.samplers import KEY
from leandet.search.scene import Scene
from leandet.search.space import Candidate, Levels, Space, StructureError
from leandet.search.strategies import Strategy, sampler

HEARTBEAT, GRACE = 5, 60  # seconds between two signs of life, and without one until a worker counts as dead
LOCKED = 120  # seconds that a worker waits for another one's write to an SQLite file
PATIENCE = 1.0  # seconds between two looks at what other workers do
SECONDS, COPY, REFUSED = "seconds", "same_as", "refused"
IDENTITY, CLOCK, SETTLED, SUPERNET = "search", "clock", "settled", "supernet"
ASIDE = "aside"  # a trial that was not needed, or not possible to run now

_ALIVE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


@dataclass(frozen=True, slots=True)
class Trialled:
    """A candidate that was judged.

    Attributes:
        number: of its trial.
        levels: its point.
        candidate: the structure that was made of it.
        ap: on the judged images, a fraction.
        latency_ms: as estimated.
        met: whether that meets the budget.
        seconds: that the trial took.
    """

    number: int
    levels: Levels
    candidate: Candidate
    ap: float
    latency_ms: float
    met: bool
    seconds: float

    def to_json(self, space: Space) -> dict[str, Any]:
        """A plain object; `kept` names the channels of the groups that are narrower than the whole detector's."""
        return {
            "trial": self.number,
            "ap": self.ap,
            "latency_ms": round(self.latency_ms, 4),
            "met": self.met,
            "seconds": round(self.seconds, 3),
            "size": [self.candidate.size.height, self.candidate.size.width],
            "parameters": space.parameters(self.candidate),
            "multiply_adds": space.multiply_adds(self.candidate),
            "kept": space.widths(self.candidate),
        }


@contextmanager
def _quietly() -> Iterator[None]:
    """Optuna tells every trial and advertises what is experimental; our own lines do."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)


@contextmanager
def storing() -> Iterator[None]:
    """Say in one sentence that the storage failed, and how to go on.

    Raises:
        UserError: instead of the database's own errors.
    """
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        first = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise UserError(
            f"the search's storage failed ({first}): see that its disk has room and the database answers, and run the "
            "search again to go on."
        ) from error


def open_study(url: str, identity: dict[str, Any] | None, name: str = "leandet") -> Study:
    """The study at a URL, made if there is none.

    Args:
        url: a database as SQLAlchemy names it, such as `sqlite:///study.db` or `postgresql://host/base`.
        identity: what is searched, a study of anything else is refused; None to look at whatever is there.
        name: of the study within the database.

    Raises:
        UserError: if the database cannot be opened, or holds another search.
    """
    shown = _without_password(url)
    with _quietly():
        try:
            storage = RDBStorage(
                url,
                {"connect_args": {"timeout": LOCKED}} if url.startswith("sqlite") else None,
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=[StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE],
                load_if_exists=True,
            )
        except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, ValueError, RuntimeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0].replace(url, shown)
            raise UserError(f"the storage {shown} cannot be opened ({first}): name a database's URL.") from error
    with storing():
        found = study.user_attrs.get(IDENTITY)
        if identity is None:
            return study
        if found is None:
            study.set_user_attr(IDENTITY, identity)
            return study
    if found != identity:
        wrong = next((key for key in identity | found if found.get(key) != identity.get(key)), "version")
        raise UserError(
            f"the storage {shown} holds a search with another {wrong}: name another one, or repeat its options."
        )
    return study


def _without_password(url: str) -> str:
    """For messages, which end in logs."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return url


def counted(study: Study) -> list[FrozenTrial]:
    """The trials that are or will be an answer."""
    trials = study.get_trials(deepcopy=False, states=_ALIVE)
    return [trial for trial in trials if ASIDE not in trial.user_attrs]


def finished(study: Study) -> int:
    """How many trials are over and count: judged, a copy of one that was, or refused."""
    return sum(trial.state is not TrialState.RUNNING for trial in counted(study))


@dataclass(slots=True)
class Worker:
    """Runs trials of a study until there are enough; any number of workers may share a study.

    Attributes:
        study: see `open_study`.
        scene: where the search takes place.
        strategy: how it chooses.
        judge: a candidate's AP.
        trials: how many the study shall have in all.
        seed: of the draws.
        deadline: no trial starts after it; on the clock of `time.monotonic`.
        tell: told after each trial how many there are and the trial.
    """

    study: Study
    scene: Scene
    strategy: Strategy
    judge: Callable[[Candidate], float]
    trials: int
    seed: int
    deadline: float
    tell: Callable[[int, Trialled], None]

    def run(self) -> None:
        """Run trials; returns when the study has enough or the time is over.

        A trial under way elsewhere is waited for, so that it is taken up should its worker die.

        Raises:
            UserError: if candidates were refused and none could be judged, what the judge raises, or the storage fails.
            KeyboardInterrupt: after Ctrl-C; the point is put back.
        """
        with _quietly(), storing():
            self.study.sampler = sampler(self.strategy, self.scene, self.seed)
            while time.monotonic() < self.deadline:
                optuna.storages.fail_stale_trials(self.study)
                waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
                known = counted(self.study)
                if waiting or len(known) < self.trials:
                    self.study.optimize(self._objective, n_trials=1)
                elif any(trial.state is TrialState.RUNNING for trial in known):
                    time.sleep(PATIENCE)
                else:
                    break
        if not any(t.state is TrialState.COMPLETE for t in counted(self.study)):
            refused = [t.user_attrs[REFUSED] for t in self.study.get_trials(deepcopy=False) if REFUSED in t.user_attrs]
            raise UserError(refused[0] if refused else "there was no time for a single trial: allow more --time.")

    def _objective(self, trial: Trial) -> tuple[float, float]:
        before = [t for t in counted(self.study) if t.number < trial.number]
        if len(before) >= self.trials:  # another worker was faster
            self._set_aside(trial)
        levels = {name: trial.suggest_int(name, low, high) for name, (low, high) in self.scene.space.dimensions.items()}
        candidate = self.scene.fitted(levels, self.strategy.fit)
        trial.set_user_attr(KEY, candidate.key)
        latency = self.scene.ms(candidate)
        trial.set_constraint("latency", latency / self.scene.budget.ms - 1)
        if (twin := next((t for t in before if t.user_attrs.get(KEY) == candidate.key), None)) is not None:
            return self._copied(trial, twin)
        start = time.perf_counter()
        try:
            ap = self.judge(candidate)
        except StructureError as error:
            self._refuse(trial, str(error))
        except (KeyboardInterrupt, UserError):  # no fault of the structure's: it is to be judged
            self.study.enqueue_trial(trial.params)
            raise
        seconds = time.perf_counter() - start
        trial.set_user_attr(SECONDS, seconds)
        met = not self.scene.over(candidate)
        self.tell(len(before) + 1, Trialled(trial.number, levels, candidate, ap, latency, met, seconds))
        return ap, latency

    def _copied(self, trial: Trial, twin: FrozenTrial) -> tuple[float, float]:
        """The answer of a trial of the same structure, which is not run again."""
        if REFUSED in twin.user_attrs:
            self._refuse(trial, twin.user_attrs[REFUSED])
        if twin.state is not TrialState.COMPLETE:  # under way elsewhere
            time.sleep(PATIENCE / 10)
            self._set_aside(trial)
        trial.set_user_attr(COPY, twin.number)
        trial.set_user_attr(SECONDS, 0.0)
        return twin.values[0], twin.values[1]

    def _refuse(self, trial: Trial, reason: str) -> NoReturn:
        trial.set_user_attr(REFUSED, reason)
        raise optuna.TrialPruned

    def _set_aside(self, trial: Trial) -> NoReturn:
        trial.set_user_attr(ASIDE, True)
        raise optuna.TrialPruned


def judged(study: Study, over: Callable[[Candidate], bool]) -> list[Trialled]:
    """Every structure that was judged, once each, in the order of the trials."""
    found = []
    for trial in sorted(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), key=lambda t: t.number):
        if COPY not in trial.user_attrs:
            candidate = Candidate.parse(trial.user_attrs[KEY])
            ap, ms = trial.values
            seconds = trial.user_attrs[SECONDS]
            found.append(Trialled(trial.number, dict(trial.params), candidate, ap, ms, not over(candidate), seconds))
    return found


def front(trials: list[Trialled]) -> list[Trialled]:
    """Those to which no other is both faster and at least as accurate, or as fast and more accurate; fastest first."""
    best: list[Trialled] = []
    for trial in sorted(trials, key=lambda t: (t.latency_ms, -t.ap)):
        if not best or trial.ap > best[-1].ap:
            best.append(trial)
    return best
