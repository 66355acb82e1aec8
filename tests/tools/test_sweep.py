"""Sweeps, run as command lines: a process can define the flags of one command only."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import REPOSITORY

RECIPE = """
from scipy.stats import loguniform
from sklearn.model_selection import ParameterGrid, ParameterSampler
from jaxcifar.config import default

def get_config():
    config = default()
    config.dataset.name = "digits"
    config.augment.horizontal_flip = False
    config.model.name = "resnet8"
    config.train.num_steps = {steps}
    config.train.batch_size = 32
    config.log.tensorboard = False
    config.log.every_steps = 1
    return config
"""
NUM_VARIANTS = {
    "ablations": 10,
    "ablations_resnet20": 8,
    "grid_search": 9,
    "random_search": 20,
    "speedrun_ingredients": 5,
    "ternary_resnet20": 3,
}
SWEEPS = [
    path
    for path in sorted((REPOSITORY / "configs").glob("*.py"))
    if "def get_sweep" in path.read_text()
]


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe, with a `get_sweep` that returns `expression` if given; returns its path."""

    def write(expression=None, steps=2):
        sweep = f"\ndef get_sweep():\n    return {expression}\n" if expression else ""
        path = tmp_path / "recipe.py"
        path.write_text(RECIPE.format(steps=steps) + sweep)
        return path

    return write


@pytest.fixture
def commands(run_command, tmp_path):
    """Runs a sweep with --dry_run; returns the name and the settings of each of its runs."""

    def dry_run(path, *arguments):
        out = f"--workdir={tmp_path}/out"
        code, text, err, _ = run_command(
            "jaxcifar.tools.sweep", f"--config={path}", out, "--dry_run", *arguments
        )
        assert code == 0, err
        assert not (tmp_path / "out").exists()
        found = []
        for line in text.splitlines():
            python, dash_m, module, config, workdir, *settings = shlex.split(line)
            assert [python, dash_m, module] == ["python", "-m", "jaxcifar.main"]
            assert config == f"--config={path}"
            name = workdir.removeprefix(f"{out}").removeprefix("/")
            found.append((name, [s.removeprefix("--config.") for s in settings]))
        return found

    return dry_run


def test_named_variants_run_in_order_with_the_given_fields(recipe, commands):
    path = recipe('{"plain": {}, "fast": {"optimizer.learning_rate": 0.5}}')
    given = ["--config.train.label_smoothing=0.1"]
    assert commands(path, *given) == [
        ("plain", ["train.label_smoothing=0.1"]),
        ("fast", ["train.label_smoothing=0.1", "optimizer.learning_rate=0.5"]),
    ]
    assert commands(path, "--only=fast", "--seeds=3,1") == [
        ("fast/seed_3", ["optimizer.learning_rate=0.5", "train.seed=3"]),
        ("fast/seed_1", ["optimizer.learning_rate=0.5", "train.seed=1"]),
    ]


def test_variants_are_listed_with_their_fields(recipe, run_command):
    path = recipe('{"plain": {}, "fast": {"optimizer.learning_rate": 0.5}}')
    code, out, err, _ = run_command("jaxcifar.tools.sweep", f"--config={path}", "--list")
    assert code == 0, err
    assert out == "plain  the recipe itself\nfast   optimizer.learning_rate=0.5\n"
    _, out, _, _ = run_command("jaxcifar.tools.sweep", f"--config={recipe()}", "--list")
    assert out == "the recipe itself\n"


def test_a_grid_has_each_combination_once_under_its_own_name(recipe, commands):
    grid = '{"optimizer.learning_rate": [0.01, 0.1], "optimizer.weight_decay": [0.0, 5e-4]}'
    assert commands(recipe(f"ParameterGrid({grid})")) == [
        (
            f"learning_rate={rate}+weight_decay={short}",
            [f"optimizer.learning_rate={rate}", f"optimizer.weight_decay={decay}"],
        )
        for rate in ("0.01", "0.1")
        for short, decay in (("0", "0.0"), ("0.0005", "0.0005"))
    ]


def test_a_random_search_stays_in_bounds_and_is_repeatable(recipe, commands):
    fields = '{"optimizer.learning_rate": loguniform(1e-4, 1e-1), "optimizer.momentum": [0.5, 0.9]}'
    path = recipe(f"ParameterSampler({fields}, n_iter=12, random_state=3)")
    found = commands(path)
    assert found == commands(path) and len(dict(found)) == 12
    rates = [float(settings[0].split("=")[1]) for _, settings in found]
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert min(rates) < 1e-3 and max(rates) > 1e-2
    assert {settings[1] for _, settings in found} == {
        "optimizer.momentum=0.5",
        "optimizer.momentum=0.9",
    }


def test_a_recipe_without_variants_runs_once_per_seed(recipe, commands):
    assert commands(recipe(), "--seeds=0,1") == [
        ("seed_0", ["train.seed=0"]),
        ("seed_1", ["train.seed=1"]),
    ]


