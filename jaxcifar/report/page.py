"""Writes a report as one HTML file, which needs no network; Plotly draws its charts."""

import base64
import dataclasses
import html
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from jaxcifar import __version__
from jaxcifar.errors import InputError
from jaxcifar.report.charts import (
    Chart,
    Details,
    Heatmap,
    Intervals,
    Line,
    Lines,
    Parallel,
    Pictures,
    Report,
    Section,
    Table,
)

_HEIGHT, _HIGHEST = 340, 1600  # of plots, in pixels
_MANY = 30  # names beside an axis, which then is as wide as the page
_LONG_CELL = 50  # characters of a cell that is written in several lines

_CONTROLS = """\
<div class="controls">
<label>x axis <select id="x"><option>epoch<option>step<option>minutes</select></label>
<label><input type="checkbox" id="log"> logarithmic</label>
<label>smoothing <input type="range" id="smoothing" min="0" max="0.98" step="0.02" value="0">\
</label>
<label>seeds <select id="seeds"><option value="band">mean and deviation\
<option value="single">each</select></label>
$legend
</div>"""


def page(report: Report, *, refresh_seconds: int = 0) -> str:
    """Returns the HTML of a report.

    Args:
      report: what it shows.
      refresh_seconds: how often the browser reads the file again; 0 for never.

    Raises:
      InputError: if Plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise InputError(
            "plotly is not installed; install it with pip install 'jaxcifar[figures]'"
        ) from error
    data = _Data()
    sections = [
        _section(section, number, report, data) for number, section in enumerate(report.sections)
    ]
    links = [
        f'<a href="#section{number}">{html.escape(section.title)}</a>'
        for number, section in enumerate(report.sections)
    ]
    refresh = f'<meta http-equiv="refresh" content="{refresh_seconds}">' if refresh_seconds else ""
    return Template(_resource("page.html")).substitute(
        title=html.escape(report.title),
        version=__version__,
        time=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        refresh=refresh,
        style=_resource("page.css"),
        notes=_notes(report.notes),
        links="\n".join(links),
        sections="\n".join(sections),
        data=_for_script({"names": report.names, "arrays": data.arrays, "charts": data.charts}),
        library=get_plotlyjs(),
        script=_resource("page.js"),
    )


class _Data:
    """What the script draws: charts, and their arrays, each kept once."""

    def __init__(self) -> None:
        self.arrays: list[list[Any]] = []
        self.charts: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}

    def add(self, chart: Chart) -> int:
        """Adds a chart and returns its number."""
        if isinstance(chart, Lines):
            described = {**_fields(chart), "lines": [self._line(line) for line in chart.lines]}
        elif isinstance(chart, Parallel):
            dimensions = [
                {**_fields(d), "ticks": sorted(d.ticks.items()) if d.ticks else None}
                for d in chart.dimensions
            ]
            described = {**_fields(chart), "dimensions": dimensions}
        else:
            described = _fields(chart)
        self.charts.append({"kind": type(chart).__name__, **described})
        return len(self.charts) - 1

    def _line(self, line: Line) -> dict[str, Any]:
        x = {name: self._array(values) for name, values in line.x.items()}
        if np.isnan(line.x.get("minutes", np.zeros(1))).any():
            x.pop("minutes")
        spread = None if line.spread is None else self._array(line.spread)
        return {**_fields(line), "x": x, "y": self._array(line.y), "spread": spread}

    def _array(self, values: np.ndarray) -> int:
        """The number of an array."""
        rounded = [_json(float(value)) for value in values]
        key = json.dumps(rounded)
        if key not in self._numbers:
            self._numbers[key] = len(self.arrays)
            self.arrays.append(rounded)
        return self._numbers[key]


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON has them."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {name: _json(field) for name, field in fields.items() if name != "about"}


def _json(value: Any) -> Any:
    """A value with lists for arrays, four digits, and None for what is not finite."""
    if isinstance(value, np.ndarray):
        return _json(value.tolist())
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, float):
        if value.is_integer():
            return int(value)
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else None


def _for_script(value: Any) -> str:
    """JSON that does not end the script that it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _section(section: Section, number: int, report: Report, data: _Data) -> str:
    parts = [f"<p>{html.escape(line)}</p>" for line in section.text]
    if any(isinstance(item, Lines) and not item.x_axis for item in section.items):
        parts.append(Template(_CONTROLS).substitute(legend=_legend(report.names)))
    charts: list[str] = []
    for item in section.items:
        if isinstance(item, Table | Details):
            parts += [*_flush(charts), _TEXTS[type(item)](item)]
        else:
            charts.append(_figure(item, data))
    parts += _flush(charts)
    inner, title = "\n".join(parts), f"<h2>{html.escape(section.title)}</h2>"
    is_open = "" if section.is_folded else " open"
    return (
        f'<section id="section{number}"><details{is_open}><summary>{title}</summary>\n{inner}\n'
        "</details></section>"
    )


