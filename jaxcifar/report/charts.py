"""What a chart shows, apart from how it is drawn.

`page` draws charts in a browser, and `png` for print. Each has a title, and `about`, which says in
words what it shows.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
      label: name of the line.
      x: values of the x axis by its name, such as "epoch".
      y: values of the y axis; NaN leaves a gap.
      spread: half the height of a band around the line, such as a standard deviation.
      group: number that decides its colour; lines of one number are shown and hidden together.
      style: number that decides whether it is solid, dashed or dotted.
      member: whether it is one of the runs that another line is the mean of.
    """

    label: str
    x: Mapping[str, np.ndarray]
    y: np.ndarray
    spread: np.ndarray | None = None
    group: int = 0
    style: int = 0
    member: bool = False


@dataclasses.dataclass(frozen=True)
class Lines:
    """Curves over a common x axis: one that the reader chooses, or a fixed one.

    Attributes:
      title, about: see above.
      y_label: label of the y axis.
      lines: the curves.
      percent: whether the values are fractions, shown in percent.
      x_axis: name of the fixed x axis; "" if the reader chooses.
    """

    title: str
    about: str
    y_label: str
    lines: Sequence[Line]
    percent: bool = False
    x_axis: str = ""


@dataclasses.dataclass(frozen=True)
class Intervals:
    """A dot with a confidence interval for each of several names.

    Attributes:
      title, about: see above.
      x_label: label of the axis of values.
      names: names from top to bottom.
      values, low, high: the dot and the ends of its interval, by name.
      percent: whether the values are fractions, shown in percent.
      zero: whether a line marks 0.
    """

    title: str
    about: str
    x_label: str
    names: Sequence[str]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    percent: bool = False
    zero: bool = False


@dataclasses.dataclass(frozen=True)
class Heatmap:
    """Values in the cells of a table, as colours.

    Attributes:
      title, about: see above.
      x_label, y_label: labels of the axes.
      x, y: what the columns and rows are of; the first row is at the top.
      values: [rows, columns]; NaN leaves a cell empty.
      value_label: what the values are.
      log: whether colours follow the logarithm.
      show_values: whether the numbers are written in the cells.
    """

    title: str
    about: str
    x_label: str
    y_label: str
    x: Sequence[str | float]
    y: Sequence[str]
    values: np.ndarray
    value_label: str
    log: bool = False
    show_values: bool = False


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Accuracy by confidence, and how many examples have each.

    Attributes:
      title, about: see above.
      confidence, accuracy: means by bin, NaN where it is empty.
      counts: number of examples by bin.
      edges: the ends of the bins, from 0 to 1.
    """

    title: str
    about: str
    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray
    edges: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dimension:
    """An axis of parallel coordinates.

    Attributes:
      label: name of the axis.
      values: one per line.
      ticks: texts by value where these are not numbers, or numbers on a logarithmic axis.
    """

    label: str
    values: np.ndarray
    ticks: Mapping[float, str] | None = None


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Parallel coordinates: a line per run over axes of its fields; the last axis gives colours."""

    title: str
    about: str
    dimensions: Sequence[Dimension]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images with captions.

    Attributes:
      title, about: see above.
      images: uint8 [H, W, C] each, C being 1 or 3.
      captions: lines of text of each image.
      columns: number of images in a row; 0 for as many as suit.
    """

    title: str
    about: str
    images: Sequence[np.ndarray] | np.ndarray
    captions: Sequence[Sequence[str]]
    columns: int = 0


Chart = Lines | Intervals | Heatmap | Reliability | Parallel | Pictures


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose rows can be sorted by each column.

    Attributes:
      title: heading; "" for none.
      header: titles of the columns.
      rows: the cells, as text.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Details:
    """Preformatted text that is folded away."""

    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
      title: heading.
      text: what the section tells, in words; key figures are here, too.
      items: its charts and tables.
      is_folded: whether it is folded away at first.
    """

    title: str
    text: Sequence[str]
    items: Sequence[Chart | Table | Details]
    is_folded: bool = False


@dataclasses.dataclass(frozen=True)
class Report:
    """A report of runs.

    Attributes:
      title: heading of the page.
      names: names of the groups of runs, whose numbers decide colours.
      notes: what is missing or cannot be read, a line each.
      sections: the parts.
    """

    title: str
    names: Sequence[str]
    notes: Sequence[str]
    sections: Sequence[Section]

    def charts(self) -> list[tuple[str, Chart]]:
        """Returns all charts with the title of their section."""
        return [
            (section.title, item)
            for section in self.sections
            for item in section.items
            if not isinstance(item, Table | Details)
        ]
