"""Draws the README's learning curves from docs/images/learning_curves.csv; needs matplotlib.

    python scripts/draw_learning_curves.py

writes docs/images/learning_curves.svg.
"""

import csv
from pathlib import Path

import matplotlib.pyplot as plt

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
MILESTONES = (3200, 4800)
LINES = {"jaxcifar": ("#0b62c4", "o-"), "pytorch": ("#d9630b", "s--")}
NAMES = {"jaxcifar": "jaxcifar", "pytorch": "PyTorch"}


def main() -> None:
    """Draws test accuracy over steps, for both frameworks."""
    with (IMAGES / "learning_curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # The same file each time, with text as text.
    plt.rcParams.update({"svg.hashsalt": "jaxcifar", "svg.fonttype": "none", "font.size": 11})
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    for framework, (color, style) in LINES.items():
        steps = [int(row["step"]) for row in rows]
        accuracies = [float(row[f"{framework}_accuracy"]) for row in rows]
        label = f"{NAMES[framework]}, {accuracies[-1]:.2f} %"
        axes.plot(steps, accuracies, style, color=color, markersize=4.5, label=label)
    for step in MILESTONES:
        axes.axvline(step, color="0.75", linewidth=1, zorder=0)
        axes.text(step + 60, 51, "learning rate / 10", color="0.4", fontsize=9)
    axes.set(xlabel="step", ylabel="test accuracy, %", xlim=(0, 6600), ylim=(48, 90))
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center right", frameon=False)
    figure.patch.set_facecolor("white")
    figure.tight_layout()
    figure.savefig(IMAGES / "learning_curves.svg", metadata={"Date": None})
    print(IMAGES / "learning_curves.svg")


if __name__ == "__main__":
    main()
