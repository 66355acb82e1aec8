"""Searches with Optuna: spaces, pruning, resuming, and bad input."""

import contextlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcifar.config import default
from jaxcifar.errors import InputError, StoppedError
from jaxcifar.launch import search_space, study, supervised
from tests.launch.stand_in import WORK

optuna = pytest.importorskip("optuna")

RATE, DECAY, NAME = "optimizer.learning_rate", "optimizer.weight_decay", "schedule.name"
RISE = "schedule.rise_fraction"
FIELDS = {
    RATE: {"low": 0.01, "high": 1.0, "log": True},
    NAME: ["cosine", "one_cycle"],
    RISE: {"low": 0.1, "high": 0.5, "only_if": {NAME: "one_cycle"}},
    "augment.num_ops": {"low": 1, "high": 3},
}


@pytest.fixture
def open_study(tmp_path):
    with contextlib.ExitStack() as opened:

        def open_(fields=FIELDS, sampler="tpe", pruner="median", storage=None, seed=0):
            space = search_space.Space(fields, sampler, pruner, seed)
            url = storage or f"sqlite:///{tmp_path}/study.db"
            return opened.enter_context(study.open_study(space, url, "search")), space

        yield open_


@pytest.mark.parametrize("sampler", search_space.SAMPLERS)
def test_values_are_drawn_from_the_space(open_study, sampler):
    opened, space = open_study(sampler=sampler)
    drawn = []
    for _ in range(12):
        trial = study.ask(opened, space)
        drawn.append(search_space.draw(trial, space))
        opened.tell(trial, 0.5)
    assert all(0.01 <= fields[RATE] <= 1 for fields in drawn)
    assert all((RISE in fields) == (fields[NAME] == "one_cycle") for fields in drawn)
    assert {fields[NAME] for fields in drawn} == {"cosine", "one_cycle"}
    assert {type(fields["augment.num_ops"]) for fields in drawn} == {int}
    again, _ = open_study(sampler=sampler, storage="sqlite://")
    assert search_space.draw(study.ask(again, space), space) == drawn[0]  # the seed decides
    resumed, _ = open_study(sampler=sampler)
    values = [fields[RATE] for fields in drawn]
    assert search_space.draw(study.ask(resumed, space), space)[RATE] not in values


def test_choices_may_be_lists(open_study):
    fields = {"schedule.milestones_steps": [[10, 20], [15]]}
    opened, space = open_study(fields)
    assert search_space.draw(study.ask(opened, space), space)["schedule.milestones_steps"] in (
        [10, 20],
        [15],
    )


