"""Draws each chart of a report as a PNG for print, with matplotlib."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxcifar.errors import InputError
from jaxcifar.report.charts import (
    Chart,
    Heatmap,
    Intervals,
    Line,
    Lines,
    Parallel,
    Pictures,
    Reliability,
    Report,
)
from jaxcifar.report.page import slug

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6b6b6b")
_DASHES = ("-", "--", ":", "-.")
_STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "legend.frameon": False,
    "font.size": 9,
}
_DPI = 300
_MAX_LEGEND = 12


def write(report: Report, directory: Path) -> list[Path]:
    """Writes a PNG of each chart, named after its section and title.

    Returns:
      The files.

    Raises:
      InputError: if matplotlib is not installed.
    """
    paths = []
    for section, chart in report.charts():
        path = directory / f"{slug(section)}_{slug(chart.title)}.png"
        write_chart(chart, path)
        paths.append(path)
    return paths


def write_chart(chart: Chart, path: Path) -> None:
    """Writes a chart to a file whose ending names the format.

    Raises:
      InputError: if matplotlib is not installed.
    """
    check_installed()
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(_STYLE):
        figure = draw(chart)
        figure.savefig(path, dpi=_DPI, facecolor="white")
        plt.close(figure)


def check_installed() -> None:
    """Raises InputError if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            "matplotlib is not installed; install it with pip install 'jaxcifar[figures]'"
        ) from error


def draw(chart: Chart) -> Any:
    """Returns the matplotlib figure of a chart."""
    return _DRAW[type(chart)](chart)


def _lines(chart: Lines) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 3.2))
    scale = 100 if chart.percent else 1
    several = len({line.group for line in chart.lines}) > 1
    shown = [line for line in chart.lines if not line.member]
    for line in shown:
        _line(axes, line, scale, _COLORS[(line.group if several else line.style) % len(_COLORS)])
    label = chart.y_label + (", %" if chart.percent else "")
    axes.set(xlabel=chart.x_axis or "epoch", ylabel=label)
    if 1 < len(shown) <= _MAX_LEGEND:
        axes.legend()
    return figure


def _line(axes: Any, line: Line, scale: float, color: str) -> None:
    x = line.x.get("epoch", next(iter(line.x.values())))  # a fixed axis is the only one
    marker = "o" if len(x) < 30 else ""
    dash = _DASHES[line.style % len(_DASHES)]
    axes.plot(
        x, scale * line.y, dash, marker=marker, markersize=3, color=color, label=line.label,
        linewidth=1.4,
    )  # fmt: skip
    if line.spread is not None:
        ends = scale * (line.y - line.spread), scale * (line.y + line.spread)
        axes.fill_between(x, *ends, color=color, alpha=0.2, linewidth=0)


def _intervals(chart: Intervals) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 0.8 + 0.24 * len(chart.names)))
    scale = 100 if chart.percent else 1
    values, low, high = (scale * np.array(v) for v in (chart.values, chart.low, chart.high))
    rows = np.arange(len(values))
    axes.errorbar(values, rows, xerr=(values - low, high - values), fmt="o", color=_COLORS[0])
    if chart.zero:
        axes.axvline(0, color="0.4", linestyle=":")
    axes.set_yticks(rows, chart.names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel=chart.x_label)
    return figure


def _heatmap(chart: Heatmap) -> Any:
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    rows, columns = chart.values.shape
    figure, axes = plt.subplots(figsize=(6.5, max(2.5, 1 + 0.16 * rows)))
    values = np.where(chart.values > 0, chart.values, np.nan) if chart.log else chart.values
    norm = LogNorm() if chart.log and np.isfinite(values).any() else None
    image = axes.imshow(values, cmap="cividis", norm=norm, aspect="auto", interpolation="nearest")
    figure.colorbar(image, label=chart.value_label)
    axes.grid(visible=False)
    if isinstance(chart.x[0], str):
        axes.set_xticks(range(columns), list(map(str, chart.x)), rotation=45, ha="right")
    else:
        chosen = np.linspace(0, columns - 1, min(columns, 6)).round().astype(int)
        texts = [f"{x:g}" if isinstance(x, float) else x for x in (chart.x[n] for n in chosen)]
        axes.set_xticks(chosen, texts)
    axes.set_yticks(range(rows), chart.y, fontsize=6 if rows > 25 else None)
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label)
    if chart.show_values:
        middle = np.nanmean(values) if np.isfinite(values).any() else 0
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value) and value:
                color = "black" if value > middle else "white"
                axes.text(
                    column, row, f"{value:.1f}", ha="center", va="center", color=color, fontsize=6
                )
    return figure


def _reliability(chart: Reliability) -> Any:
    import matplotlib.pyplot as plt

    figure, (upper, lower) = plt.subplots(2, figsize=(4, 4.2), sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], ":", color="0.4")
    upper.plot(chart.confidence, chart.accuracy, "o-", color=_COLORS[0], markersize=4)
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    middle = (chart.edges[1:] + chart.edges[:-1]) / 2
    lower.bar(middle, chart.counts, 0.8 / len(chart.counts), color=_COLORS[1])
    lower.set(xlabel="probability of the predicted class", ylabel="images", yscale="log")
    return figure


def _parallel(chart: Parallel) -> Any:
    import matplotlib.pyplot as plt
    from matplotlib import colormaps

    figure, axes = plt.subplots(figsize=(1.3 * len(chart.dimensions) + 1, 3.4))
    scaled = []
    for position, dimension in enumerate(chart.dimensions):
        low, high = dimension.values.min(), dimension.values.max()
        span = high - low or 1
        scaled.append((dimension.values - low) / span)
        ticks = dimension.ticks or {v: f"{v:.4g}" for v in (low, high)}
        axes.axvline(position, color="0.7", linewidth=1)
        for value, text in ticks.items():
            if low <= value <= high:
                axes.text(position + 0.03, (value - low) / span, text, fontsize=7, va="center")
    lines = np.array(scaled).T
    for line in lines:
        axes.plot(line, color=colormaps["cividis_r"](line[-1]), linewidth=1)
    axes.set_xticks(range(len(scaled)), [d.label for d in chart.dimensions], fontsize=8)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def _pictures(chart: Pictures) -> Any:
    import matplotlib.pyplot as plt

    columns = chart.columns or min(8 if len(chart.images) > 24 else 6, len(chart.images))
    rows = -(-len(chart.images) // columns)
    lines = max(map(len, chart.captions))
    widest = max((len(line) for caption in chart.captions for line in caption), default=0)
    width = max(1.15, 0.055 * widest)
    height = width * max(image.shape[0] / image.shape[1] for image in chart.images)
    size = (width * columns, (height + 0.05 + 0.13 * lines) * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, caption in zip(grid.flat, chart.images, chart.captions, strict=False):
        gray = image.shape[-1] == 1
        axes.imshow(
            image.squeeze(-1) if gray else image, cmap="gray" if gray else None, vmin=0, vmax=255
        )
        axes.set_title("\n".join(caption), fontsize=6)
    return figure


_DRAW: dict[type, Callable[[Any], Any]] = {
    Lines: _lines,
    Intervals: _intervals,
    Heatmap: _heatmap,
    Reliability: _reliability,
    Parallel: _parallel,
    Pictures: _pictures,
}
