"""`leandet detect` over the machines of a cluster: the same files, on Ray Data.

Only paths go out and only figures come back, so memory does not grow with the photographs' pixels, and Ray Data hands
out no more than the workers keep up with. A worker opens the model once, reads photographs one by one and writes their
drawn pictures itself. What a killed worker had in hand is done again by another; a picture written again is the same
file, and an answer that comes again is dropped, so every photograph has one answer.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console

from leandet.cluster.connect import CLIENT, RESTARTS, connected, the_ray
from leandet.errors import UserError
from leandet.runtime import Runtime, open_runtime
from leandet.runtime.detect import Answer, Answers, DetectSummary, Photograph, Skipped, answer, gather

PIECE = 16  # photographs that a worker takes at a time, where there are not very many
PIECES = 10_000  # at most: each costs the driver some bookkeeping

Batch = dict[str, npt.NDArray[Any]]


def detect_on_ray(
    model: Path,
    classes: Sequence[str],
    images: Sequence[Path],
    out: Path,
    threshold: float,
    address: str,
    *,
    workers: int | None = None,
    threads: int = 1,
    console: Console | None = None,
) -> DetectSummary:
    """Detect in each photograph on a Ray cluster; the same files as `runtime.detect.detect` writes.

    Args:
        model: the model's file or folder; every machine sees it under this path.
        classes: the names of the labels.
        images: the photographs; every machine sees them.
        out: the folder to write into; every machine sees it.
        threshold: drop scores under it, 0 to 1.
        address: see `connected`; not `ray://`, through which Ray Data's results do not stream.
        workers: how many; None for as many as there is room for.
        threads: cores that one worker has to itself.
        console: where progress and skipped photographs are reported; standard error by default.

    Raises:
        UserError: as `detect` and `connected`; or if a machine does not see a file or cannot open the model, or
            photographs kill every worker that takes them.
    """
    if address.startswith(CLIENT):
        raise UserError(
            f"detections do not stream through {address}: run the command on a machine of the cluster with --ray auto."
        )

    def answers(photographs: Sequence[Photograph]) -> Answers:
        eye = (str(model.absolute()), str(out.absolute()), tuple(classes), threshold, threads)
        with connected(address) as cluster:
            count = min(cluster.workers(threads, workers), -(-len(photographs) // PIECE))
            yield from _stream(photographs, out, eye, count)

    return gather(answers, images, out, threshold, console=console)


def _stream(photographs: Sequence[Photograph], out: Path, eye: tuple[Any, ...], workers: int) -> Answers:
    """The answers of the workers as they come."""
    ray = the_ray()
    from ray import data

    data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong arrives as an exception
    rows = [
        {"place": place, "path": os.fsencode(photograph.path.absolute()), "drawn": os.fsencode(photograph.drawn)}
        for place, photograph in enumerate(photographs)
    ]
    pieces = min(PIECES, -(-len(rows) // PIECE))
    with warnings.catch_warnings():
        # Ray 2.64 takes the option away and has no other: a photograph that kills its workers would go on for ever.
        warnings.simplefilter("ignore", DeprecationWarning)
        answered = data.from_items(rows, override_num_blocks=pieces).map_batches(
            Eye,
            batch_size=None,
            batch_format="numpy",
            fn_constructor_args=eye,
            compute=data.ActorPoolStrategy(size=workers),
            num_cpus=eye[-1],
            max_task_retries=RESTARTS,
        )
    try:
        for row in answered.iter_rows():
            photograph = photographs[row["place"]]
            yield row["place"], _understood(json.loads(row["answer"]), photograph, out)
    except ray.exceptions.RayTaskError as error:  # what the worker's own code raised
        said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(f"a worker cannot go on ({said}): mend it there; what was finished is kept.") from error
    except ray.exceptions.RayError as error:
        raise UserError(
            f"a worker was lost {RESTARTS + 1} times with the same photographs in hand: they may need more memory than "
            "there is; what was finished is kept."
        ) from error


def _understood(said: dict[str, Any], photograph: Photograph, out: Path) -> Answer:
    """A worker's answer in the words of the machine that asked.

    Raises:
        UserError: if the worker does not see what this machine sees.
    """
    host = said["host"]
    if refused := said.get("refused"):
        raise UserError(f"the worker on {host}: {refused}")
    if (reason := said.get("skipped")) is not None:
        if said["absent"] and photograph.path.exists():
            raise UserError(f"{photograph.path} is not to be seen on {host}: put it where every machine sees it.")
        return Skipped(photograph.path, reason.replace(str(photograph.path.absolute()), str(photograph.path)))
    if not (out / photograph.drawn).is_file():
        raise UserError(f"{out} on {host} is another folder than here: save to one that every machine sees.")
    record: dict[str, Any] = said["record"]
    return {**record, "image": str(photograph.path)}


class Eye:
    """A worker: a model that is open, and where its pictures go. Ray Data makes one for each of its actors.

    What goes wrong is answered, not raised: Ray would start the worker again and again.
    """

    def __init__(self, model: str, out: str, classes: tuple[str, ...], threshold: float, threads: int) -> None:
        self._out, self._classes, self._threshold = Path(out), classes, threshold
        self._host = socket.gethostname()
        cv2.setNumThreads(threads)
        self._runtime: Runtime | UserError
        try:
            self._runtime = open_runtime(model, threads)
        except UserError as error:
            self._runtime = error
        except (OSError, ImportError) as error:  # a card that may not be read, an engine that is not installed
            self._runtime = UserError(f"{model} cannot be opened ({error}).")

    def __call__(self, batch: Batch) -> Batch:
        """From `place`, `path` and `drawn` of some photographs to `place` and `answer`, an object as JSON."""
        answers = [
            json.dumps({"host": self._host, **self._look(Photograph(Path(os.fsdecode(path)), os.fsdecode(drawn)))})
            for path, drawn in zip(batch["path"], batch["drawn"], strict=True)
        ]
        return {"place": batch["place"], "answer": np.array(answers, object)}

    def _look(self, photograph: Photograph) -> dict[str, Any]:
        if isinstance(self._runtime, UserError):
            return {"refused": str(self._runtime)}
        try:
            found = answer(self._runtime, self._classes, photograph, self._out, self._threshold)
        except UserError as error:
            return {"refused": str(error)}
        if isinstance(found, Skipped):
            return {"skipped": found.reason, "absent": not photograph.path.exists()}
        return {"record": found}
