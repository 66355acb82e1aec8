"""The table of runs in Markdown: one row per config, with mean and deviation over its seeds."""

import json
import statistics
from collections.abc import Sequence

from jaxcifar.report.comparison import Group, groups
from jaxcifar.report.runs import Run

# Figure -> format; accuracies are fractions.
FORMATS = {
    "parameters": "{:,.0f}",
    "step": "{:,.0f}",
    "test accuracy": "{:.2%}",
    "test_ema accuracy": "{:.2%}",
    "validation accuracy": "{:.2%}",
    "best validation accuracy": "{:.2%}",
    "train accuracy": "{:.2%}",
    "images/s": "{:,.0f}",
    "minutes": "{:,.1f}",
}

_MAX_FIELDS = 6


def table(runs: Sequence[Run]) -> str:
    """Returns a Markdown table of runs; runs that differ only in the seed share a row."""
    header, *lines = cells(groups(runs))
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    lines = [header, ["-" * width for width in widths], *lines]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def cells(found: Sequence[Group]) -> list[list[str]]:
    """Returns the cells of the table, the header first."""
    figures = [name for name in FORMATS if any(group.figure(name) for group in found)]
    rows = [["run", "differs in", "runs", *figures]]
    for group in found:
        differing = [
            f"{field}={value_text(value)}" for field, value in [*group.fields.items()][:_MAX_FIELDS]
        ]
        if len(group.fields) > _MAX_FIELDS:
            differing.append(f"and {len(group.fields) - _MAX_FIELDS} more")
        values = [_mean_and_deviation(FORMATS[name], group.figure(name)) for name in figures]
        rows.append([group.name, " ".join(differing), str(len(group.runs)), *values])
    return rows


def value_text(value: object) -> str:
    """Returns the value of a config field as text."""
    return json.dumps(value).strip('"')


def _mean_and_deviation(template: str, values: list[float]) -> str:
    """The mean of a figure, and its sample standard deviation unless all values are equal."""
    if not values:
        return ""
    text = template.format(statistics.mean(values))
    if len(set(values)) > 1:
        text += f" ± {template.format(statistics.stdev(values))}"
    return text