def test_seeds_may_be_a_range_and_shards_share_the_runs(recipe, commands, run_command, tmp_path):
    path = recipe()
    every = commands(path, "--seeds=0..3,9")
    assert [name for name, _ in every] == [f"seed_{seed}" for seed in (0, 1, 2, 3, 9)]
    assert commands(path, "--seeds=0..3,9", "--shard=1/2") == every[1::2]
    for flags, message in (
        (["--seeds=3..1"], "--seeds: '3..1': the last seed is before the first"),
        (["--shard=2/2"], "--shard=2/2: the index 2 must be from 0 to 1"),
        (["--slurm=partition=gpu"], "--slurm: only with --launcher=slurm"),
        (["--launcher=slurm", "--slurm=gpu"], "--slurm: 'gpu' is not a name with a value"),
        (["--launcher=slurm", "--jobs=2"], "--jobs: not with --launcher=slurm"),
    ):
        code, out, err, _ = run_command(
            "jaxcifar", "sweep", f"--config={path}", f"--workdir={tmp_path}/out", *flags
        )
        assert code == 1 and not out and err.startswith(f"error: {message}")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("form", ["", ":smoke"])
def test_the_sweeps_in_configs_are_valid_and_name_their_command(path, form, commands):
    assert len(commands(f"{path}{form}")) == NUM_VARIANTS[path.stem]
    line = rf"(jaxcifar sweep|python -m jaxcifar.tools.sweep) --config configs/{path.name}"
    assert re.search(line, path.read_text())


@pytest.mark.parametrize(
    "expression, arguments, message",
    [
        ("{}", [], "get_sweep returned no variants"),
        ("3", [], "get_sweep returned int, not a collection of variants"),
        ("[3]", [], "get_sweep: 3 is not a dictionary of fields"),
        ('{"a": 3}', [], "get_sweep: 'a': 3 is not a name with a dictionary of fields"),
        ('{"../a": {}}', [], "get_sweep: variant name '../a' is not a valid directory name"),
        ('{"a,b": {}}', [], "get_sweep: variant name 'a,b' is not a valid directory name"),
        ('{"a": {"train.seed": 1}}', ["--seeds=0"], "'a' already sets train.seed"),
        ('[{"train.seed": 1}, {"train.seed": 1}]', [], "two variants are named 'seed=1'"),
        ('{"a": {"train.sed": 1}}', [], "variant 'a': unknown config field 'train.sed'. Did you"),
        ('{"a": {"train.seed": "x"}}', [], "variant 'a': "),
        ('{"a": {}, "b": {"train.batch_size": 0}}', [], "variant 'b': train.batch_size = 0"),
        ('{"a": {}}', ["--only=b"], "unknown variant of"),
        ('{"a": {}}', ["--seeds=0,x"], "--seeds: 'x' is not a non-negative integer"),
        (
            '{"a": {"train.seed": 1}}',
            ["--config.train.seed=2"],
            "--config.train.seed: the variants",
        ),
        ('{"a": {}}', ["--config.train.seed=2", "--seeds=1"], "--config.train.seed: the variants"),
        ("1 / 0", [], "get_sweep: ZeroDivisionError: division by zero"),
        ("({}[n] for n in (1,))", [], "get_sweep: KeyError: 1"),
    ],
)
def test_invalid_sweeps_are_refused_before_anything_runs(
    run_command, recipe, tmp_path, expression, arguments, message
):
    code, out, err, _ = run_command(
        "jaxcifar.tools.sweep",
        f"--config={recipe(expression)}",
        f"--workdir={tmp_path}/out",
        *arguments,
    )
    assert code == 1 and not out
    assert err.startswith("error: ") and message in err and len(err.splitlines()) < 5
    assert not (tmp_path / "out").exists()


def test_a_failed_run_stops_no_other_and_finished_ones_are_not_repeated(
    run_command, recipe, tmp_path
):
    no_data = f'{{"dataset.name": "cifar10", "dataset.data_dir": "{tmp_path}"}}'
    path = recipe(f'{{"bad": {no_data}, "good": {{}}}}')
    line = ["jaxcifar.tools.sweep", f"--config={path}", f"--workdir={tmp_path}/out"]
    code, out, err, _ = run_command(*line)
    assert code == 1
    assert f"error: 1 of 2 runs failed: {tmp_path}/out/bad (exit code 1)" in err
    assert "| good |" in out and "| bad" not in out
    end = json.loads((tmp_path / "out" / "good" / "manifest.json").read_text())["end"]
    assert end["step"] == 2

    code, out, _, _ = run_command(*line, "--only=good")
    assert code == 0
    assert "already finished" in out and "step 1/2" not in out
    code, _, err, _ = run_command(*line, "--config.optimizer.momentum=0.5", "--only=good")
    assert code == 1 and "optimizer.momentum: saved 0.9, requested 0.5" in err


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_stops_the_current_run_and_starts_no_other(recipe, tmp_path, number):
    path = recipe('{"one": {}, "other": {"optimizer.momentum": 0.5}}', steps=100_000)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jaxcifar.tools.sweep",
            f"--config={path}",
            f"--workdir={tmp_path}/out",
        ],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = tmp_path / "out" / "one" / "metrics.csv"
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"the sweep was stopped by {number.name}; rerun the same command" in err
    assert f"{number.name} at step" in err and "traceback" not in err.lower()
    assert not (tmp_path / "out" / "other").exists()
    saved = [path.name for path in (tmp_path / "out" / "one" / "checkpoints").iterdir()]
    assert any(name.isdecimal() and int(name) > 1 for name in saved)
