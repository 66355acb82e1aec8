"""Keeps the results that can be cited in results/, and writes them where they are shown.

    python scripts/results.py add runs/speedrun94/* --row speedrun94
    python scripts/results.py write

The first command evaluates finished runs and copies what is kept of each to results/ROW/SEED: the
manifest, metrics.csv and the predicted class of every test image, a byte each in the order of the
data set. The second writes the table of README.md and the figures in the docstrings of configs/,
from results/ alone; with --check it only compares, and exits with code 1 if they differ.
"""

from jaxcifar import environment

if __name__ == "__main__":
    environment.prepare()

import argparse
import json
import re
import shutil
import statistics
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcifar.reporting.csv_log import read_rows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"


class Row(NamedTuple):
    """A row of the table: a recipe, with the flags that it is trained with."""

    title: str
    config: str
    flags: tuple[str, ...] = ()


# By the name of the directory in results/, in the order of the table.
ROWS = {
    "speedrun94": Row("speedrun, 94 %", "speedrun94.py"),
    "speedrun95": Row("speedrun, 95 %", "speedrun95.py"),
    "speedrun96": Row("speedrun, 96 %", "speedrun96.py"),
    "speedrun_cifar100": Row("speedrun, CIFAR-100", "speedrun_cifar100.py"),
    "resnet20": Row("ResNet-20", "resnet20.py"),
    "resnet56": Row("ResNet-56", "resnet56.py"),
}

_BEGIN, _END = "<!-- written by scripts/results.py -->", "<!-- end of the results -->"
_PARAGRAPH = re.compile(r'^Measured: .*?(?=\n\n|\n""")', re.DOTALL | re.MULTILINE)
_ONE_VIEW = {"test_time_flip": False, "test_time_shift": 0, "test_time_views": "corners"}


class Run(NamedTuple):
    """What is shown of a run; accuracies are fractions, of the last step."""

    accuracy: float
    one_view_accuracy: float | None  # None if the recipe has no test-time views
    minutes: float
    images_per_second: float
    hardware: str
    jax: str
    commit: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_parser = commands.add_parser("add", help="keep finished runs")
    add_parser.add_argument("runs", nargs="+", type=Path, help="directories of runs")
    add_parser.add_argument("--row", choices=ROWS, required=True, help="row of the table")
    write_parser = commands.add_parser("write", help="write the table and the figures")
    write_parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    if args.command == "add":
        for run in args.runs:
            add(run, args.row)
        return
    stale = {path: text for path, text in texts().items() if path.read_text() != text}
    for path, text in stale.items():
        print(f"{'differs' if args.check else 'written'}: {path.relative_to(ROOT)}")
        if not args.check:
            path.write_text(text)
    if stale and args.check:
        sys.exit(1)


def add(workdir: Path, row: str) -> None:
    """Evaluates a finished run and keeps it in results/, in place of an earlier one of its seed."""
    from jaxcifar.resilience import manifest

    run = manifest.read(workdir)
    if "end" not in run:
        sys.exit(f"error: {workdir}: the run has not finished")
    config = manifest.saved_config(run)
    labels, predicted = _predictions(config, workdir)
    accuracy = float(np.mean(labels == predicted))
    recorded = run["end"]["metrics"]["test"]["accuracy"]
    if accuracy != recorded:
        sys.exit(f"error: {workdir}: an evaluation gives {accuracy}, the manifest says {recorded}")
    files = {
        "manifest.json": (json.dumps(_without_places(run, row), indent=1) + "\n").encode(),
        "metrics.csv": (workdir / "metrics.csv").read_bytes(),
        "predictions.bin": predicted.tobytes(),
    }
    if config.eval.test_time_flip or config.eval.test_time_shift:
        config.eval.update(_ONE_VIEW)
        files["predictions_one_view.bin"] = _predictions(config, workdir)[1].tobytes()
    out = RESULTS / row / str(run["seed"])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    labels_path(config.dataset.name).write_bytes(labels.tobytes())
    print(f"{out.relative_to(ROOT)}: {accuracy:.2%}")


