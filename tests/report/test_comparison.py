"""Groups of runs and their statistics, against values computed by hand and by SciPy."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jaxcifar.report.comparison import (
    accuracy_interval,
    difference,
    groups,
    interval,
    seeds_needed,
)
from jaxcifar.report.runs import Curve, Run


def make_run(name, seed, accuracy, **fields):
    config = {"train.seed": seed, **fields}
    values = {"accuracy": np.array([0.1, accuracy])}
    curve = Curve(np.array([1.0, 2.0]), np.array([0.1, 0.2]), np.full(2, math.nan), values)
    return Run(Path("runs", name), name, config, {"end": {}}, {"test": curve}, [], {}, None, ())


def two_groups(ours, theirs):
    """Groups of runs with these test accuracies by seed."""
    return groups(
        [make_run(f"a/seed_{s}", s, value, lr=1) for s, value in ours.items()]
        + [make_run(f"b/seed_{s}", s, value, lr=2) for s, value in theirs.items()]
    )


def test_an_interval_is_that_of_students_t():
    mean, low, high = interval([0.90, 0.92, 0.94])
    half = 4.302653 * 0.02 / math.sqrt(3)  # t of a table, for two degrees of freedom
    assert (mean, low, high) == pytest.approx((0.92, 0.92 - half, 0.92 + half))
    assert interval([0.5]) == (0.5, 0.5, 0.5)
    assert accuracy_interval([0.90, 0.99]).high == 1


def test_runs_of_the_same_seeds_are_compared_in_pairs():
    one, other = two_groups({0: 0.93, 1: 0.95, 7: 0.5}, {1: 0.94, 0: 0.90, 3: 0.2})
    (mean, low, high), how, _ = difference(one, other, "test accuracy")
    half = 12.7062 * (0.02 / math.sqrt(2)) / math.sqrt(2)  # of the differences 0.03 and 0.01
    assert how == "paired, 2 seeds"
    assert (mean, low, high) == pytest.approx((0.02, 0.02 - half, 0.02 + half), rel=1e-4)


def test_other_runs_are_compared_as_by_welch():
    ours, theirs = [0.93, 0.95, 0.91], [0.90, 0.94]
    one, other = two_groups(dict(enumerate(ours)), dict(enumerate(theirs, start=10)))
    (mean, low, high), how, needed = difference(one, other, "test accuracy")
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert how == "unpaired" and needed > 2 and mean == pytest.approx(0.01)
    assert (low, high) == pytest.approx(tuple(expected))


def test_one_seed_has_no_interval():
    one, other = two_groups({0: 0.9}, {0: 0.8})
    (mean, low, high), how, needed = difference(one, other, "test accuracy")
    assert mean == low == high == pytest.approx(0.1) and how == "one seed: no interval"
    assert needed is None


def test_groups_are_named_after_what_their_runs_share():
    one, other = two_groups({0: 0.9, 1: 0.8}, {0: 0.8})
    assert (one.name, other.name) == ("a", "b/seed_0")
    (group,) = groups([make_run(str(seed), seed, 0.5) for seed in (0, 1)])
    assert group.name == "runs"


@pytest.mark.parametrize(
    "effect, paired, count",
    [(0.5, True, 34), (0.5, False, 64), (0.8, False, 26), (0.2, False, 394), (1.0, True, 10)],
)
def test_the_seeds_needed_are_those_of_the_textbooks(effect, paired, count):
    """Cohen 1988, table 2.4.1, and G*Power: 5 %, two-sided, a power of 80 %."""
    assert seeds_needed(effect, 1.0, paired=paired) == count
    assert seeds_needed(-0.01 * effect, 0.01, paired=paired) == count


def test_without_a_deviation_two_seeds_are_enough_and_without_a_gap_none_are():
    assert seeds_needed(0.1, 0.0, paired=True) == 2
    assert seeds_needed(0.0, 0.0, paired=True) is None
    assert seeds_needed(1e-6, 1.0, paired=True) is None
