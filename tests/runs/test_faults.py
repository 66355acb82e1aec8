"""Runs in separate processes that are killed, signalled, locked out or out of disk space.

Whatever happens to them, they end exactly as an uninterrupted run: every bit of the state, the
counters, the metrics and the files.
"""

import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from jaxcifar.config import default
from jaxcifar.errors import IN_USE
from jaxcifar.resilience.signals import describe
from tests.helpers import INTERVAL, RUN, STEPS, read_metrics, restore, saved_steps


def outcome(workdir):
    """Returns everything that must not depend on interruptions: bits, numbers and file names."""
    config = default()
    config.dataset.name, config.model.name, config.train.num_steps = "digits", "resnet8", STEPS
    _, state, progress = restore(config, workdir, STEPS)
    digest = {
        jax.tree_util.keystr(path): hashlib.sha256(np.asarray(x).tobytes()).hexdigest()
        for path, x in jax.tree_util.tree_leaves_with_path(state)
    }
    names = sorted(path.name for path in [*workdir.iterdir(), *(workdir / "checkpoints").iterdir()])
    return digest, progress, read_metrics(workdir), names


@pytest.fixture(scope="module")
def unbroken(whole_run):
    result = outcome(whole_run)
    assert len(result[0]) > 50
    steps = [(row["split"], int(row["step"])) for row in result[2]]
    assert [step for split, step in steps if split == "train"] == list(range(5, 61, 5))
    evaluated = [(split, step) for step in range(12, 61, 12) for split in ("validation", "test")]
    assert [row for row in steps if row[0] != "train"] == evaluated
    assert {"21", "42", "60", "run_id", "metrics.csv", "lock"} <= set(result[3])
    return result


def assert_same(workdir, unbroken):
    for one, other in zip(unbroken, outcome(workdir), strict=True):
        assert one == other


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} was not printed: {process.communicate()}")


def end(process):
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err


def saved(workdir):
    """Returns the step of the newest checkpoint, or 0; later steps are lost."""
    return max(saved_steps(workdir), default=0)


def last_row(workdir):
    """Returns the step of the last complete row, which the run has at least reached."""
    if not (workdir / "metrics.csv").exists():
        return 0
    lines = (workdir / "metrics.csv").read_text().splitlines(keepends=True)
    return max((int(line.split(",")[0]) for line in lines[1:] if line.endswith("\n")), default=0)


class Run:
    """One run, in as many consecutive processes as it takes."""

    def __init__(self, start_main, workdir):
        self._start_main, self.workdir = start_main, workdir

    def start(self, *arguments, **variables):
        return self._start_main(*RUN, f"--workdir={self.workdir}", *arguments, **variables)

    def kill_at(self, point):
        before = saved(self.workdir)
        code, _, err = end(self.start(JAXCIFAR_KILL_AT=point))
        assert code == -signal.SIGKILL, (point, err)
        self.check_loss(before)

    def check_loss(self, before):
        # One interval, and the steps made while the save at its end is in progress.
        assert last_row(self.workdir) - saved(self.workdir) < 2 * INTERVAL
        assert saved(self.workdir) >= before

    def finish(self, unbroken):
        before = saved(self.workdir)
        code, out, err = end(self.start())
        assert code == 0, err
        assert re.search(rf"from step {before}\b", out) or before == 0
        assert_same(self.workdir, unbroken)


@pytest.fixture
def run(start_main, tmp_path):
    return Run(start_main, tmp_path)


