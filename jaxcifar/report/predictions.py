"""Charts of what a network predicts: confusion, accuracy by class, reliability, worst images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from jaxcifar.data import datasets
from jaxcifar.errors import InputError
from jaxcifar.metrics import most_confused
from jaxcifar.metrics.uncertainty import wilson_interval
from jaxcifar.report.charts import Chart, Heatmap, Intervals, Pictures, Reliability
from jaxcifar.report.runs import Run
from jaxcifar.resilience import dataset_facts, manifest

_IMAGES = 10
_MOST_CLASSES_WITH_NUMBERS = 20


class Results(NamedTuple):
    """Charts of a run's evaluation, its key figures in words, and what is missing."""

    charts: list[Chart]
    text: list[str]
    notes: list[str]


class Images:
    """The test images of data sets, each read once."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def of(self, run: Run) -> Any:
        """Returns the test split of a run's data set, or the error that keeps it from being read.

        Folders of large images are not read.
        """
        key = str(run.manifest["config"]["dataset"])
        if key not in self._found:
            try:
                config = manifest.saved_config(run.manifest)
                split = datasets.load(config.dataset)["test"]
                if not hasattr(split, "images"):
                    raise InputError("its images are in folders")
                self._found[key] = split
            except (InputError, OSError) as error:
                self._found[key] = error
        return self._found[key]


def charts(run: Run, images: Images) -> Results:
    """Returns the charts of the files that `jaxcifar eval` has written for a run."""
    found = run.evaluation.get("test", run.evaluation.get("validation", {}))
    try:
        confusion = np.array(found["confusion"], int)
        names = _class_names(run, len(confusion))
        drawn: list[Chart] = [
            _confusion(confusion, names),
            _by_class(confusion, names),
            _reliability(found["calibration"], found.get("calibration_error")),
        ]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return Results([], [], [f"{run.workdir}/evaluation.json: cannot be read: {error!r}"])
    text = [_key_figures(found, confusion, names, run.evaluation.get("step"))]
    pictures, notes = _worst(run, names, images)
    return Results([*drawn, *pictures], text, notes)


def _class_names(run: Run, count: int) -> Sequence[str]:
    try:
        config = manifest.saved_config(run.manifest)
        _, names = dataset_facts.recorded(run.workdir, config.dataset)
    except InputError:
        names = ()
    return names if len(names) == count else [str(label) for label in range(count)]


def _key_figures(
    found: Mapping[str, Any], confusion: np.ndarray, names: Sequence[str], step: object
) -> str:
    correct, count = int(confusion.trace()), int(confusion.sum())
    low, high = wilson_interval(correct, max(count, 1))
    pairs = [
        f"{names[label]} as {names[prediction]} ({number:,})"
        for label, prediction, number in most_confused(confusion)
    ]
    error = found.get("calibration_error")
    calibration = "" if error is None else f" The expected calibration error is {error:.2%}."
    confused = f" Most confused: {', '.join(pairs)}." if pairs else ""
    return (
        f"Step {step}: {correct:,} of {count:,} images are right, {correct / max(count, 1):.2%} "
        f"(95 % interval {low:.2%} to {high:.2%}).{calibration}{confused}"
    )


def _confusion(confusion: np.ndarray, names: Sequence[str]) -> Heatmap:
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    mistakes = np.where(np.eye(len(names), dtype=bool), np.nan, 100 * shares)
    return Heatmap(
        "Confusion matrix",
        "Share of the images of each class that are taken for each other class; the diagonal, "
        "which is right, is left out.",
        "predicted",
        "label",
        names,
        names,
        mistakes,
        "% of the class",
        show_values=len(names) <= _MOST_CLASSES_WITH_NUMBERS,
    )


def _by_class(confusion: np.ndarray, names: Sequence[str]) -> Intervals:
    right, counts = confusion.diagonal(), confusion.sum(axis=1)
    best_first = np.argsort(right / np.maximum(counts, 1), kind="stable")[::-1]
    order = [number for number in best_first if counts[number]]
    ends = [wilson_interval(int(right[n]), int(counts[n])) for n in order]
    worst, best = order[-1], order[0]
    return Intervals(
        "Accuracy by class",
        f"From {right[worst] / counts[worst]:.1%} ({names[worst]}) to "
        f"{right[best] / counts[best]:.1%} ({names[best]}), with 95 % confidence intervals.",
        "accuracy, %",
        [names[n] for n in order],
        [float(right[n] / counts[n]) for n in order],
        [low for low, _ in ends],
        [high for _, high in ends],
        percent=True,
    )


def _reliability(bins: Sequence[Mapping[str, Any]], error: float | None) -> Reliability:
    def column(name: str) -> np.ndarray:
        return np.array([np.nan if row[name] is None else row[name] for row in bins], float)

    known = "" if error is None else f" The expected calibration error is {error:.2%}."
    return Reliability(
        "Reliability",
        "Accuracy by the probability of the predicted class; on the diagonal, probabilities are "
        f"right.{known}",
        column("confidence"),
        column("accuracy"),
        column("count"),
        np.append(column("above"), 1.0),
    )


def _worst(run: Run, names: Sequence[str], images: Images) -> tuple[list[Chart], list[str]]:
    """The most confident mistakes and the most uncertain images, and what is missing for them."""
    path = run.workdir / "predictions.npz"
    if not path.exists():
        return [], [f"{run.workdir}: no predictions.npz; `jaxcifar eval {run.workdir}` saves it"]
    try:
        with np.load(path) as file:
            logits, labels = file["test_logits"], file["test_labels"]
        probabilities = softmax(logits.astype(np.float64), axis=1)
    except (OSError, KeyError, ValueError, EOFError) as error:
        return [], [f"{path}: cannot be read: {error}"]
    split = images.of(run)
    if isinstance(split, Exception):
        return [], [f"{run.workdir}: its test images are not drawn: {split}".splitlines()[0]]
    if len(split.images) != len(labels) or np.any(split.labels != labels):
        return [], [f"{path}: its labels are not those of the test images"]
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_IMAGES]
    two = np.sort(probabilities, axis=1)[:, -2:]
    uncertain = np.argsort(two[:, 1] - two[:, 0], kind="stable")[:_IMAGES]

    def captions(chosen: np.ndarray) -> list[list[str]]:
        return [
            [
                f"{names[predicted[n]]} {confidence[n]:.1%}",
                f"label: {names[labels[n]]} {probabilities[n, labels[n]]:.1%}",
                f"no. {n}",
            ]
            for n in chosen
        ]

    drawn: list[Chart] = []
    for title, about, chosen in (
        ("Most confident mistakes", "The wrong predictions of the highest probability.", worst),
        (
            "Most uncertain images",
            "Those whose two most probable classes have the closest probabilities.",
            uncertain,
        ),
    ):
        if len(chosen):
            drawn.append(Pictures(title, about, split.images[chosen], captions(chosen)))
    return drawn, []
