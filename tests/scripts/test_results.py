"""The results that are shown, against what results/ holds of each run."""

import importlib
import json
import runpy
import sys

import numpy as np
import pytest

from jaxcifar.resilience.manifest import saved_config
from tests.helpers import REPOSITORY

RUNS = sorted(path.parent for path in (REPOSITORY / "results").glob("*/*/manifest.json"))


@pytest.fixture(scope="module")
def results():
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    yield importlib.import_module("results")
    sys.path.remove(str(REPOSITORY / "scripts"))


def test_what_is_shown_is_what_was_measured(results):
    for path, text in results.texts().items():
        assert path.read_text() == text, f"run `python scripts/results.py write`: {path}"


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.parent.name}-{run.name}")
def test_each_run_is_the_recipes_and_its_predictions_have_its_accuracy(results, run):
    text = (run / "manifest.json").read_text()
    manifest = json.loads(text)
    config = saved_config(manifest)
    row = results.ROWS[run.parent.name]
    recipe = runpy.run_path(str(REPOSITORY / "configs" / row.config))["get_config"]()
    recipe.train.seed = int(run.name)
    assert manifest["seed"] == config.train.seed == int(run.name)
    assert config.to_dict() == recipe.to_dict()
    labels = np.fromfile(results.labels_path(config.dataset.name), np.uint8)
    predicted = np.fromfile(run / "predictions.bin", np.uint8)
    assert labels.shape == predicted.shape == (10_000,)
    assert np.bincount(labels).max() == 10_000 // (100 if "100" in config.dataset.name else 10)
    assert (labels == predicted).mean() == manifest["end"]["metrics"]["test"]["accuracy"]
    assert '"/' not in text and "host" not in manifest["starts"][0]["hardware"]
    assert all(start["commit"] and "+" not in start["commit"] for start in manifest["starts"])


def test_the_time_of_a_run_is_the_sum_of_its_attempts(results):
    day = "2026-01-01T00:{}:00+00:00"
    starts = [day.format(minute) for minute in ("00", "30")]
    rows = [day.format(minute) for minute in ("05", "10", "32", "45")]
    assert results._minutes(starts, rows) == 10 + 15
    assert results._minutes([*starts[:1], day.format("20"), *starts[1:]], rows) == 10 + 0 + 15


def test_the_table_has_mean_and_deviation_over_seeds(results):
    def run(accuracy, one_view, minutes):
        return results.Run(accuracy, one_view, minutes, 500.0, "2 cores, X", "0.1", "abc")

    runs = [run(0.94, 0.93, 10.0), run(0.945, 0.94, 12.0), run(0.935, 0.935, 14.0)]
    lines = results.table({"speedrun94": runs, "resnet20": [run(0.92, None, 120.0)]}).splitlines()
    assert lines[2].split("|")[2:9] == [
        *(" 3 ", " 94.00 ± 0.50 % ", " 93.50 ± 0.50 % ", " 12.0 min ", " 500 ", " 2 cores, X "),
        " abc ",
    ]
    assert lines[3].split("|")[2:6] == [" 1 ", " 92.00 % ", "  ", " 2.0 h "]
    assert "| open |" in results.table({"resnet20": []})
    text = results.measured(runs)
    assert text.startswith("Measured: 94.00 ± 0.50 % test accuracy, 93.50 ± 0.50 % without the")
    assert "(3 seeds), in 12.0 min per run" in " ".join(text.split())


def test_commands_are_those_of_the_recipes(results):
    for row, fields in results.ROWS.items():
        assert (REPOSITORY / "configs" / fields.config).exists()
        assert results.command(row, 3).endswith("--config.train.seed=3")