def recipe_file(tmp_path, text):
    path = tmp_path / "recipe.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "returned, message",
    [
        ("3", "must return a dictionary with a dictionary `space`"),
        ("{'space': {}}", "the space is empty"),
        ("{'space': {'a.b': [1]}}", "a.b: unknown config section 'a'"),
        ("{'space': {'train.seed': 3}}", "train.seed: must be a list of choices, or a dictionary"),
        ("{'space': {'train.seed': []}}", "train.seed: must be a list of choices"),
        (
            "{'space': {'train.seed': {'low': 3, 'high': 1}}}",
            "low and high must be numbers, low be",
        ),
        ("{'space': {'train.seed': {'low': 3}}}", "low and high must be numbers"),
        ("{'space': {'train.seed': {'lo': 3}}}", "unknown entry 'lo'. Did you mean 'low'"),
        (
            "{'space': {'train.seed': {'low': 0, 'high': 9, 'log': True}}}",
            "low = 0: must be above 0 on a logarithmic scale",
        ),
        (
            "{'space': {'train.seed': {'low': 0, 'high': 9, 'only_if': {'a': 1}}}}",
            "only_if must map other fields of the space",
        ),
        ("{'space': {'train.seed': [1]}, 'sampler': 'grid'}", "unknown sampler 'grid'"),
        ("{'space': {'train.seed': [1]}, 'pruner': 'asha'}", "unknown pruner 'asha'"),
        ("{'space': {'train.seed': [1]}, 'prune': 1}", "unknown entry 'prune'"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_bad_spaces_are_refused(tmp_path, returned, message):
    path = recipe_file(tmp_path, f"def get_study():\n    return {returned}\n")
    with pytest.raises(InputError) as error:
        search_space.read_space(path)
    assert message in str(error.value) and "get_study" in str(error.value)


def test_a_recipe_without_a_space_is_named(tmp_path):
    with pytest.raises(InputError, match=r"recipe.py has no get_study\(\)"):
        search_space.read_space(recipe_file(tmp_path, ""))


def test_another_space_or_a_database_that_is_away_is_refused(open_study):
    open_study()
    open_study()  # the same again
    with pytest.raises(InputError, match=f"has another space: {RATE}, {DECAY} differ"):
        open_study({**FIELDS, RATE: [0.1], DECAY: [0.0]})
    with pytest.raises(InputError, match="--storage=sqlite:////nowhere/at/all.db: cannot be used"):
        open_study(storage="sqlite:////nowhere/at/all.db")
    with pytest.raises(InputError, match="--storage=nothing: cannot be used"):
        open_study(storage="nothing")


@pytest.fixture
def make_search(tmp_path, open_study, monkeypatch):
    """A search whose trainings are stand-ins: the score's slope is the learning rate."""
    script = tmp_path / "train.py"
    script.write_text(WORK)
    train = supervised.train

    def stand_in(command, workdir, *arguments, **named):
        rate = next(c.split("=")[1] for c in command if RATE in c)
        words = [sys.executable, str(script), str(workdir), rate, "4"]
        return train(words, workdir, *arguments, **named)

    monkeypatch.setattr(supervised, "train", stand_in)

    config = default()
    config.train.num_epochs = 4.0
    config.dataset.validation_size = 100

    def make(interrupted=lambda: 0, **options):
        fields = {RATE: {"low": 0.1, "high": 1.0}}
        opened, space = open_study(fields, **options)
        search = study.Search(
            opened, space, "recipe.py", config, tmp_path / "runs", {}, interrupted
        )
        return opened, search

    return make


def test_trials_are_judged_by_their_last_evaluation(make_search, tmp_path, capsys):
    opened, search = make_search(sampler="random", pruner="none")
    search.run(4)
    trials = opened.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    assert [trial.value for trial in trials] == pytest.approx([t.params[RATE] for t in trials])
    assert len(trials[0].intermediate_values) == 4
    number, score, fields = search.best()
    assert score == max(trial.value for trial in trials) and fields == trials[number].params
    found = json.loads((tmp_path / "runs" / "study.json").read_text())
    assert [t["score"] for t in found["trials"]] == [t.value for t in trials]
    assert found["importance"] == {RATE: pytest.approx(1.0)}
    search.run(4)  # nothing is left
    assert len(opened.get_trials()) == 4


def test_a_trial_below_the_median_is_stopped_and_says_so(make_search, tmp_path):
    opened, search = make_search(sampler="random", pruner="median")
    for rate in (0.9, 0.8, 0.9, 0.8, 0.9, 0.1):
        opened.enqueue_trial({RATE: rate})
    search.run(6)
    trials = opened.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5 + ["PRUNED"]
    manifest = json.loads((tmp_path / "runs" / "trial_0005" / "manifest.json").read_text())
    assert manifest["pruned"]["reason"] == "median pruner of the search"
    assert manifest["pruned"]["step"] == 10 and "end" not in manifest


def test_an_interrupted_trial_resumes_in_its_workdir(make_search, tmp_path):
    seen = []

    def interrupted():
        rows = tmp_path / "runs" / "trial_0000" / "metrics.csv"
        if not seen and rows.exists() and len(rows.read_text().splitlines()) > 2:
            seen.append(15)
        return seen[0] if seen else 0

    opened, search = make_search(interrupted, sampler="random", pruner="none")
    with pytest.raises(StoppedError, match="rerun the same command"):
        search.run(2)
    opened, search = make_search(sampler="random", pruner="none")
    search.run(2)
    states = [trial.state.name for trial in opened.get_trials()]
    assert states == ["FAIL", "COMPLETE", "COMPLETE"]
    first, second, _ = opened.get_trials()
    assert second.params == first.params
    assert second.user_attrs["workdir"] == first.user_attrs["workdir"]
    starts = Path(first.user_attrs["workdir"], "starts").read_text().splitlines()
    assert starts[0] == "0" and len(starts) == 2 and int(starts[1]) >= 2


def test_the_trial_of_a_killed_process_is_taken_over(make_search, tmp_path):
    opened, search = make_search(sampler="random", pruner="none")
    trial = opened.ask()
    trial.suggest_float(RATE, 0.1, 1.0)
    process = subprocess.Popen(["true"])
    process.wait()
    for name, value in (
        ("workdir", str(tmp_path / "runs" / "old")),
        ("host", platform.node()),
        ("pid", process.pid),
    ):
        trial.set_user_attr(name, value)
    search.run(1)
    states = [trial.state.name for trial in opened.get_trials()]
    assert states == ["FAIL", "COMPLETE"]
    assert (tmp_path / "runs" / "old" / "manifest.json").exists()


def test_the_trial_of_a_living_process_is_left_to_it(make_search):
    opened, search = make_search(sampler="random", pruner="none")
    trial = opened.ask()
    for name, value in (("workdir", "x"), ("host", platform.node()), ("pid", os.getpid())):
        trial.set_user_attr(name, value)
    search.run(2)
    assert [trial.state.name for trial in opened.get_trials()] == ["RUNNING", "COMPLETE"]


def test_a_recipe_that_always_fails_ends_the_search(make_search, monkeypatch):
    opened, search = make_search(sampler="random", pruner="none")
    monkeypatch.setattr(supervised, "train", lambda *_, **__: 1)
    with pytest.raises(InputError, match="3 trials in a row have failed"):
        search.run(10)
    assert [trial.state.name for trial in opened.get_trials()] == ["FAIL"] * 3
