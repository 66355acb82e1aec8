"""What results/ holds of each run, read back for the tables and pictures."""

import json
import statistics
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rows import RESULTS, Row, labels_path

from jaxcifar.reporting.csv_log import read_rows

MISTAKES = 20


class Predictions(NamedTuple):
    """Of each test image: its label, the predicted class, and that class's probability."""

    labels: np.ndarray  # uint8 [N]
    classes: np.ndarray  # uint8 [N]
    probabilities: np.ndarray  # float16 [N]


class Run(NamedTuple):
    """What is shown of a run; accuracies are fractions, those of the last step."""

    accuracy: float
    one_view_accuracy: float | None  # None if the recipe has no test-time views
    minutes: float
    images_per_second: float
    hardware: str
    versions: str
    commit: str


def kept(name: str) -> list[Path]:
    """Returns the directories of a row's runs, in the order of their seeds."""
    found = [path.parent for path in (RESULTS / name).glob("*/manifest.json")]
    return sorted((path for path in found if path.name.isdigit()), key=lambda path: int(path.name))


def read(directory: Path, row: Row) -> Run:
    """Returns the figures of a run from its directory in results/."""
    run = json.loads((directory / "manifest.json").read_text())
    dataset = run["config"]["dataset"]
    one_view = directory / "predictions_one_view.bin"
    start, metrics = run["starts"][-1], read_rows(directory / "metrics.csv")
    speeds = [float(line["images_per_second"]) for line in metrics if line["images_per_second"]]
    labels = labels_path(dataset["name"])
    return Run(
        accuracy=run["end"]["metrics"][shown_split(dataset)]["accuracy"],
        one_view_accuracy=(
            float(np.mean(np.fromfile(one_view, np.uint8) == np.fromfile(labels, np.uint8)))
            if one_view.exists()
            else None
        ),
        minutes=minutes(
            [start["time"] for start in run["starts"]], [line["time"] for line in metrics]
        ),
        images_per_second=statistics.median(speeds),
        hardware=f"{start['hardware']['cores']} cores, {start['hardware']['processor']}",
        versions=f"jax {start['versions']['jax']}",
        commit=start["commit"][:7],
    )


def shown_split(dataset: dict) -> str:
    """Returns the split whose accuracy is shown: the held-out one, where there is one."""
    return "validation" if dataset["validation_size"] else "test"


def minutes(starts: Sequence[str], rows: Sequence[str]) -> float:
    """Returns the time from each start of a run to the last row before the next, in minutes."""
    begins = [datetime.fromisoformat(time) for time in starts]
    times = [datetime.fromisoformat(time) for time in rows]
    ends = [*begins[1:], max(times)]
    seconds = 0.0
    for begin, end in zip(begins, ends, strict=True):
        written = [time for time in times if begin <= time <= end]
        seconds += (max(written) - begin).total_seconds() if written else 0
    return seconds / 60


def predictions(directory: Path) -> Predictions:
    """Returns the predictions of a kept run."""
    dataset = json.loads((directory / "manifest.json").read_text())["config"]["dataset"]["name"]
    return Predictions(
        np.fromfile(labels_path(dataset), np.uint8),
        np.fromfile(directory / "predictions.bin", np.uint8),
        np.fromfile(directory / "probabilities.bin", np.float16),
    )


def most_confident_mistakes(found: Predictions) -> np.ndarray:
    """Returns the indices of the wrongly predicted images of the highest probability."""
    wrong = np.flatnonzero(found.labels != found.classes)
    order = np.argsort(-found.probabilities[wrong].astype(np.float64), kind="stable")
    return wrong[order][:MISTAKES]


def curve(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns epochs and test accuracies in percent of a run's evaluations, each float64 [E]."""
    rows = [line for line in read_rows(directory / "metrics.csv") if line["split"] == "test"]
    return (
        np.array([float(line["epoch"]) for line in rows]),
        np.array([100 * float(line["accuracy"]) for line in rows]),
    )