def test_a_run_through_many_faults_ends_as_an_unbroken_one(run, unbroken, tmp_path):
    run.kill_at("arrays:2:0.005")
    assert saved(tmp_path) == 7
    assert list((tmp_path / "checkpoints").glob("*.part"))

    run.kill_at("row:3")
    assert not (tmp_path / "metrics.csv").read_text().endswith("\n")

    process = run.start()
    wait_for(process, "step 25/")
    process.send_signal(signal.SIGSTOP)  # it holds the lock, however fast the other process is
    code, _, err = end(run.start())
    assert code == IN_USE and f"by process {process.pid} on {os.uname().nodename}." in err
    assert "Traceback" not in err
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    code, _, err = end(process)
    assert code == 143
    assert f"by SIGTERM at step {saved(tmp_path)} of {STEPS};" in err.splitlines()[-1]

    process, before = run.start(), saved(tmp_path)
    wait_for(process, "from step")
    process.send_signal(signal.SIGINT)  # while it compiles
    code, _, err = end(process)
    assert code == 130 and "by SIGINT at step " in err
    assert saved(tmp_path) in (before, before + 1)
    run.finish(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize(
    "points",
    [
        ("arrays", "restore", "arrays:2", "arrays:1:0.01", "arrays:1:0.05"),
        ("manifest", "manifest:2", "commit", "commit:2", "restore"),
        ("committed", "committed:2", "delete", "delete", "deleted"),
        ("row", "row:4", "evaluate", "evaluate:4", "deleted"),
    ],
)
def test_a_run_killed_at_named_points_ends_with_the_same_bits(run, unbroken, points):
    for point in points:
        run.kill_at(point)
    run.finish(unbroken)


@pytest.mark.slow
def test_kills_while_a_damaged_checkpoint_is_set_aside_and_in_the_last_save(
    run, unbroken, tmp_path
):
    for point in ("signalled", "signalled:1:0.02", "signalled:1:0.1"):
        process, before = run.start(JAXCIFAR_KILL_AT=point), saved(tmp_path)
        wait_for(process, "from step" if before else "step 25/")
        process.send_signal(signal.SIGTERM)
        assert end(process)[0] in (-signal.SIGKILL, 143)
        run.check_loss(before)
    process = run.start()
    wait_for(process, "step 30/")
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 143 and saved(tmp_path) >= 30
    manifest = tmp_path / "checkpoints" / str(saved(tmp_path)) / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0", "1", 1))
    code, _, _ = end(run.start(JAXCIFAR_KILL_AT="aside"))
    assert code == -signal.SIGKILL and saved(tmp_path) in (21, 24)  # 24 is the best
    (aside,) = (tmp_path / "checkpoints").glob("*.damaged-hash-manifest.json")
    shutil.rmtree(aside)
    run.finish(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("seed, kills", [(0, 20), (1, 10), (2, 10), (3, 10)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(
    run, unbroken, tmp_path, seed, kills
):
    draw = random.Random(seed)
    print("seed", seed)
    killed = 0
    while killed < kills:
        process, before = run.start(), saved(tmp_path)
        if draw.random() < 0.8:  # a short process spends most of its time starting
            lock = tmp_path / "lock"
            while process.poll() is None and not (
                lock.exists() and f"process {process.pid} " in lock.read_text()
            ):
                time.sleep(0.01)
        time.sleep(draw.uniform(0, 6))
        process.kill()
        code, _, err = end(process)
        if code == 0:
            assert_same(tmp_path, unbroken)
            shutil.rmtree(tmp_path)  # start a new run
            continue
        assert code == -signal.SIGKILL, err
        run.check_loss(min(before, saved(tmp_path)))
        killed += 1
    run.finish(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=["term", "int", "hup"]
)
def test_a_signal_in_any_phase_saves_and_stops_the_run(run, unbroken, tmp_path, number):
    def stops(process):
        process.send_signal(number)
        code, _, err = end(process)
        assert code == 128 + number, err
        assert f"by {describe(number)} at step {saved(tmp_path)} " in err.splitlines()[-1]

    def wait_until(found):
        while not found():
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)

    process = run.start()
    wait_for(process, "images; resnet8")  # then it compiles
    stops(process)
    assert saved(tmp_path) in (0, 1)

    process = run.start()
    wait_until(lambda: f"process {process.pid} " in (tmp_path / "lock").read_text())
    time.sleep(0.2)  # it sets up and restores
    stops(process)
    assert saved(tmp_path) in (0, 1, 2)

    process = run.start()
    wait_for(process, "step 5/")
    stops(process)

    process = run.start()
    wait_until(lambda: list((tmp_path / "checkpoints").glob("*.part")))
    stops(process)

    process = run.start()
    wait_for(process, "validation at step")  # the test split comes next
    stops(process)
    run.finish(unbroken)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_run_immediately(run, unbroken, tmp_path):
    process = run.start("--config.model.name=resnet20", JAX_ENABLE_COMPILATION_CACHE="false")
    wait_for(process, "images; resnet20")  # then it compiles, which takes a while
    time.sleep(3)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    started = time.monotonic()
    code, _, err = end(process)
    assert code == 130 and "terminated immediately" in err
    assert time.monotonic() - started < 30
    shutil.rmtree(tmp_path)

    process = run.start()
    wait_for(process, "step 15/")
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    process.kill()
    end(process)
    assert saved(tmp_path) >= 7
    run.finish(unbroken)


def limit_files(process, size):
    """Makes writes beyond a file size fail in a process: those of arrays, not of CSV rows."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_a_save_without_space_stops_the_run_or_not(run, unbroken, tmp_path):
    process = run.start()
    while saved(tmp_path) < 7:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    limit_files(process, 20_000)
    code, _, err = end(process)
    assert code == 1
    assert "could not be written: File too large\n" in err
    assert 7 <= saved(tmp_path) < STEPS

    process, before = run.start("--config.checkpoint.on_error=continue"), saved(tmp_path)
    wait_for(process, "from step")
    limit_files(process, 20_000)
    wait_for(process, "warning: checkpoint ")
    assert saved(tmp_path) == before
    limit_files(process, resource.RLIM_INFINITY)
    code, _, err = end(process)
    assert code == 0, err
    assert_same(tmp_path, unbroken)


@pytest.mark.slow
def test_of_twenty_starts_one_trains_and_evaluation_works_beside_it(run, unbroken, tmp_path):
    processes = [run.start() for _ in range(20)]
    ends = [end(process) for process in processes]
    (winner,) = [index for index, (code, _, _) in enumerate(ends) if code == 0]
    for index, (code, out, err) in enumerate(ends):
        if index != winner:
            assert code == 1 and out == ""
            assert f"by process {processes[winner].pid} on {os.uname().nodename}." in err
    assert_same(tmp_path, unbroken)

    shutil.rmtree(tmp_path)  # start a new run
    process = run.start()
    wait_for(process, "step 20/")
    process.send_signal(signal.SIGSTOP)
    code, out, err = end(run.start("--mode=eval"))
    assert code == 0, err
    process.send_signal(signal.SIGCONT)
    assert end(process)[0] == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["step"] >= 7
    (tmp_path / "evaluation.json").unlink()
    assert_same(tmp_path, unbroken)
