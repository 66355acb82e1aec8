"""Runs as their files have them, which may be half-written, damaged or of another version."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcifar.errors import InputError
from jaxcifar.regular_files import check_regular
from jaxcifar.reporting.csv_log import read_rows
from jaxcifar.reporting.table_damage import Row
from jaxcifar.resilience import manifest

_TEXT_COLUMNS = ("split", "layer", "time")


class Curve(NamedTuple):
    """The rows of one split in metrics.csv, each array float64 [rows].

    Attributes:
      step: number of updates made.
      epoch: the same in epochs.
      minutes: time since the first start without the pauses between a stop and the next start.
      values: the other columns by name; NaN where a row has no value.
    """

    step: np.ndarray
    epoch: np.ndarray
    minutes: np.ndarray
    values: dict[str, np.ndarray]

    def axes(self) -> dict[str, np.ndarray]:
        """Returns what a chart can have on its x axis, by name."""
        return {"epoch": self.epoch, "step": self.step, "minutes": self.minutes}


class Run(NamedTuple):
    """What the files of a run tell.

    Attributes:
      workdir: directory of the run.
      name: the directory, relative to the one that was searched if it was the only one.
      config: config fields by path, e.g. "train.seed".
      manifest: contents of manifest.json.
      curves: rows of metrics.csv by split.
      layers: rows of layers.csv.
      evaluation: contents of evaluation.json; {} if there is none.
      parameters: number of parameters; None if unknown.
      problems: what of these cannot be read, a line each.
    """

    workdir: Path
    name: str
    config: dict[str, Any]
    manifest: dict[str, Any]
    curves: dict[str, Curve]
    layers: list[Row]
    evaluation: dict[str, Any]
    parameters: int | None
    problems: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the run has finished."""
        return "end" in self.manifest

    @property
    def seed(self) -> Any:
        """The seed of the run."""
        return self.config.get("train.seed")

    def figures(self) -> dict[str, float]:
        """Returns the run in a few figures; accuracies are fractions, those of the last step.

        The best accuracy is that on validation images only: choosing a step by the test images
        would mean selecting on them.
        """
        found: dict[str, float] = {}
        if self.parameters:
            found["parameters"] = self.parameters
        if self.curves:
            found["step"] = max(float(curve.step[-1]) for curve in self.curves.values())
        for split in "test", "test_ema", "validation", "train":
            accuracies = self.values(split, "accuracy")
            if len(accuracies):
                found[f"{split} accuracy"] = float(accuracies[-1])
                if split == "validation":
                    found["best validation accuracy"] = float(accuracies.max())
        if len(speeds := self.values("train", "images_per_second")):
            found["images/s"] = float(np.median(speeds))
        minutes = [curve.minutes[-1] for curve in self.curves.values()]
        if minutes and not math.isnan(max(minutes)):
            found["minutes"] = float(max(minutes))
        return found

    def values(self, split: str, column: str) -> np.ndarray:
        """Returns the values of a column for one split, without the rows that have none."""
        if split not in self.curves or column not in self.curves[split].values:
            return np.zeros(0)
        values = self.curves[split].values[column]
        return values[~np.isnan(values)]


def find(roots: Iterable[Path], *, required: bool = True) -> tuple[list[Run], list[str]]:
    """Returns the runs in directories, each once, and what cannot be read, a line each.

    Args:
      roots: runs, or directories that contain runs at any depth; reproductions of other runs are
        left out.
      required: whether each of the directories must contain a run.

    Raises:
      InputError: if one of the directories contains no run, and it is required.
    """
    runs: dict[Path, Run] = {}
    problems: list[str] = []
    roots = list(roots)
    for root in roots:
        candidates = [path for path in _candidates(root) if path.resolve() not in runs]
        if required and not candidates and not list(_candidates(root)):
            raise InputError(f"{root}: no runs in it (no manifest.json beside a metrics.csv)")
        for path in candidates:
            below = path if path == root or len(roots) > 1 else path.relative_to(root)
            name = path.resolve().name if below == root else str(below)
            try:
                run = manifest.read_run(path)
                if "reproduces" not in run:
                    runs[path.resolve()] = read(path, name, run)
            except (InputError, OSError) as error:
                problems.append(str(error) if str(path) in str(error) else f"{path}: {error}")
    problems += [problem for run in runs.values() for problem in run.problems]
    if required and not runs:
        raise InputError("\n".join(["there is no readable run", *problems]))
    return list(runs.values()), problems


