"""Runs in processes of their own: what is killed and started again ends with the same bits."""

import csv
import json
import re
import signal
import time

import jax
import numpy as np
import pytest

from jaxcifar.checkpoint import Checkpoints
from jaxcifar.config import default, durations
from jaxcifar.data import datasets
from jaxcifar.steps import create_program

RUN = [
    "--config=configs/quickstart.py",
    "--config.model.name=resnet8",
    "--config.dataset.validation_size=138",
    "--config.train.num_epochs=0",
    "--config.train.num_steps=120",  # 20.3 steps an epoch
    "--config.schedule.milestones_epochs=()",
    "--config.schedule.milestones_steps=(50,90)",
    "--config.log.every_steps=5",
    "--config.eval.every_steps=30",
    "--config.checkpoint.every_steps=7",
    "--config.log.tensorboard=False",
]


def final_state(workdir):
    config = default()
    config.dataset.name, config.model.name, config.train.num_steps = "digits", "resnet8", 120
    info = datasets.info(config.dataset)
    program = create_program(config, info, durations(config, 1300))
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        return checkpoints.restore(120, program.create_state)


def rows(workdir):
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in r.items() if k not in ("time", "images_per_second")} for r in rows]


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    return tmp_path_factory.mktemp("unbroken"), tmp_path_factory.mktemp("broken")


def test_a_killed_run_ends_with_the_bits_of_an_unbroken_one(run_main, start_main, workdirs):
    unbroken, broken = workdirs
    code, out, err = run_main(*RUN, f"--workdir={unbroken}")
    assert code == 0, err

    process = start_main(*RUN, f"--workdir={broken}")
    while not (broken / "checkpoints" / "14").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    saved = [int(p.name) for p in (broken / "checkpoints").iterdir() if p.name.isdigit()]
    assert 14 <= max(saved) < 120

    code, out, err = run_main(*RUN, f"--workdir={broken}")
    assert code == 0, err
    first = int(re.search(r"going on from step (\d+)", out)[1])
    assert 14 <= first < 120 and first % (1300 / 64) != 0

    one, other = final_state(unbroken), final_state(broken)
    assert one.progress == other.progress and one.progress.best_step > 0
    leaves = jax.tree_util.tree_leaves_with_path(one.state)
    for (path, a), b in zip(leaves, jax.tree.leaves(other.state), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)
    assert rows(unbroken) == rows(broken)
    train = [int(row["step"]) for row in rows(broken) if row["split"] == "train"]
    assert train == list(range(5, 121, 5))
    evaluated = [(row["step"], row["split"]) for row in rows(broken) if row["split"] != "train"]
    assert evaluated == [(s, n) for s in ("30", "60", "90", "120") for n in ("validation", "test")]


def test_a_finished_run_is_evaluated_and_left_as_it_is(run_main, workdirs):
    before = rows(workdirs[0])
    code, out, err = run_main(*RUN, f"--workdir={workdirs[0]}")
    assert code == 0, err
    assert "going on from step 120" in out and "done: test" in out
    assert rows(workdirs[0]) == before


def test_another_config_is_refused_and_can_be_accepted(run_main, workdirs):
    changed = [*RUN, f"--workdir={workdirs[0]}", "--config.train.num_steps=121"]
    code, out, err = run_main(*changed)
    assert code != 0 and "train.num_steps: 120 there, 121 here" in err
    assert "Traceback" not in err
    code, out, err = run_main(*changed, "--accept_config_change")
    assert code == 0, err
    assert rows(workdirs[0])[-1]["step"] == "121"
    starts = json.loads((workdirs[0] / "manifest.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 120, 120]


def test_evaluation_finds_what_training_found(run_main, workdirs):
    workdir = workdirs[1]
    best = max(
        (r for r in rows(workdir) if r["split"] == "validation"), key=lambda r: float(r["accuracy"])
    )
    for name, step in (("latest", "120"), ("best", best["step"])):
        code, out, err = run_main(
            *RUN,
            f"--workdir={workdir}",
            "--mode=eval",
            f"--config.eval.checkpoint={name}",
            "--config.eval.batch_size=77",
        )
        assert code == 0, err
        results = json.loads((workdir / "evaluation.json").read_text())
        assert results["step"] == int(step)
        for split in ("validation", "test"):
            (row,) = [r for r in rows(workdir) if (r["step"], r["split"]) == (step, split)]
            assert results[split]["accuracy"] == pytest.approx(float(row["accuracy"]), abs=1e-6)
            assert results[split]["loss"] == pytest.approx(float(row["loss"]), rel=1e-4)
            assert f"{split}, " in out


def test_evaluation_of_nothing_is_explained(run_main, tmp_path):
    code, _, err = run_main(*RUN, f"--workdir={tmp_path / 'nothing'}", "--mode=eval")
    assert code != 0 and "nothing/checkpoints: no checkpoint" in err and "Traceback" not in err
    assert not (tmp_path / "nothing").exists()
