"""How far a run has come, read from its files while it may be written to."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jaxcifar.regular_files import check_regular
from jaxcifar.reporting.csv_log import Row, read_rows


class Status(NamedTuple):
    """A run at some moment.

    Attributes:
      state: "finished", "running", "stopped", or "" where the system does not tell the last two
        apart.
      progress: from 0 to 1; None before the first row.
      step: step of the last row.
      epoch: epoch of the last row.
      losses: training losses of all rows.
      metrics: last accuracy by split.
      images_per_second: of the last training row; None before it.
      seconds_left: estimated time to the end; None if unknown.
    """

    state: str
    progress: float | None = None
    step: int = 0
    epoch: float = 0.0
    losses: tuple[float, ...] = ()
    metrics: dict[str, float] = {}  # noqa: RUF012, never changed
    images_per_second: float | None = None
    seconds_left: float | None = None


def read(workdir: Path) -> Status:
    """Returns the status of the run in a directory.

    Raises:
      InputError: if one of its files is a pipe.
      OSError: if a file cannot be read.
      ValueError: if a file was not written by a run.
    """
    manifest, table = workdir / "manifest.json", workdir / "metrics.csv"
    check_regular(manifest)
    run = json.loads(manifest.read_text())
    rows = read_rows(table) if table.exists() else []
    state = _state(workdir, run)
    if not rows:
        return Status(state)
    last, train = rows[-1], run["config"]["train"]
    step, epoch = int(last["step"]), float(last["epoch"])
    done = step / train["num_steps"] if train["num_steps"] else epoch / train["num_epochs"]
    training = [row for row in rows if row["split"] == "train"]
    accuracies = {row["split"]: float(row["accuracy"]) for row in rows if row["accuracy"]}
    speeds = [float(row["images_per_second"]) for row in training if row["images_per_second"]]
    return Status(
        state,
        1.0 if state == "finished" else min(done, 1.0),
        step,
        epoch,
        tuple(float(row["loss"]) for row in training if row["loss"]),
        accuracies,
        speeds[-1] if speeds else None,
        None if state != "running" else _seconds_left(run, training, done),
    )


def _state(workdir: Path, run: dict[str, Any]) -> str:
    if "end" in run:
        return "finished"
    held = _is_locked(workdir / "lock")
    return "" if held is None else "running" if held else "stopped"


def _is_locked(path: Path) -> bool | None:
    """Whether a process holds the lock on a file; None if the system does not tell.

    It looks without locking: a lock, however short, could keep a training from starting.
    """
    try:
        found = path.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any(" FLOCK " in line and f" {device} " in line for line in lines)


def _seconds_left(run: dict[str, Any], rows: list[Row], done: float) -> float | None:
    """The time to the end at the speed since the last start."""
    since = datetime.fromisoformat(run["starts"][-1]["time"])
    recent = [row for row in rows if datetime.fromisoformat(row["time"]) >= since]
    if len(recent) < 2 or not done:
        return None
    first, last = recent[0], recent[-1]
    seconds = (
        datetime.fromisoformat(last["time"]) - datetime.fromisoformat(first["time"])
    ).total_seconds()
    steps = int(last["step"]) - int(first["step"])
    whole = int(last["step"]) / done
    return seconds / steps * (whole - int(last["step"])) if steps > 0 else None
