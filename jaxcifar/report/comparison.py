"""Runs that differ only in their seed, as groups, and what can be said of their differences."""

import json
import os
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from scipy.special import nctdtr, stdtrit

from jaxcifar.config import RESUME
from jaxcifar.report.runs import Run

MOST_SEEDS = 1000
_POWER = 0.8


class Group(NamedTuple):
    """Runs of one config that differ in their seed only.

    Attributes:
      name: name in tables and charts.
      fields: the fields in which it differs from most other groups, by path.
      runs: the runs.
    """

    name: str
    fields: dict[str, Any]
    runs: tuple[Run, ...]

    def figure(self, name: str) -> list[float]:
        """Returns a figure of each run that has it."""
        found = [run.figures() for run in self.runs]
        return [figures[name] for figures in found if name in figures]


class Interval(NamedTuple):
    """A mean with its 95 % confidence interval, by Student's t; equal ends if it is unknown."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """How much a figure of one group exceeds that of another.

    Attributes:
      interval: the difference.
      how: how it was computed.
      seeds_needed: see the function of this name; None if it is unknown or too many.
    """

    interval: Interval
    how: str
    seeds_needed: int | None


def differing_fields(runs: Sequence[Run]) -> list[str]:
    """Returns the fields in which runs differ, except the seed and those that affect no result."""
    fields = dict.fromkeys(field for run in runs for field in run.config)
    return [
        field
        for field in fields
        if field != "train.seed"
        and RESUME.get(field) != "free"
        and len({json.dumps(run.config.get(field)) for run in runs}) > 1
    ]


def groups(runs: Sequence[Run]) -> list[Group]:
    """Returns the runs by config, in the order in which the configs first appear.

    Unfinished runs are apart from finished ones.
    """
    fields = differing_fields(runs)
    found: dict[Any, list[Run]] = {}
    for run in runs:
        values = tuple(json.dumps(run.config.get(field)) for field in fields)
        found.setdefault((run.finished, values), []).append(run)
    return [
        Group(_name(members), _unusual(members[0], fields, runs), tuple(members))
        for members in found.values()
    ]


def _unusual(run: Run, fields: Sequence[str], runs: Sequence[Run]) -> dict[str, Any]:
    """The fields of a run whose value is not that of the majority of runs."""
    unusual = {}
    for field in fields:
        counts = Counter(json.dumps(other.config.get(field)) for other in runs)
        if counts[json.dumps(run.config.get(field))] * 2 <= len(runs):
            unusual[field] = run.config.get(field)
    return unusual


def _name(runs: Sequence[Run]) -> str:
    name = runs[0].name
    if len(runs) > 1:
        prefix = os.path.commonprefix([run.name for run in runs])  # noqa: RUF071, by character
        shared = re.sub(r"[/_-]*(seed)?[/_-]*$", "", prefix)
        if not shared and all(re.fullmatch(r"(seed)?[_-]?\d+", run.name) for run in runs):
            shared = runs[0].workdir.resolve().parent.name
        name = shared or name
    state = "pruned" if "pruned" in runs[0].manifest else "unfinished"
    return name if runs[0].finished else f"{name} ({state})"


def baseline(found: Sequence[Group]) -> Group:
    """Returns the group that others are compared with: one called baseline, or the first."""
    called = [group for group in found if re.search(r"\bbaseline\b", group.name.lower())]
    return (called or list(found))[0]


def score(found: Sequence[Group]) -> str:
    """Returns the name of the figure that groups are compared by.

    That is the accuracy on validation images if a run has it, as nothing may be chosen by the test
    images.
    """
    has = {name for group in found for run in group.runs for name in run.figures()}
    names = ("validation accuracy", "test accuracy", "train accuracy")
    return next((name for name in names if name in has), "")


def accuracy_interval(values: Sequence[float]) -> Interval:
    """Returns `interval` of fractions, cut at 0 and 1."""
    mean, low, high = interval(values)
    return Interval(mean, max(low, 0.0), min(high, 1.0))


def interval(values: Sequence[float]) -> Interval:
    """Returns the mean of values, which must not be empty, and its 95 % confidence interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return Interval(mean, mean, mean)
    half = stdtrit(len(values) - 1, 0.975) * statistics.stdev(values) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def difference(group: Group, base: Group, name: str) -> Difference | None:
    """Returns how much a figure of one group exceeds that of another.

    Runs of the same seed are compared with each other if at least two seeds are common, otherwise
    the means are (Welch 1947). None if a group does not have the figure.
    """
    ours, theirs = (_by_seed(one, name) for one in (group, base))
    pairs = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys(), key=str)]
    if len(pairs) > 1:
        needed = seeds_needed(statistics.mean(pairs), statistics.stdev(pairs), paired=True)
        return Difference(interval(pairs), f"paired, {len(pairs)} seeds", needed)
    samples = group.figure(name), base.figure(name)
    if not all(samples):
        return None
    gap = statistics.mean(samples[0]) - statistics.mean(samples[1])
    if min(map(len, samples)) < 2:
        return Difference(Interval(gap, gap, gap), "one seed: no interval", None)
    variances = [statistics.variance(sample) for sample in samples]
    errors = [v / len(sample) for v, sample in zip(variances, samples, strict=True)]
    needed = seeds_needed(gap, statistics.mean(variances) ** 0.5, paired=False)
    if not sum(errors):
        return Difference(Interval(gap, gap, gap), "no deviation", needed)
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(sample) - 1) for error, sample in zip(errors, samples, strict=True)
    )
    half = stdtrit(freedom, 0.975) * sum(errors) ** 0.5
    return Difference(Interval(gap, gap - half, gap + half), "unpaired", needed)


def seeds_needed(gap: float, deviation: float, *, paired: bool) -> int | None:
    """Returns with how many seeds each a difference would be told from 0, four times out of five.

    That is, by a two-sided t-test at 5 %, with a power of 80 % (Cohen 1988, "Statistical Power
    Analysis", chapter 2). None for a difference of 0, or more than `MOST_SEEDS`.

    Args:
      gap: the difference.
      deviation: standard deviation, of the differences of pairs or of each group's runs.
      paired: whether runs of the same seed are compared.
    """
    if not deviation:
        return 2 if gap else None
    for count in range(2, MOST_SEEDS + 1):
        freedom = count - 1 if paired else 2 * count - 2
        shift = abs(gap) / deviation * (count if paired else count / 2) ** 0.5
        bound = stdtrit(freedom, 0.975)
        if 1 - nctdtr(freedom, shift, bound) + nctdtr(freedom, shift, -bound) >= _POWER:
            return count
    return None


def _by_seed(group: Group, name: str) -> dict[Any, float]:
    found = {run.seed: run.figures() for run in group.runs}
    return {seed: figures[name] for seed, figures in found.items() if name in figures}
