"""A worker to be started and killed: `worker.py URL LOG TRIALS SECONDS`; the log tells each run's begin and end."""

import importlib.util
import os
import sys
import time
from pathlib import Path

import torch

from leandet.search import study
from leandet.search.strategies import STRATEGIES

torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("search_conftest", Path(__file__).with_name("conftest.py"))
conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conftest)


def main(url, log, trials, seconds):
    study.HEARTBEAT, study.GRACE = 1, 12
    space = conftest.make_space()
    scene = conftest.make_scene(space)

    def note(line):
        with Path(log).open("a") as file:
            file.write(line)

    def judge(candidate):
        note(f"{os.getpid()} begins {candidate.key}\n")
        time.sleep(float(seconds))
        note(f"{os.getpid()} ends {candidate.key}\n")
        return sum(candidate.kept.values()) / sum(space.whole.kept.values())

    opened = study.open_study(url, {"what": "test"})
    how = STRATEGIES["evolution"]
    study.Worker(opened, scene, how, judge, int(trials), 0, float("inf"), tell=lambda number, trial: None).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
