"""Searches and successive halving, as command lines on the digits."""

import json
import re

import pytest

from jaxcifar.report import runs, search
from jaxcifar.report.build import build
from jaxcifar.report.charts import Intervals, Lines
from jaxcifar.report.page import page

pytest.importorskip("optuna")

RECIPE = """
from jaxcifar.config import default

def get_config():
    config = default()
    config.dataset.name = "digits"
    config.dataset.validation_size = 200
    config.augment.horizontal_flip = False
    config.model.name = "resnet8"
    config.optimizer.learning_rate = 0.05
    config.train.num_steps = 120
    config.train.batch_size = 32
    config.eval.every_steps = 40
    config.log.tensorboard = False
    return config

def get_study():
    return {
        "space": {"optimizer.learning_rate": {"low": 1e-4, "high": 0.2, "log": True}},
        "sampler": "random",
        "pruner": "none",
    }

def get_sweep():
    return {name: {"optimizer.learning_rate": rate}
            for name, rate in (("slow", 1e-5), ("good", 0.05), ("slower", 1e-6))}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.py"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def searched(run_command, recipe, tmp_path_factory):
    """The directory of a search of four trials, and what it printed."""
    parent = tmp_path_factory.mktemp("search") / "runs"
    code, out, err, _ = run_command(
        "jaxcifar", "search", f"--config={recipe}", f"--workdir={parent}", "--trials=4"
    )
    assert code == 0, err
    return parent, out


@pytest.mark.slow
def test_each_trial_is_a_run(searched):
    parent, out = searched
    rates = [float(rate) for rate in re.findall(r"^trial \d of 4: learning_rate=(.*)$", out, re.M)]
    assert len(set(rates)) == 4
    for number, rate in enumerate(rates):
        run = json.loads((parent / f"trial_{number:04}" / "manifest.json").read_text())
        assert run["config"]["optimizer"]["learning_rate"] == pytest.approx(rate, rel=1e-3)
        assert run["end"]["step"] == 120
    found = json.loads((parent / "study.json").read_text())
    scores = {
        number: json.loads((parent / f"trial_{number:04}" / "manifest.json").read_text())["end"][
            "metrics"
        ]["validation"]["accuracy"]
        for number in range(4)
    }
    assert {t["number"]: t["score"] for t in found["trials"]} == pytest.approx(scores, rel=1e-5)
    best = max(scores, key=scores.get)
    assert out.splitlines()[-1].startswith(f"best: trial {best}, accuracy {scores[best]:.4f}:")


@pytest.mark.slow
def test_the_report_shows_history_and_importance(searched):
    parent, _ = searched
    report = build(*runs.find([parent]), search.find([parent]))
    section = next(s for s in report.sections if s.title.startswith("Search in"))
    history, importance = section.items
    assert isinstance(history, Lines) and isinstance(importance, Intervals)
    each, best = history.lines
    assert list(each.x["trial"]) == [0, 1, 2, 3]
    assert all(best.y[n] == max(each.y[: n + 1]) for n in range(4))
    assert importance.names == ["optimizer.learning_rate"]
    assert "4 trials have finished" in section.text[0]
    assert '"x_axis":"trial"' in page(report)


@pytest.mark.slow
def test_halving_resumes_the_best_and_marks_the_others(run_command, recipe, tmp_path):
    command = ["jaxcifar", "sweep", f"--config={recipe}", f"--workdir={tmp_path}", "--halving=3"]
    code, out, err, _ = run_command(*command)
    assert code == 0, err
    assert "stage 1 of 2: 3 runs to 33.3% of their length" in out and "stage 2 of 2: 1 runs" in out
    good = json.loads((tmp_path / "good" / "manifest.json").read_text())
    assert good["end"]["step"] == 120
    for name in "slow", "slower":
        run = json.loads((tmp_path / name / "manifest.json").read_text())
        assert run["pruned"]["reason"] == "stage 1 of successive halving"
    assert "good" in out.splitlines()[-1] or "(pruned)" in out


def test_mistakes_are_explained(run_command, recipe, tmp_path):
    for arguments, message in (
        (["search"], "--config must name a recipe"),
        (["search", "--config=configs/resnet20.py"], "has no get_study()"),
        (["search", "--config=configs/ablations.py"], "has no get_study()"),
        (
            ["search", f"--config={recipe}", "--config.optimizer.learning_rate=1"],
            "--config.optimizer.learning_rate: the search sets this field itself",
        ),
        (
            ["search", f"--config={recipe}", "--storage=postgresql://nowhere.invalid/x"],
            "--storage=postgresql://nowhere.invalid/x: cannot be used",
        ),
        (["sweep", f"--config={recipe}", "--halving=1"], "--halving=1: must be at least 2"),
        (
            ["sweep", f"--config={recipe}", "--halving=2", "--jobs=2"],
            "--halving: not with --jobs or --shard",
        ),
    ):
        code, out, err, _ = run_command("jaxcifar", *arguments, f"--workdir={tmp_path}/out")
        assert code == 1 and message in err, (arguments, out, err)
        assert len(err.splitlines()) < 6
