"""Charts that compare configs: intervals, differences to a baseline, parallel coordinates."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np

from jaxcifar.report.charts import Chart, Dimension, Intervals, Parallel, Table
from jaxcifar.report.comparison import (
    Group,
    accuracy_interval,
    baseline,
    difference,
    differing_fields,
)
from jaxcifar.report.table import gap_text, seeds_text, value_text, warnings

_MAX_DIMENSIONS = 8
_MAX_NAMES = 60
_MAX_TEXT = 24  # letters of a value beside an axis


def comparison(groups: Sequence[Group], figure: str) -> tuple[list[Chart | Table], list[str]]:
    """Returns charts of a figure by group and of its difference to the baseline, and key figures.

    Args:
      groups: at least two.
      figure: name of the figure, see `Run.figures`.
    """
    shown = [group for group in groups if group.figure(figure)]
    if len(shown) < 2:
        return [], []
    shown = sorted(shown, key=lambda group: -accuracy_interval(group.figure(figure)).mean)
    base = baseline([group for group in groups if group in shown])
    items: list[Chart | Table] = []
    text = []
    means = [accuracy_interval(group.figure(figure)) for group in shown]
    best = shown[0]
    text.append(
        f"{best.name} is highest with {means[0].mean:.2%} ({len(best.runs)} "
        f"{'runs' if len(best.runs) > 1 else 'run'}); {shown[-1].name} is lowest with "
        f"{means[-1].mean:.2%}."
    )
    text += warnings(shown)
    cut = slice(0, _MAX_NAMES)
    items.append(
        Intervals(
            f"{figure.capitalize()} by config",
            f"Means over seeds with 95 % confidence intervals, for {len(shown)} configs.",
            f"{figure}, %",
            [group.name for group in shown][cut],
            [mean.mean for mean in means][cut],
            [mean.low for mean in means][cut],
            [mean.high for mean in means][cut],
            percent=True,
        )
    )
    gaps = [
        (group, gap)
        for group in shown
        if group is not base and (gap := difference(group, base, figure))
    ]
    items.append(
        Intervals(
            f"Difference to {base.name}",
            "Differences of means with 95 % confidence intervals: where an interval contains 0, "
            "the runs do not tell the two apart.",
            f"difference of {figure}, percentage points",
            [group.name for group, _ in gaps][cut],
            [gap.interval.mean for _, gap in gaps][cut],
            [gap.interval.low for _, gap in gaps][cut],
            [gap.interval.high for _, gap in gaps][cut],
            percent=True,
            zero=True,
        )
    )
    rows = [[group.name, gap_text(gap), gap.how, seeds_text(gap)] for group, gap in gaps]
    header = ["config", "difference in points, 95 %", "computed", "seeds to tell apart"]
    items.append(Table(f"Differences to {base.name}", header, rows))
    return items, text


def parallel_coordinates(groups: Sequence[Group], figure: str) -> Parallel | None:
    """Returns a line per run over the fields in which the runs differ; None for less than three."""
    runs = [run for group in groups for run in group.runs if figure in run.figures()]
    fields = differing_fields(runs)[:_MAX_DIMENSIONS] if len(runs) > 2 else []
    if not fields or len(groups) < 3:
        return None
    dimensions = [_dimension(field, [run.config.get(field) for run in runs]) for field in fields]
    scores = np.array([run.figures()[figure] for run in runs])
    dimensions.append(Dimension(f"{figure}, %", 100 * scores))
    return Parallel(
        "Fields and accuracy",
        f"A line per run over {', '.join(fields)} and its {figure}. Drag along an axis to select "
        "runs.",
        dimensions,
    )


def _dimension(field: str, values: Sequence[object]) -> Dimension:
    """The axis of a field: logarithmic if its values are above 0 and span a factor of 20."""
    label = field.split(".")[-1]
    numbers = [
        float(value) for value in values if isinstance(value, int | float) and value == value
    ]
    if len(numbers) < len(values) or any(isinstance(value, bool) for value in values):
        texts = [
            textwrap.shorten(value_text(value), _MAX_TEXT, placeholder="...") for value in values
        ]
        names = list(dict.fromkeys(texts))
        positions = [float(names.index(text)) for text in texts]
        return Dimension(label, np.array(positions), dict(enumerate(names)))
    array = np.array(numbers)
    if array.min() > 0 and array.max() / array.min() >= 20:
        ticks = {math.log10(number): f"{number:g}" for number in sorted(set(numbers))}
        if len(ticks) > 8:
            powers = range(math.floor(min(ticks)), math.ceil(max(ticks)) + 1)
            ticks = {float(power): f"{10.0**power:g}" for power in powers}
        return Dimension(label, np.log10(array), ticks)
    return Dimension(label, array)


def config_table(groups: Sequence[Group]) -> Table | None:
    """Returns the fields in which the runs differ, with the value of each; None without any."""
    fields = differing_fields([run for group in groups for run in group.runs])
    if not fields:
        return None
    rows = [
        [group.name, *(value_text(group.runs[0].config.get(field)) for field in fields)]
        for group in groups
    ]
    return Table("Fields that differ", ["config", *fields], rows)
