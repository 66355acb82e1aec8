"""One training in a process of its own, watched by its evaluations and stopped when told to."""

import math
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from jaxcifar.errors import InputError
from jaxcifar.reporting.csv_log import read_rows
from jaxcifar.resilience import manifest

_POLL_SECONDS = 0.2
STOPPED = 128 + signal.SIGTERM


class Evaluation(NamedTuple):
    """A row of metrics.csv for validation images.

    Attributes:
      step: number of updates made.
      epoch: the same in epochs.
      score: the metric that the run is judged by, the higher the better.
    """

    step: int
    epoch: float
    score: float


def train(
    command: Sequence[str],
    workdir: Path,
    metric: str,
    decide: Callable[[Evaluation], bool],
    *,
    interrupted: Callable[[], bool] = lambda: False,
    output: IO[bytes] | int | None = None,
) -> int:
    """Trains until the run ends or is told to stop, and returns the exit code of its process.

    That is `STOPPED` for a run that was told to stop before its end; it has saved a checkpoint, and
    can be resumed.

    Args:
      command: command line of the training.
      workdir: directory of the run.
      metric: "accuracy" or "loss", see `eval.best_metric`.
      decide: called with each evaluation in order, those of earlier starts included; the run is
        stopped if it returns True.
      interrupted: whether the run is to be stopped for another reason.
      output: where the process writes.
    """
    process = subprocess.Popen(command, process_group=0, stdout=output, stderr=output)
    seen, stopping = 0, False
    try:
        while True:
            code = process.poll()
            found = evaluations(workdir, metric)
            for evaluation in found[seen:]:
                stopping = stopping or decide(evaluation)
            seen = max(seen, len(found))
            if code is not None:
                return code
            if stopping or interrupted():
                process.send_signal(signal.SIGTERM)
                code = process.wait()
                if "end" in manifest.read(workdir):  # it was faster
                    return 0
                # Before and after training nothing watches for signals, and nothing is lost.
                return STOPPED if code == -signal.SIGTERM else code
            time.sleep(_POLL_SECONDS)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()


def evaluations(workdir: Path, metric: str) -> list[Evaluation]:
    """Returns the evaluations on validation images so far; a score of NaN becomes the lowest."""
    path = workdir / "metrics.csv"
    try:
        rows = [row for row in read_rows(path) if row["split"] == "validation"]
        return [
            Evaluation(int(row["step"]), float(row["epoch"]), _score(float(row[metric]), metric))
            for row in rows
        ]
    except (FileNotFoundError, KeyError, ValueError):  # not begun, or being rewritten
        return []


def _score(value: float, metric: str) -> float:
    if not math.isfinite(value):
        return -math.inf
    return -value if metric == "loss" else value


def record_pruned(workdir: Path, evaluation: Evaluation, reason: str) -> None:
    """Writes to the manifest of a run why it was stopped before its end."""
    pruned = {"step": evaluation.step, "score": evaluation.score, "reason": reason}
    manifest.update(workdir, pruned=pruned)


def check_judged(recipe: str, validation_size: int) -> None:
    """Checks that runs can be judged by validation images.

    Raises:
      InputError: if there are none.
    """
    if not validation_size:
        raise InputError(
            f"{recipe}: dataset.validation_size = 0: must be above 0, as runs are judged by "
            "validation images and never by test images"
        )
