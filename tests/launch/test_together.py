"""Runs of a sweep that share a program: which do, and whole sweeps of them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jaxcifar.config import default
from jaxcifar.launch import together
from jaxcifar.launch.trials import Trial
from jaxcifar.resilience import manifest
from tests.helpers import REPOSITORY, assert_same_bits, read_metrics, restore

RECIPE = """
from jaxcifar.config import default

def get_config():
    config = default()
    config.dataset.name = "digits"
    config.model.name = "resnet8"
    config.train.num_steps = 40
    config.train.batch_size = 32
    config.checkpoint.every_steps = 4
    config.log.tensorboard = False
    config.log.every_steps = 4
    return config

def get_sweep():
    return {{
        "slow": {{"optimizer.learning_rate": 0.01}},
        "fast": {{"optimizer.learning_rate": 0.05}},
        {more}
    }}
"""


def trial(name, **fields):
    config = default()
    config.train.num_steps = 10
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return Trial(name, config, [])


def names(groups):
    return [[run.workdir for run in group] for group in groups]


def test_runs_are_grouped_by_what_is_built():
    runs = [
        trial("a"),
        trial("deep", model__depth=32),
        trial("b", train__seed=3),
        trial("smooth", train__label_smoothing=0.1),
        trial("c", optimizer__learning_rate=1.0, schedule__name="cosine"),
        trial("smoother", train__label_smoothing=0.2),
    ]
    assert names(together.groups(runs)) == [["a", "b", "c"], ["deep"], ["smooth", "smoother"]]
    streamed = [trial("a", dataset__pipeline="tf"), trial("b", dataset__pipeline="tf")]
    folder = {"dataset__name": "image_folder", "dataset__data_dir": "x"}
    streamed += [trial(name, **folder) for name in "cd"]
    assert names(together.groups(streamed)) == [["a"], ["b"], ["c"], ["d"]]
    kept = [trial(name, dataset__pipeline="device", **folder) for name in "cd"]
    assert names(together.groups(kept)) == [["c", "d"]]


def test_a_run_that_is_trained_alone_is_told_why(tmp_path, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(together, "_train", lambda group, at_once: trained.append(group) or {})
    monkeypatch.setattr(together.local, "train_all", lambda runs: [r.workdir.name for r in runs])
    runs = [trial(tmp_path / "a"), trial(tmp_path / "b", train__seed=1)]
    runs.append(trial(tmp_path / "deep", model__depth=32))
    runs.append(trial(tmp_path / "done", train__seed=2))
    (tmp_path / "done").mkdir()
    manifest.update(tmp_path / "done", end={"step": 10})
    # Those that were not trained, as by another process, are left to what trains them one by one.
    assert together.train_all(runs, 4) == ["a", "b", "deep"]
    assert names(trained) == [[tmp_path / "a", tmp_path / "b"]]
    out = capsys.readouterr().out
    assert "1 of 4 runs have finished already" in out
    assert f"{tmp_path / 'deep'}: is trained alone, as it differs in model.depth, which" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--vmap=0"], "--vmap=0: must be a number of runs, at least 1, or auto"),
        (["--vmap=some"], "--vmap=some: must be a number of runs, at least 1, or auto"),
        (["--vmap=2", "--jobs=2"], "--vmap: not with --jobs, --halving or --launcher=slurm"),
    ],
)
def test_flags_that_are_refused(flags, message, run_command):
    code, _, err, *_ = run_command("jaxcifar.tools.sweep", "--config=configs/resnet20.py", *flags)
    assert code == 1 and message in err


def start(recipe, workdir, *flags):
    command = [sys.executable, "-m", "jaxcifar.tools.sweep", f"--config={recipe}"]
    command += [f"--workdir={workdir}", *flags]
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_killed_sweep_resumes_in_other_numbers_with_the_same_bits(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(more='"deep": {"model.depth": 14},'))
    first = start(recipe, tmp_path / "many", "--seeds=0,1", "--vmap=4")
    tables = [
        tmp_path / f"many/{name}/seed_{s}/metrics.csv" for name in ("slow", "fast") for s in (0, 1)
    ]
    deadline = time.monotonic() + 300
    while not all(table.exists() and table.read_text().count("\n") > 3 for table in tables):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    # The trainer is in a process group of its own, named in the lock.
    owner = int((tables[0].parent / "lock").read_text().split()[1])
    os.kill(first.pid, signal.SIGKILL)
    os.kill(owner, signal.SIGKILL)
    first.communicate()
    again = start(recipe, tmp_path / "many", "--seeds=0,1", "--vmap=3")
    out, _ = again.communicate(timeout=600)
    assert again.returncode == 0, out
    assert "4 runs that can share a program" in out and "2 runs that can share a program" in out

    alone = start(recipe, tmp_path / "alone", "--seeds=0,1")
    out, _ = alone.communicate(timeout=600)
    assert alone.returncode == 0, out
    for table in tables:
        workdir = table.parent
        twin = tmp_path / "alone" / workdir.relative_to(tmp_path / "many")
        config = manifest.saved_config(manifest.read(workdir))
        assert_same_bits(restore(config, workdir, 40).state, restore(config, twin, 40).state)
        assert read_metrics(workdir) == read_metrics(twin)


@pytest.mark.slow
def test_a_failed_run_is_named(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(more='"diverging": {"optimizer.learning_rate": 1e30},'))
    sweep = start(recipe, tmp_path / "many", "--vmap=auto")
    out, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 1
    assert "many/diverging: error: step 2: not finite" in out
    assert "error: 1 of 3 runs failed: " in out and "many/diverging (exit code 1)" in out
    assert all("end" in manifest.read(tmp_path / "many" / name) for name in ("slow", "fast"))
