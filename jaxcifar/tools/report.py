"""Compares runs in a table: one row per config, with mean and deviation over its seeds.

    jaxcifar report --runs runs/ablations_sweep
    jaxcifar report --runs runs/resnet20,runs/resnet56

Each directory is a run or contains runs at any depth. The table is printed as Markdown. It lists
the fields in which the runs differ, for each run those whose value is not that of the majority.
Test accuracy is that of the last step, because the best step may only be chosen on validation
images; train accuracy is that of the last logging interval, on augmented images.
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
from jaxcifar.regular_files import check_regular
from jaxcifar.reporting.csv_log import read_rows
from jaxcifar.tools import cli

_RUNS = flags.DEFINE_list(
    "runs", None, "Directories of runs, or containing runs, separated by commas."
)


class Summary(NamedTuple):
    """A run in a few figures, read from its files.

    Attributes:
      workdir: directory of the run.
      name: name in the table: the directory, relative to the one that was searched.
      config: config fields by path, e.g. "train.seed".
      finished: whether the run has finished.
      figures: figures of the run by name, see `_FORMATS`; those that were not recorded are absent.
    """

    workdir: Path
    name: str
    config: dict[str, Any]
    finished: bool
    figures: dict[str, float]


# Figure -> format; accuracies are fractions. The best test accuracy is left out on purpose:
# choosing a step by it would mean selecting on the test images.
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
        raise InputError("--runs must name directories of runs, e.g. --runs=runs/ablations_sweep")
    found: dict[Path, Summary] = {}
    for root in _RUNS.value:
        for summary in find(Path(root)):
            found.setdefault(summary.workdir, summary)
    print(table(list(found.values())))


def find(root: Path) -> list[Summary]:
    """Returns the summaries of the runs in a directory, or of the directory if it is a run.

    Args:
      root: directory to search at any depth; reproductions of other runs are left out.

    Raises:
      InputError: if it contains no run.
    """
    from jaxcifar.resilience import manifest  # slow to import; --help does not need it

    found = []
    for path in sorted(file.parent for file in root.rglob("manifest.json")):
        if not (path / "metrics.csv").exists():  # as in a checkpoint, which may be damaged
            continue
        run = manifest.read(path)
        if "config" in run and "reproduces" not in run:
            name = root.name if path == root else str(path.relative_to(root))
            found.append(summarize(path, name, run))
    if not found:
        raise InputError(f"--runs: {root} contains no run (no manifest.json beside a metrics.csv)")
    return found


def summarize(workdir: Path, name: str, run: dict[str, Any]) -> Summary:
    """Returns the summary of one run.

    Args:
      workdir: directory of the run.
      name: name of the run in the table.
      run: contents of its manifest.

    Raises:
      InputError: if the files were not written by a run.
    """
    overview = workdir / "parameters.txt"
    figures = {}
    try:
        sections = run["config"].items()
        config = {f"{s}.{f}": value for s, fields in sections for f, value in fields.items()}
        rows = read_rows(workdir / "metrics.csv")
        check_regular(overview)
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
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{workdir}: manifest.json or metrics.csv was not written by a run"
        ) from error
    return Summary(workdir.resolve(), name, config, "end" in run, figures)


def table(summaries: list[Summary]) -> str:
    """Returns a Markdown table of runs; runs that differ only in the seed share a row."""
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
    """The fields in which runs differ, except for the seed and those that affect no result."""
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
    differing = []
    for field in fields:
        counts = Counter(json.dumps(summary.config.get(field)) for summary in summaries)
        value = json.dumps(config.get(field))
        if counts[value] * 2 <= len(summaries):
            differing.append(field + "=" + value.strip('"'))
    name = runs[0].name
    if len(runs) > 1:
        prefix = os.path.commonprefix([summary.name for summary in runs])  # noqa: RUF071, by character
        name = re.sub(r"[/_-]*(seed)?[/_-]*$", "", prefix) or name
    if not runs[0].finished:
        name += " (unfinished)"
    cells = [name, " ".join(differing), str(len(runs))]
    for figure in figures:
        values = [summary.figures[figure] for summary in runs if figure in summary.figures]
        cells.append(_mean_and_deviation(_FORMATS[figure], values))
    return cells


def _mean_and_deviation(template: str, values: list[float]) -> str:
    """The mean of a figure, and its sample standard deviation unless all values are equal."""
    if not values:
        return ""
    text = template.format(statistics.mean(values))
    if len(set(values)) > 1:
        text += f" ± {template.format(statistics.stdev(values))}"
    return text


if __name__ == "__main__":
    cli.run(main, __doc__)
