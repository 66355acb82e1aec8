"""Successive halving, with a stand-in for training whose scores are known."""

import json
import sys
from types import SimpleNamespace

import pytest

from jaxcifar.errors import InputError, StoppedError
from jaxcifar.launch import halving
from jaxcifar.launch.trials import Trial
from tests.launch.stand_in import WORK


def test_rungs_are_those_of_the_paper():
    assert halving.rungs(9, 3) == [(pytest.approx(1 / 9), 9), (pytest.approx(1 / 3), 3), (1, 1)]
    assert halving.rungs(5, 2) == [(0.25, 5), (0.5, 2), (1, 1)]
    assert halving.rungs(1, 3) == [(1, 1)]
    with pytest.raises(InputError, match="--halving=1: must be at least 2"):
        halving.rungs(4, 1)


@pytest.fixture
def make(tmp_path):
    """Makes trials by name, each with the factor of its score."""
    script = tmp_path / "train.py"
    script.write_text(WORK)

    def trials(**slopes):
        config = SimpleNamespace(eval=SimpleNamespace(best_metric="accuracy"))
        return [
            Trial(
                tmp_path / "runs" / name,
                config,
                [sys.executable, str(script), str(tmp_path / "runs" / name), str(slope), "8"],
            )
            for name, slope in slopes.items()
        ]

    return trials


def epochs_of(run):
    rows = (run.workdir / "metrics.csv").read_text().splitlines()[1:]
    return [float(row.split(",")[1]) for row in rows]


def manifest_of(run):
    return json.loads((run.workdir / "manifest.json").read_text())


def train(runs, factor=2):
    return halving.train_all(runs, factor, lambda _: 8.0, lambda: 0)


def test_the_better_half_resumes_until_one_is_left(make):
    runs = make(a=0.2, b=0.9, c=0.5, d=0.1)
    assert train(runs) == []
    a, b, c, d = runs
    assert epochs_of(b) == [1, 2, 3, 4, 5, 6, 7, 8] and "end" in manifest_of(b)
    # The others were stopped at a quarter or half of the length, or an evaluation later.
    assert max(epochs_of(a)) < 4 and max(epochs_of(d)) < 4 and 4 <= max(epochs_of(c)) < 7
    assert manifest_of(a)["pruned"]["reason"] == "stage 1 of successive halving"
    assert manifest_of(c)["pruned"]["reason"] == "stage 2 of successive halving"
    assert manifest_of(c)["pruned"]["score"] == pytest.approx(0.5 * 4 / 8)
    # What was trained is not trained again.
    starts = list(map(int, (b.workdir / "starts").read_text().split()))
    assert len(starts) == 3 and starts[0] == 0 and 2 <= starts[1] < 4 <= starts[2] < 8


def test_a_repeated_command_repeats_nothing(make):
    runs = make(a=0.2, b=0.9)
    train(runs)
    before = [(run.workdir / "starts").read_text() for run in runs]
    assert train(runs) == []
    assert [(run.workdir / "starts").read_text() for run in runs] == before


def test_a_run_that_fails_is_named_and_the_others_continue(make):
    runs = make(a=0.2, bad=-1, c=0.5)
    assert train(runs) == [f"{runs[1].workdir} (exit code 7)"]
    assert "end" in manifest_of(runs[2])


def test_a_signal_ends_it(make):
    runs = make(a=0.2, b=0.9)
    with pytest.raises(StoppedError, match="rerun the same command"):
        halving.train_all(runs, 2, lambda _: 8.0, lambda: 15)
