"""Finds what is wrong with the rows of a run's table: missing, doubled or cut short.

Which rows a table had is known from the checkpoint, which carries their steps.
"""

import csv
from collections.abc import Iterable, Mapping

Row = dict[str, str]

# Ascending steps, as ranges [first, last, interval]; the interval is 0 if there is one step.
Steps = list[list[int]]

_MAX_SHOWN = 5


def add_step(steps: dict[str, Steps], name: str, step: int) -> None:
    """Adds the step of a row, unless it is there already.

    Args:
      steps: steps of the rows by what they are of; changed in place.
      name: what the row is of, such as its split.
      step: not below the steps that were added before.
    """
    ranges = steps.setdefault(name, [])
    if not ranges:
        ranges.append([step, step, 0])
        return
    first, last, interval = ranges[-1]
    if step == last:
        return
    if interval in (0, step - last):
        ranges[-1] = [first, step, step - last]
    else:
        ranges.append([step, step, 0])


def steps_by_name(rows: Iterable[Row], column: str) -> dict[str, Steps]:
    """Returns the steps of rows, in any order, by the name in a column."""
    found: dict[str, Steps] = {}
    for step, name in sorted((int(row["step"]), str(row[column])) for row in rows):
        add_step(found, name, step)
    return found


def describe_missing(expected: Mapping[str, Steps], found: Mapping[str, Steps]) -> str:
    """Returns which of the expected steps are missing, as "train at steps 5, 10"; "" if none."""
    names: dict[str, list[str]] = {}  # by their steps, which are often the same
    for name, ranges in expected.items():
        missing: dict[str, Steps] = {}
        for step in sorted(set(_expand(ranges)) - set(_expand(found.get(name, [])))):
            add_step(missing, name, step)
        if missing:
            names.setdefault(_describe(missing[name]), []).append(name)
    return "; ".join(f"{_shorten(group)} at {steps}" for steps, group in names.items())


def without_copies(rows: list[Row], column: str) -> tuple[list[Row], list[str]]:
    """Returns rows without copies of others, and what to say of them and of rows that disagree.

    Two rows of the same step and name that differ are both kept: either may be the right one.
    """
    kept: list[Row] = []
    copies: list[Row] = []
    differing: list[Row] = []
    by_place: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        same = by_place.setdefault((row["step"], row[column]), [])
        if row in same:
            copies.append(row)
            continue
        if same:
            differing.append(row)
        same.append(row)
        kept.append(row)
    warnings = [
        f"{what}: {_describe_all(steps_by_name(which, column))}"
        for what, which in (
            ("rows are there twice, and the copies are dropped", copies),
            ("rows are there twice but differ, and both are kept", differing),
        )
        if which
    ]
    return kept, warnings


def read_cut_line(text: str, first_step: int) -> tuple[list[Row], list[str]]:
    """Reads the last line of a table if its end is missing.

    A kill leaves such a line after the last checkpoint, where it is written again; up to that step
    it is damage.

    Args:
      text: contents of the table.
      first_step: step of the checkpoint.

    Returns:
      The row, if it has all columns and its step is not above `first_step`, else none; and what to
      say of it, if anything.
    """
    lines = text.splitlines(keepends=True)
    if len(lines) < 2 or lines[-1].endswith("\n"):
        return [], []
    columns, values = next(csv.reader(lines[:1])), next(csv.reader(lines[-1:]))
    # Of a single value the end is missing.
    if len(values) < 2 or not values[0].isdecimal() or int(values[0]) > first_step:
        return [], []
    if len(values) == len(columns) and values[-1]:
        return [dict(zip(columns, values, strict=True))], [
            f"the last line, of step {values[0]}, has no end: its {columns[-1]} may be cut short"
        ]
    return [], [f"the last line, of step {values[0]}, is cut short and dropped: {lines[-1][:100]}"]


def _describe_all(steps: Mapping[str, Steps]) -> str:
    return "; ".join(f"{name} at {_describe(ranges)}" for name, ranges in steps.items())


def _describe(steps: Steps) -> str:
    parts: list[str] = []
    for first, last, interval in steps[:_MAX_SHOWN]:
        if first + interval >= last:  # one step or two
            parts += dict.fromkeys([f"{first:,}", f"{last:,}"])
        else:
            parts.append(f"{first:,} to {last:,} (every {interval:,})")
    if len(steps) > _MAX_SHOWN:
        parts.append("...")
    return f"step{'s' if steps[0][0] < steps[-1][1] else ''} {', '.join(parts)}"


def _expand(steps: Steps) -> Iterable[int]:
    for first, last, interval in steps:
        yield from range(first, last + 1, interval or 1)


def _shorten(names: list[str]) -> str:
    more = len(names) - _MAX_SHOWN
    return ", ".join(names[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")