def _candidates(root: Path) -> list[Path]:
    """The directories that look like runs; checkpoints have a manifest too, but no metrics."""
    found = (file.parent for file in sorted(root.rglob("manifest.json")))
    return [path for path in found if (path / "metrics.csv").exists()]


def read(workdir: Path, name: str, run: dict[str, Any]) -> Run:
    """Returns what the files of one run have.

    Args:
      workdir: directory of the run.
      name: name of the run.
      run: contents of its manifest.

    Raises:
      InputError: if its manifest or metrics.csv was not written by a run.
    """
    problems: list[str] = []
    try:
        sections = run["config"].items()
        config = {f"{s}.{f}": value for s, fields in sections for f, value in fields.items()}
        curves = _curves(read_rows(workdir / "metrics.csv"), _times(run.get("starts", ())))
    except (AttributeError, KeyError, TypeError, ValueError, UnicodeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{workdir}: manifest.json or metrics.csv was not written by a run"
        ) from error
    if not curves:
        problems.append(f"{workdir}: no rows in metrics.csv yet")
    return Run(
        workdir,
        name,
        config,
        run,
        curves,
        _layers(workdir, problems),
        _evaluation(workdir, problems),
        _parameters(workdir),
        tuple(problems),
    )


def _curves(rows: Sequence[Row], starts: Sequence[datetime]) -> dict[str, Curve]:
    minutes = _minutes(rows, starts)
    curves = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        chosen = [number for number, row in enumerate(rows) if row["split"] == split]
        columns = {
            column: np.array([float(rows[number][column] or "nan") for number in chosen])
            for column in rows[0]
            if column not in _TEXT_COLUMNS
        }
        step = columns.pop("step")
        epoch = columns.pop("epoch", step)
        curves[split] = Curve(step, epoch, minutes[chosen], columns)
    return curves


def _minutes(rows: Sequence[Row], starts: Sequence[datetime]) -> np.ndarray:
    """Minutes of training before each row; NaN where the time of a row or start is unknown."""
    times = [row.get("time") for row in rows]
    if not (starts and all(times)):
        return np.full(len(rows), math.nan)
    seconds, before, result = 0.0, starts[0], []
    for moment in map(datetime.fromisoformat, map(str, times)):
        last_start = max((start for start in starts if start <= moment), default=starts[0])
        since = max(before, last_start)
        seconds += max((moment - since).total_seconds(), 0.0)
        before = moment
        result.append(seconds / 60)
    return np.array(result)


def _times(starts: Sequence[dict[str, Any]]) -> list[datetime]:
    return sorted(datetime.fromisoformat(start["time"]) for start in starts if "time" in start)


def _layers(workdir: Path, problems: list[str]) -> list[Row]:
    path = workdir / "layers.csv"
    try:
        rows = read_rows(path) if path.exists() else []
        for row in rows:
            for column in "step", "gradient_norm", "update_ratio":
                float(row[column])
        return rows
    except (InputError, KeyError, TypeError, ValueError) as error:
        problems.append(f"{path}: cannot be read: {error}")
        return []


def _evaluation(workdir: Path, problems: list[str]) -> dict[str, Any]:
    path = workdir / "evaluation.json"
    try:
        check_regular(path)
        found = json.loads(path.read_text()) if path.exists() else {}
        if not isinstance(found, dict):
            raise ValueError("not written by an evaluation")
        return found
    except (InputError, OSError, ValueError, RecursionError) as error:
        problems.append(f"{path}: cannot be read: {error}")
        return {}


def _parameters(workdir: Path) -> int | None:
    overview = workdir / "parameters.txt"
    check_regular(overview)
    if overview.exists() and (total := re.search(r"Total: ([\d,]+)", overview.read_text())):
        return int(total[1].replace(",", ""))
    return None
