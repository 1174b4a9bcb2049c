"""A study in real processes: killed, resumed, shared; and what it refuses."""

import collections
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from leandet.errors import UserError
from leandet.search.space import StructureError
from leandet.search.strategies import STRATEGIES
from leandet.search.study import REFUSED, Trialled, Worker, front, judged, open_study

WORKER = Path(__file__).with_name("worker.py")
DIRECTIONS = ["maximize", "minimize"]


def start(url: str, log: Path, trials: int, seconds: float) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(WORKER), url, str(log), str(trials), str(seconds)], stderr=subprocess.PIPE, text=True
    )


def lines(log: Path, what: str) -> list[tuple[str, str]]:
    """(process, candidate) of the runs that begin or end."""
    found = [line.split(" ", 2) for line in log.read_text().splitlines()] if log.exists() else []
    return [(process, key) for process, word, key in found if word == what]


def wait_for(ready, seconds=120):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)


def finished(url: str) -> list[optuna.trial.FrozenTrial]:
    trials = optuna.load_study(study_name="leandet", storage=url).trials
    return [t for t in trials if t.state is optuna.trial.TrialState.COMPLETE]


def test_a_killed_search_goes_on_and_repeats_no_finished_trial(tmp_path):
    url, log = f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "log"
    process = start(url, log, 7, 0.4)
    wait_for(lambda: len(lines(log, "begins")) == 4 and len(lines(log, "ends")) == 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    before = [key for _, key in lines(log, "ends")]
    lost = next(key for _, key in lines(log, "begins") if key not in before)
    again = start(url, log, 7, 0.05)
    _, said = again.communicate(timeout=240)
    assert again.returncode == 0, said
    runs = collections.Counter(key for _, key in lines(log, "begins"))
    assert {key: count for key, count in runs.items() if count > 1} == {lost: 2}  # begun, killed, run whole
    assert all(runs[key] == 1 for key in before)
    assert len(finished(url)) == 7
    assert lost in {trial.user_attrs["candidate"] for trial in finished(url)}
    third = start(url, log, 7, 0.05)  # enough already: nothing is run
    _, said = third.communicate(timeout=240)
    assert third.returncode == 0, said
    assert collections.Counter(key for _, key in lines(log, "begins")) == runs


def test_two_workers_share_a_study(tmp_path):
    url, log = f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "log"
    open_study(url, {"what": "test"})
    pair = [start(url, log, 8, 1.5) for _ in range(2)]  # long enough for both to have begun on a busy machine
    for process in pair:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    ended = lines(log, "ends")
    assert len({process for process, _ in ended}) == 2
    assert max(collections.Counter(key for _, key in ended).values()) == 1
    assert len(finished(url)) == 8
    assert len(lines(log, "begins")) == len(ended)


def test_a_study_of_another_search_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    open_study(url, {"model": "a", "budget": [4.0, None]})
    open_study(url, {"model": "a", "budget": [4.0, None]})
    with pytest.raises(UserError, match="holds a search with another budget"):
        open_study(url, {"model": "a", "budget": [8.0, None]})


@pytest.mark.parametrize("url", ["nowhere", "sqlite:////no/such/folder/study.db", "marsdb://host/base"])
def test_a_storage_that_cannot_be_opened_is_one_sentence(url):
    with pytest.raises(UserError, match="cannot be opened"):
        open_study(url, {})


def worker(scene, judge, trials=6, strategy="evolution", deadline=float("inf")):
    study = optuna.create_study(directions=DIRECTIONS)
    told = []
    made = Worker(
        study, scene, STRATEGIES[strategy], judge, trials, 0, deadline, tell=lambda number, trial: told.append(trial)
    )
    return made, told


def test_a_structure_that_cannot_be_judged_does_not_stop_the_search(scene):
    asked = []

    def judge(candidate):
        asked.append(candidate.key)
        if len(asked) == 2:
            raise StructureError("the network does not run at these widths")
        return 0.5

    made, told = worker(scene, judge)
    made.run()
    refused = [t for t in made.study.trials if REFUSED in t.user_attrs]
    assert len(refused) == 1
    assert len(judged(made.study, scene.over)) == len(told) == len(asked) - 1
    assert len(asked) == len(set(asked))


def test_when_none_can_be_judged_the_reason_is_given(scene):
    def judge(candidate):
        raise StructureError("the network does not run at these widths")

    with pytest.raises(UserError, match="does not run at these widths"):
        worker(scene, judge, trials=2)[0].run()


def test_a_strategy_with_one_structure_ends_where_that_is_refused(scene):
    asked = []

    def judge(candidate):
        asked.append(candidate.key)
        raise StructureError("the network does not run at these widths")

    deadline = time.monotonic() + 60  # it would go on for ever
    with pytest.raises(UserError, match="does not run at these widths"):
        worker(scene, judge, trials=3, strategy="uniform", deadline=deadline)[0].run()
    assert time.monotonic() < deadline
    assert len(asked) == 1


def test_what_is_no_fault_of_a_structures_stops_the_search_and_is_tried_again(scene):
    calls = []

    def judge(candidate):
        calls.append(candidate.key)
        if len(calls) == 2:
            raise UserError("a.jpg cannot be read")
        return 0.5

    made, _ = worker(scene, judge, trials=4)
    with pytest.raises(UserError, match=r"a\.jpg cannot be read"):
        made.run()
    made.run()  # mended
    assert calls[2] == calls[1]
    assert len(finished_in(made.study)) == 4


def test_a_storage_that_fails_later_is_one_sentence(scene, tmp_path):
    study = open_study(f"sqlite:///{tmp_path / 'study.db'}", {})
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("DROP TABLE trial_user_attributes")
    made, _ = worker(scene, lambda candidate: 0.5)
    made.study = study
    with pytest.raises(UserError, match=r"storage failed \(.*trial_user_attributes.*run the search again"):
        made.run()


def test_a_password_is_not_told():
    with pytest.raises(UserError, match="cannot be opened") as raised:
        open_study("marsdb://me:secret@host/base", {})
    assert "me:***@host" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_no_trial_starts_after_the_deadline(scene):
    with pytest.raises(UserError, match="allow more --time"):
        worker(scene, lambda candidate: 0.5, deadline=time.monotonic() - 1)[0].run()


def test_ctrl_c_puts_the_point_back(scene):
    calls = []

    def judge(candidate):
        calls.append(candidate.key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 0.5

    made, _ = worker(scene, judge, trials=4)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    made.run()
    assert calls[2] == calls[1]
    assert len(calls) == len(set(calls)) + 1
    assert len(finished_in(made.study)) == 4


def finished_in(study):
    return [t for t in study.trials if t.state is optuna.trial.TrialState.COMPLETE]


def test_the_front_is_that_of_brute_force(space):
    places = [(0.5, 3.0), (0.6, 4.0), (0.4, 3.5), (0.6, 5.0), (0.7, 9.0), (0.5, 3.0), (0.1, 1.0), (0.2, 1.0)]
    trials = [Trialled(i, {}, space.whole, ap, ms, True, 0.0) for i, (ap, ms) in enumerate(places)]

    def beaten(t):
        others = [o for o in trials if (o.ap, o.latency_ms) != (t.ap, t.latency_ms)]
        return any(o.ap >= t.ap and o.latency_ms <= t.latency_ms for o in others)

    wanted = {(t.ap, t.latency_ms) for t in trials if not beaten(t)}
    assert {(t.ap, t.latency_ms) for t in front(trials)} == wanted
    assert len(front(trials)) == len(wanted)
