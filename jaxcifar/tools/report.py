"""Compares runs in a table: one row for each config, with mean and deviation over its seeds.

    python -m jaxcifar.tools.report --runs runs/ablations_sweep
    python -m jaxcifar.tools.report --runs runs/resnet20,runs/resnet56

Each directory is that of a run, or has such in it at any depth. The table is Markdown. It has the
fields in which the runs differ, where a run's value is not that of most. Test accuracy is of the
last step, as the best one can only be chosen on the validation images; train accuracy is of the
last logging interval, on augmented images.
"""

import json
import os
import re
import statistics
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from jaxcifar.errors import InputError
from jaxcifar.reporting.csv_log import read_rows
from jaxcifar.tools import cli

_RUNS = flags.DEFINE_list("runs", None, "Directories with runs in them.")


class Summary(NamedTuple):
    """What a run's files say.

    Attributes:
      workdir: its directory.
      name: what the table calls it: the directory, from the one that it was found in.
      config: its fields by their paths, as train.seed.
      finished: whether it has ended.
      figures: step, parameters, and what of the others was measured.
    """

    workdir: Path
    name: str
    config: dict[str, Any]
    finished: bool
    figures: dict[str, float]


# Figure -> how it is written; accuracies are shares. The best one of the test images is not here:
# a step that is chosen by it has seen them.
_FORMATS = {
    "parameters": "{:,.0f}",
    "step": "{:,.0f}",
    "test accuracy": "{:.2%}",
    "test_ema accuracy": "{:.2%}",
    "validation accuracy": "{:.2%}",
    "best validation accuracy": "{:.2%}",
    "train accuracy": "{:.2%}",
    "images/s": "{:,.0f}",
}


def main() -> None:
    """Prints the table."""
    if not _RUNS.value:
        raise InputError("--runs must name directories with runs in them, as runs/ablations_sweep")
    found: dict[Path, Summary] = {}
    for root in _RUNS.value:
        for summary in find(Path(root)):
            found.setdefault(summary.workdir, summary)
    print(table(list(found.values())))


def find(root: Path) -> list[Summary]:
    """Returns the summaries of the runs in a directory, which may be one.

    Raises:
      InputError: if there is none.
    """
    from jaxcifar.resilience import manifest  # not before --help is answered

    found = []
    for path in sorted(file.parent for file in root.rglob("manifest.json")):
        run = manifest.read(path)
        # One that is a reproduction says nothing new.
        if (path / "metrics.csv").exists() and "config" in run and "reproduces" not in run:
            name = root.name if path == root else str(path.relative_to(root))
            found.append(summarize(path, name, run))
    if not found:
        raise InputError(f"--runs: {root} has no run in it, with a manifest.json and a metrics.csv")
    return found


def summarize(workdir: Path, name: str, run: dict[str, Any]) -> Summary:
    """Returns what the files of a run say.

    Args:
      workdir: of the run.
      name: see `Summary`.
      run: its manifest.

    Raises:
      InputError: if they are not what a run writes.
    """
    overview = workdir / "parameters.txt"
    figures = {}
    try:
        sections = run["config"].items()
        config = {f"{s}.{f}": value for s, fields in sections for f, value in fields.items()}
        rows = read_rows(workdir / "metrics.csv")
        if rows:
            figures["step"] = float(rows[-1]["step"])
        if overview.exists() and (total := re.search(r"Total: ([\d,]+)", overview.read_text())):
            figures["parameters"] = float(total[1].replace(",", ""))
        for split in "test", "test_ema", "validation", "train":
            of_split = [row["accuracy"] for row in rows if row["split"] == split]
            if accuracies := [float(accuracy) for accuracy in of_split if accuracy]:
                figures[f"{split} accuracy"] = accuracies[-1]
                if split == "validation":
                    figures["best validation accuracy"] = max(accuracies)
        if rates := [float(r["images_per_second"]) for r in rows if r["images_per_second"]]:
            figures["images/s"] = statistics.median(rates)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{workdir}: manifest.json or metrics.csv is not a run's") from error
    return Summary(workdir.resolve(), name, config, "end" in run, figures)


def table(summaries: list[Summary]) -> str:
    """Returns a Markdown table of runs, those of one config but for the seed in one row."""
    fields = _differing(summaries)
    groups: dict[Any, list[Summary]] = {}
    for summary in summaries:
        shown = tuple(json.dumps(summary.config.get(field)) for field in fields)
        groups.setdefault((summary.finished, shown), []).append(summary)
    figures = [name for name in _FORMATS if any(name in s.figures for s in summaries)]
    header = ["run", "differs in", "runs", *figures]
    lines = [_row(fields, runs, figures, summaries) for runs in groups.values()]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    lines.insert(0, ["-" * width for width in widths])
    lines.insert(0, header)
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _differing(summaries: list[Summary]) -> list[str]:
    """The fields, but the seed and those that change no result, in which runs differ."""
    from jaxcifar.config import RESUME

    fields = dict.fromkeys(field for summary in summaries for field in summary.config)
    return [
        field
        for field in fields
        if field != "train.seed"
        and RESUME.get(field) != "free"
        and len({json.dumps(summary.config.get(field)) for summary in summaries}) > 1
    ]


def _row(
    fields: list[str], runs: list[Summary], figures: list[str], summaries: list[Summary]
) -> list[str]:
    config = runs[0].config
    told, quote = [], '"'
    for field in fields:
        values = Counter(json.dumps(summary.config.get(field)) for summary in summaries)
        value = json.dumps(config.get(field))
        if values[value] * 2 <= len(summaries):
            told.append(f"{field}={value.strip(quote)}")
    name = runs[0].name
    if len(runs) > 1:
        prefix = os.path.commonprefix([summary.name for summary in runs])
        name = re.sub(r"[/_-]*(seed)?[/_-]*$", "", prefix) or name
    if not runs[0].finished:
        name += " (unfinished)"
    cells = [name, " ".join(told), str(len(runs))]
    for figure in figures:
        values = [summary.figures[figure] for summary in runs if figure in summary.figures]
        cells.append(_written(_FORMATS[figure], values))
    return cells


def _written(form: str, values: list[float]) -> str:
    """A figure's mean, and its sample standard deviation if runs differ in it."""
    if not values:
        return ""
    text = form.format(statistics.mean(values))
    if len(set(values)) > 1:
        text += f" ± {form.format(statistics.stdev(values))}"
    return text


if __name__ == "__main__":
    cli.run(main, __doc__)
