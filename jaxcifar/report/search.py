"""Charts of a search: the best score so far, and how much each field matters."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcifar.errors import InputError
from jaxcifar.regular_files import check_regular
from jaxcifar.report.charts import Chart, Intervals, Line, Lines, Section
from jaxcifar.report.table import value_text

REPORT_FILE = "study.json"  # written by `jaxcifar search`


class Search(NamedTuple):
    """A search, as its file describes it.

    Attributes:
      name: its directory.
      metric: what trials are judged by; scores of a loss are negative.
      trials: for each that has ended its `number`, `state`, `score` and `fields`.
      importance: share of the variance of the score that each field explains.
    """

    name: str
    metric: str
    trials: list[dict[str, Any]]
    importance: dict[str, float]


def find(roots: Iterable[Path]) -> list[Search]:
    """Returns the searches in directories; files that cannot be read are left out."""
    found = []
    for root in roots:
        for path in sorted(root.rglob(REPORT_FILE)):
            with contextlib.suppress(InputError, OSError, ValueError, KeyError, TypeError):
                check_regular(path)
                content = json.loads(path.read_text())
                trials = [t for t in content["trials"] if isinstance(t["score"], int | float)]
                found.append(
                    Search(str(path.parent), content["metric"], trials, content["importance"])
                )
    return found


def section(search: Search) -> Section:
    """Returns the part of the report that shows a search."""
    complete = [trial for trial in search.trials if trial["state"] == "complete"]
    pruned = len(search.trials) - len(complete)
    text = [f"{len(complete)} trials have finished, {pruned} were stopped early."]
    charts: list[Chart] = []
    if complete:
        best = max(complete, key=lambda trial: trial["score"])
        fields = ", ".join(f"{name}={_short(value)}" for name, value in best["fields"].items())
        text.append(f"The best, trial {best['number']}, has {_shown(search, best)}: {fields}.")
        charts.append(_history(search, complete))
    if search.importance:
        names = sorted(search.importance, key=lambda name: -search.importance[name])
        shares = [search.importance[name] for name in names]
        charts.append(
            Intervals(
                "Importance of fields",
                "Share of the variance of the score that each field explains, by itself and with "
                f"others: {names[0]} has {shares[0]:.0%}.",
                "share of the variance, %",
                names,
                shares,
                shares,
                shares,
                percent=True,
            )
        )
    return Section(f"Search in {search.name}", text, charts)


def _history(search: Search, complete: list[dict[str, Any]]) -> Lines:
    ordered = sorted(complete, key=lambda trial: trial["number"])
    sign = -1 if search.metric == "loss" else 1
    scores = sign * np.array([float(trial["score"]) for trial in ordered])
    best = np.maximum.accumulate(sign * scores) * sign
    x = {"trial": np.array([float(trial["number"]) for trial in ordered])}
    lines = [Line("each trial", x, scores, style=1), Line("best so far", x, best)]
    return Lines(
        "History",
        f"Validation {search.metric} of the trials that finished, in their order.",
        f"validation {search.metric}",
        lines,
        percent=search.metric == "accuracy",
        x_axis="trial",
    )


def _shown(search: Search, trial: dict[str, Any]) -> str:
    if search.metric == "loss":
        return f"a validation loss of {-trial['score']:.4f}"
    return f"a validation accuracy of {trial['score']:.2%}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)
