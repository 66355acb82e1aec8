"""The table of runs in Markdown: one row per config, with mean and deviation over its seeds."""

import json
import statistics
from collections.abc import Sequence

from jaxcifar.report.comparison import (
    MOST_SEEDS,
    Difference,
    Group,
    accuracy_interval,
    baseline,
    difference,
    groups,
    score,
)
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

_LONG_NUMBER = 9  # characters
_MAX_FIELDS = 6


def table(runs: Sequence[Run]) -> str:
    """Returns a Markdown table of runs; runs that differ only in the seed share a row.

    Several configs are compared with the baseline, see `comparison.baseline`.
    """
    found = groups(runs)
    header, *lines = [
        [*own, *compared] for own, compared in zip(cells(found), _compared(found), strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    lines = [header, ["-" * width for width in widths], *lines]
    text = "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)
    return "\n\n".join([text, *warnings(found)])


def warnings(found: Sequence[Group]) -> list[str]:
    """Returns what makes a ranking of these groups doubtful, a sentence each."""
    name = score(found)
    single = [group.name for group in found if len(group.figure(name)) == 1] if name else []
    if len(found) < 2 or not single:
        return []
    who = "every config has" if len(single) == len(found) else f"{', '.join(single)}: each has"
    return [f"The ranking rests on one seed ({who} a single run); train more with --seeds 0,1,2."]


def _compared(found: Sequence[Group]) -> list[list[str]]:
    """The cells that compare groups with the baseline, the header first; empty for one group."""
    name = score(found)
    if len(found) < 2 or not name:
        return [[] for _ in range(len(found) + 1)]
    base = baseline([group for group in found if group.figure(name)])
    rows = [[f"{name}, 95 %", f"points above {base.name}, 95 %", "seeds to tell apart"]]
    for group in found:
        values = group.figure(name)
        own = accuracy_interval(values) if len(values) > 1 else None
        gap = None if group is base else difference(group, base, name)
        rows.append(
            [
                f"{own.low:.2%} to {own.high:.2%}" if own else "",
                gap_text(gap),
                seeds_text(gap),
            ]
        )
    return rows


def gap_text(gap: Difference | None) -> str:
    """Returns a difference of fractions with its interval, in percentage points."""
    if gap is None:
        return ""
    mean, low, high = (100 * value for value in gap.interval)
    return f"{mean:+.2f}" if low == high else f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def seeds_text(gap: Difference | None) -> str:
    """Returns with how many seeds a difference of this size would be told apart."""
    if gap is None or "one seed" in gap.how:
        return ""
    return f"over {MOST_SEEDS:,}" if gap.seeds_needed is None else f"{gap.seeds_needed:,}"


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
    """Returns the value of a config field as text; long numbers have four significant digits."""
    text = json.dumps(value).strip('"')
    return f"{value:.4g}" if isinstance(value, float) and len(text) > _LONG_NUMBER else text


def _mean_and_deviation(template: str, values: list[float]) -> str:
    """The mean of a figure, and its sample standard deviation unless all values are equal."""
    if not values:
        return ""
    text = template.format(statistics.mean(values))
    if len(set(values)) > 1:
        text += f" ± {template.format(statistics.stdev(values))}"
    return text