def _flush(charts: list[str]) -> list[str]:
    """The charts gathered so far as a grid, if there are any; empties the list."""
    grid = ['<div class="charts">\n{}\n</div>'.format("\n".join(charts))] if charts else []
    charts.clear()
    return grid


def _figure(chart: Chart, data: _Data) -> str:
    if isinstance(chart, Pictures):
        drawn = f'<div class="pictures">{"".join(_picture(*one) for one in _tiles(chart))}</div>'
        classes, style = ' class="wide"', ""
    else:
        names = len(chart.names) if isinstance(chart, Intervals) else 0
        wide = isinstance(chart, Parallel) or names > _MANY
        classes = ' class="wide"' if wide else ""
        rows = names or (len(chart.y) if isinstance(chart, Heatmap) else 0)
        height = min(110 + (24 if names else 16) * rows, _HIGHEST) if rows else 0
        style = f' style="height:{max(height, 0 if names else _HEIGHT)}px"' if height else ""
        label = html.escape(f"{chart.title}. {chart.about}")
        drawn = (
            f'<div class="plot" role="img" aria-label="{label}" data-chart="{data.add(chart)}"'
            f"{style}></div>"
        )
    return (
        f"<figure{classes}><h3>{html.escape(chart.title)}</h3>\n{drawn}\n"
        f"<figcaption>{html.escape(chart.about)}</figcaption></figure>"
    )


def _tiles(chart: Pictures) -> Sequence[tuple[np.ndarray, Sequence[str]]]:
    return list(zip(chart.images, chart.captions, strict=True))


def _picture(image: np.ndarray, caption: Sequence[str]) -> str:
    file = io.BytesIO()
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.thumbnail((128, 128))
    picture.save(file, "PNG", optimize=True)
    code = base64.b64encode(file.getvalue()).decode()
    lines = "<br>".join(map(html.escape, caption))
    alt = html.escape(", ".join(caption))
    return f'<div><img src="data:image/png;base64,{code}" alt="{alt}">{lines}</div>'


def _cell(text: str) -> str:
    wraps = ' class="long"' if len(text) > _LONG_CELL else ""
    return f"<td{wraps}>{html.escape(text)}</td>"


def _table(table: Table) -> str:
    title = f"<h3>{html.escape(table.title)}</h3>" if table.title else ""
    header = "".join(
        f'<th scope="col"><button type="button">{html.escape(name)}</button></th>'
        for name in table.header
    )
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return (
        f'{title}<div class="scroll"><table><thead><tr>{header}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _details(details: Details) -> str:
    return (
        f"<details><summary>{html.escape(details.title)}</summary>"
        f"<pre>{html.escape(details.text)}</pre></details>"
    )


_TEXTS: dict[type, Callable[[Any], str]] = {Table: _table, Details: _details}


def _legend(names: Sequence[str]) -> str:
    """Buttons that show and hide the lines of a group; none for a single one."""
    if len(names) < 2:
        return ""
    swatch = (
        '<svg width="24" height="8" aria-hidden="true">'
        '<line x1="0" x2="24" y1="4" y2="4" stroke-width="3"/></svg>'
    )
    buttons = "".join(
        f'<button type="button" aria-pressed="true">{swatch}{html.escape(name)}</button>'
        for name in names
    )
    return f'<div class="legend">{buttons}</div>'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    lines = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<div class="notes"><ul>{lines}</ul></div>'


def _resource(name: str) -> str:
    return resources.files("jaxcifar.report").joinpath("html", name).read_text().rstrip()


def slug(text: str) -> str:
    """Returns text as the name of a file."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
