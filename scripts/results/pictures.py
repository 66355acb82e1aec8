"""The pictures of what results/ holds, drawn with matplotlib.

A picture's metadata has the hash of the files that it shows, which tells whether it is up to date
without drawing it.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rows import ROOT, ROWS
from runs import Predictions, curve, kept, most_confident_mistakes, predictions

IMAGES = ROOT / "docs" / "images" / "results"
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
BINS = 10
_BLUE, _GREY = "#0b62c4", "0.6"
_MIN_EVALUATIONS = 4  # below this, a curve shows nothing


class Picture:
    """A picture and what it is made from."""

    def __init__(self, name: str, alt: str, sources: Sequence[Path], draw: Callable[[], Any]):
        """Describes a picture.

        Args:
          name: of its file, without the ending.
          alt: what it shows, in words.
          sources: the files that it is made from.
          draw: returns the matplotlib figure.
        """
        self.path = IMAGES / f"{name}.svg"
        self.alt = alt
        self._draw = draw
        content = b"".join(source.read_bytes() for source in sources)
        self._hash = hashlib.sha256(content).hexdigest()

    def is_current(self) -> bool:
        """Whether its file exists and shows what the sources have now."""
        if not self.path.exists():
            return False
        found = re.search(r"sources sha256 (\w+)", self.path.read_text())
        return bool(found) and found[1] == self._hash

    def save(self) -> None:
        """Draws the picture into its file."""
        import matplotlib
        import matplotlib.pyplot as plt

        matplotlib.use("agg")
        # The same file each time, with text as text.
        with plt.rc_context(
            {"svg.hashsalt": "jaxcifar", "svg.fonttype": "none", "figure.facecolor": "white"}
        ):
            figure = self._draw()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"Date": None, "Description": f"sources sha256 {self._hash}"}
            figure.savefig(self.path, metadata=metadata)
            plt.close(figure)


def pictures() -> list[Picture]:
    """Returns all pictures that results/ has the runs for."""
    found = []
    for name, row in ROWS.items():
        runs = kept(name)
        if runs and all(len(curve(run)[0]) >= _MIN_EVALUATIONS for run in runs):
            found.append(
                Picture(
                    f"{name}_curve",
                    f"Test accuracy of {row.title} by epoch",
                    [run / "metrics.csv" for run in runs],
                    partial(draw_curves, row.title, [curve(run) for run in runs]),
                )
            )
        if runs and row.examined:
            found += _examined(name, row.title, runs[0])
    return found


def _examined(name: str, title: str, run: Path) -> list[Picture]:
    made, sources = predictions(run), [run / "predictions.bin", run / "probabilities.bin"]
    mistakes = run / "mistakes.png"
    return [
        Picture(
            f"{name}_confusion",
            f"Confusion matrix of {title}",
            sources,
            partial(draw_confusion, made),
        ),
        Picture(
            f"{name}_calibration",
            f"Accuracy of {title} by predicted probability",
            sources,
            partial(draw_calibration, made),
        ),
        Picture(
            f"{name}_mistakes",
            f"The most confident mistakes of {title}",
            [*sources, mistakes],
            partial(draw_mistakes, made, mistakes),
        ),
    ]


def draw_curves(title: str, curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Any:
    """Draws test accuracy by epoch: the mean over the seeds, and the band of all of them."""
    import matplotlib.pyplot as plt

    epochs = curves[0][0]
    values = np.array([accuracies for _, accuracies in curves])  # [seeds, evaluations]
    figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    if len(values) > 1:
        band = values.min(axis=0), values.max(axis=0)
        label = f"lowest to highest of {len(values)} seeds"
        axes.fill_between(epochs, *band, color=_BLUE, alpha=0.25, linewidth=0, label=label)
    mean = values.mean(axis=0)
    axes.plot(epochs, mean, color=_BLUE, label=f"{title}, {mean[-1]:.2f} % at the end")
    low = np.floor(np.percentile(values, 5) / 5) * 5
    axes.set(xlabel="epoch", ylabel="test accuracy, %", ylim=(low, None), xlim=(0, epochs[-1]))
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    return figure


def confusion(made: Predictions, classes: int) -> np.ndarray:
    """Returns the number of images of each label (row) and predicted class, int [C, C]."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (made.labels, made.classes), 1)
    return counts


def draw_confusion(made: Predictions) -> Any:
    """Draws the confusion matrix; only mistakes are coloured, which the diagonal outweighs."""
    import matplotlib.pyplot as plt

    counts = confusion(made, len(CIFAR10))
    mistakes = counts * (1 - np.eye(len(CIFAR10), dtype=int))
    figure, axes = plt.subplots(figsize=(6, 5.2), layout="constrained")
    axes.imshow(mistakes, cmap="Blues")
    for (label, predicted), count in np.ndenumerate(counts):
        dark = mistakes[label, predicted] > mistakes.max() / 2
        axes.text(
            predicted, label, str(count), ha="center", va="center", color="w" if dark else "k"
        )
    axes.set_xticks(range(len(CIFAR10)), CIFAR10, rotation=45, ha="right")
    axes.set_yticks(range(len(CIFAR10)), CIFAR10)
    axes.set(xlabel="predicted", ylabel="label")
    return figure


def calibration(made: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean probability, accuracy and number of images by bin of probability, [BINS]."""
    probabilities = made.probabilities.astype(np.float64)
    numbers = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    counts = np.bincount(numbers, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(numbers, probabilities, BINS) / counts
        accuracy = np.bincount(numbers, made.labels == made.classes, BINS) / counts
    return mean, accuracy, counts


def draw_calibration(made: Predictions) -> Any:
    """Draws accuracy by predicted probability, and how many images have each."""
    import matplotlib.pyplot as plt

    mean, accuracy, counts = calibration(made)
    error = np.nansum(np.abs(mean - accuracy) * counts) / counts.sum()
    figure, (upper, lower) = plt.subplots(
        2, figsize=(5, 5.2), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    upper.plot([0, 1], [0, 1], "--", color=_GREY, label="calibrated")
    label = f"expected calibration error {error:.1%}"
    upper.plot(mean, accuracy, "o-", color=_BLUE, label=label)
    upper.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1))
    upper.legend(frameon=False)
    lower.bar((np.arange(BINS) + 0.5) / BINS, counts, width=0.9 / BINS, color=_BLUE)
    lower.set(xlabel="probability of the predicted class", ylabel="images", yscale="log")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_mistakes(made: Predictions, strip: Path) -> Any:
    """Draws the most confident mistakes, each with predicted class, probability and label."""
    import matplotlib.pyplot as plt

    chosen = most_confident_mistakes(made)
    images = np.split(np.asarray(Image.open(strip)), len(chosen), axis=1)
    figure, grid = plt.subplots(4, 5, figsize=(7.5, 7.6), layout="constrained")
    for axes in grid.flat:
        axes.axis("off")
    for axes, index, image in zip(grid.flat, chosen, images, strict=False):
        axes.imshow(image)
        predicted, label = CIFAR10[made.classes[index]], CIFAR10[made.labels[index]]
        axes.set_title(
            f"{predicted} {made.probabilities[index]:.1%}\nlabel: {label}, no. {index}", fontsize=8
        )
    return figure
