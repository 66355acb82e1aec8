"""Charts of training: loss, accuracy, learning rate, throughput and ternary weights."""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxcifar.report.charts import Chart, Line, Lines
from jaxcifar.report.comparison import Group
from jaxcifar.report.runs import Curve

_MAX_POINTS = 1000  # of a line
_ALL_POINTS = 8_000  # of the lines of a chart
_SPLITS = ("train", "validation", "test", "validation_ema", "test_ema")
_LEVELS = {"negative": "-1", "zero": "0", "positive": "1"}


def charts(groups: Sequence[Group]) -> list[Chart]:
    """Returns the charts that these runs have rows for.

    Of one group, the splits share a chart; of several, each split has its own.
    """
    found: list[Chart] = []
    for column, percent in (("loss", False), ("accuracy", True)):
        splits = [s for s in _SPLITS if any(_has(group, s, column) for group in groups)]
        if len(groups) == 1 and splits:
            lines = [
                line
                for number, split in enumerate(splits)
                for line in _lines(groups[0], split, column, 1, 0, label=split, style=number)
            ]
            found.append(_chart(column.capitalize(), column, lines, percent))
            continue
        for split in splits:
            lines = list(_of_groups(groups, split, column))
            found.append(_chart(f"{column.capitalize()}, {_name(split)}", column, lines, percent))
    for column, title in (("learning_rate", "Learning rate"), ("images_per_second", "Images/s")):
        if lines := list(_of_groups(groups, "train", column)):
            found.append(_chart(title, title.lower(), lines, False))
    levels = [
        line
        for style, (column, label) in enumerate(_LEVELS.items())
        for number, group in enumerate(groups)
        for line in _lines(
            group, "weights", column, len(groups), number, f"{group.name}, {label}", style
        )
    ]
    if levels:
        found.append(_chart("Ternary weights", "share of weights", levels, True))
    return found


def _chart(title: str, y_label: str, lines: Sequence[Line], percent: bool) -> Lines:
    shown = [line for line in lines if not line.member]
    ends = [f"{line.label}: {_number(_last(line.y), percent)}" for line in shown[:12]]
    more = f" and {len(shown) - 12} more" if len(shown) > 12 else ""
    return Lines(title, f"At the end: {'; '.join(ends)}{more}.", y_label, lines, percent)


def _last(values: np.ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(kept[-1]) if len(kept) else float("nan")


def _number(value: float, percent: bool) -> str:
    return f"{value:.2%}" if percent else f"{value:.4g}"


def _has(group: Group, split: str, column: str) -> bool:
    return any(len(run.values(split, column)) for run in group.runs)


def _name(split: str) -> str:
    return split.replace("_ema", ", moving average of the weights")


def _of_groups(groups: Sequence[Group], split: str, column: str) -> Iterator[Line]:
    for number, group in enumerate(groups):
        yield from _lines(group, split, column, len(groups), number)


def _lines(
    group: Group,
    split: str,
    column: str,
    num_groups: int,
    number: int,
    label: str = "",
    style: int = 0,
) -> Iterator[Line]:
    """The line of a group: of its run, or the mean of its runs with their deviation, and these."""
    curves = [run.curves[split] for run in group.runs if len(run.values(split, column))]
    if not curves:
        return
    style = style or number // 7  # more groups than colours
    limit = max(min(_MAX_POINTS, _ALL_POINTS // (num_groups * (len(curves) + 1))), 20)
    label = label or group.name
    if len(curves) == 1:
        values = curves[0].values[column]
        yield Line(label, *_thinned(curves[0].axes(), values, limit), None, number, style)
        return
    for run, curve in zip(group.runs, curves, strict=False):
        name = f"{label}, seed {run.seed}"
        axes, values = _thinned(curve.axes(), curve.values[column], limit)
        yield Line(name, axes, values, None, number, style, member=True)
    axes, all_values = _aligned(curves, column)
    if len(axes["step"]):
        mean = all_values.mean(axis=0)
        deviation = all_values.std(axis=0, ddof=1)
        thin_axes, mean = _thinned(axes, mean, limit)
        _, deviation = _thinned(axes, deviation, limit)
        yield Line(f"{label}, mean of {len(curves)}", thin_axes, mean, deviation, number, style)


def _aligned(curves: Sequence[Curve], column: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Axes and values [runs, rows] at the steps that all curves have; time is the mean."""
    common = curves[0].step
    for curve in curves[1:]:
        common = np.intersect1d(common, curve.step)
    rows = [np.searchsorted(curve.step, common) for curve in curves]
    axes = {
        name: np.mean([c.axes()[name][r] for c, r in zip(curves, rows, strict=True)], axis=0)
        for name in curves[0].axes()
    }
    values = [c.values[column][r] for c, r in zip(curves, rows, strict=True)]
    return axes, np.array(values)


def _thinned(
    axes: dict[str, np.ndarray], values: np.ndarray, limit: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """At most `limit` points: the last point of each of as many parts, with the part's mean."""
    kept = ~np.isnan(values)
    axes, values = {name: x[kept] for name, x in axes.items()}, values[kept]
    if len(values) <= limit:
        return axes, values
    ends = np.linspace(0, len(values), limit + 1).round().astype(int)
    means = np.add.reduceat(values, ends[:-1]) / np.diff(ends)
    return {name: x[ends[1:] - 1] for name, x in axes.items()}, means