def _predictions(config: Any, workdir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predicted classes of the test images, uint8 [N]."""
    from jaxcifar.evaluate import evaluate_run

    config.eval.predictions = True
    evaluate_run(config, workdir)
    with np.load(workdir / "predictions.npz") as arrays:
        predicted = arrays["test_logits"].argmax(axis=1)
        return arrays["test_labels"].astype(np.uint8), predicted.astype(np.uint8)


def _without_places(run: dict[str, Any], row: str) -> dict[str, Any]:
    """A manifest without names of directories and machines; commands are those of the table."""
    run = json.loads(json.dumps(run))
    run["config"]["dataset"]["data_dir"] = ""
    for start in run["starts"]:
        start["command"] = command(row, run["seed"]).split()
        start["hardware"].pop("host", None)
    return run


def command(row: str, seed: int | str) -> str:
    """Returns the command line that trains a row."""
    flags = " ".join(("", *ROWS[row].flags, f"--config.train.seed={seed}"))
    return f"python -m jaxcifar.main --config configs/{ROWS[row].config}{flags}"


def labels_path(dataset: str) -> Path:
    return RESULTS / f"{dataset}_test_labels.bin"


def read(directory: Path) -> Run:
    """Returns the figures of a run from its directory in results/."""
    run = json.loads((directory / "manifest.json").read_text())
    labels = np.fromfile(labels_path(run["config"]["dataset"]["name"]), np.uint8)
    one_view = directory / "predictions_one_view.bin"
    start, rows = run["starts"][-1], read_rows(directory / "metrics.csv")
    speeds = [float(row["images_per_second"]) for row in rows if row["images_per_second"]]
    return Run(
        accuracy=run["end"]["metrics"]["test"]["accuracy"],
        one_view_accuracy=(
            float(np.mean(np.fromfile(one_view, np.uint8) == labels)) if one_view.exists() else None
        ),
        minutes=_minutes([start["time"] for start in run["starts"]], [row["time"] for row in rows]),
        images_per_second=statistics.median(speeds),
        hardware=f"{start['hardware']['cores']} cores, {start['hardware']['processor']}",
        jax=start["versions"]["jax"],
        commit=start["commit"][:7],
    )


def _minutes(starts: Sequence[str], rows: Sequence[str]) -> float:
    """Time from each start of a run to the last row before the next start, in minutes."""
    begins = [datetime.fromisoformat(time) for time in starts]
    times = [datetime.fromisoformat(time) for time in rows]
    ends = [*begins[1:], max(times)]
    seconds = 0.0
    for begin, end in zip(begins, ends, strict=True):
        written = [time for time in times if begin <= time <= end]
        seconds += (max(written) - begin).total_seconds() if written else 0
    return seconds / 60


def texts() -> dict[Path, str]:
    """Returns the contents of all files that show results, by path."""
    found = {row: [read(path.parent) for path in _manifests(row)] for row in ROWS}
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    shown = {readme: f"{before}{_BEGIN}\n\n{table(found)}\n\n{_END}{after}"}
    for row, runs in found.items():
        if runs:
            path = ROOT / "configs" / ROWS[row].config
            shown[path] = _PARAGRAPH.sub(lambda _, runs=runs: measured(runs), path.read_text())
    return shown


def _manifests(row: str) -> list[Path]:
    return sorted((RESULTS / row).glob("*/manifest.json"), key=lambda path: int(path.parent.name))


def table(found: dict[str, list[Run]]) -> str:
    """Returns the Markdown table of all rows; those without a run are open."""
    titles = "recipe, seeds, test accuracy, one view, time per run, images/s, hardware, commit"
    lines = [f"| {titles.replace(', ', ' | ')} |", "|---|---|---|---|---|---|---|---|"]
    for row, runs in found.items():
        name = f"[{ROWS[row].title}](configs/{ROWS[row].config})"
        if not runs:
            lines.append(f"| {name} | | open | | | | | |")
            continue
        cells = [
            name,
            str(len(runs)),
            _accuracy([run.accuracy for run in runs]),
            _accuracy([run.one_view_accuracy for run in runs if run.one_view_accuracy is not None]),
            _duration(statistics.median(run.minutes for run in runs)),
            f"{statistics.median(run.images_per_second for run in runs):,.0f}",
            _each(run.hardware for run in runs),
            _each(run.commit for run in runs),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(runs: Sequence[Run]) -> str:
    """Returns the paragraph of a recipe's docstring."""
    seeds = f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"
    one_view = [run.one_view_accuracy for run in runs if run.one_view_accuracy is not None]
    views = f", {_accuracy(one_view)} without the test-time views" if one_view else ""
    text = (
        f"Measured: {_accuracy([run.accuracy for run in runs])} test accuracy{views} ({seeds}), in "
        f"{_duration(statistics.median(run.minutes for run in runs))} per run "
        f"({_each(run.hardware for run in runs)}, jax {_each(run.jax for run in runs)}, commit "
        f"{_each(run.commit for run in runs)})."
    )
    return "\n".join(textwrap.wrap(text, 100))


def _accuracy(values: Sequence[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation} %"


def _duration(minutes: float) -> str:
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _each(values: Any) -> str:
    return ", ".join(dict.fromkeys(values))


if __name__ == "__main__":
    main()
