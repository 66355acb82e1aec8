"""Runs of two processes: how one of them reacts to what happens to the other."""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.runs.test_faults import assert_same, end, outcome, saved, wait_for

STEPS = 60
RUN = [
    "--config=configs/quickstart.py",
    "--config.model.name=resnet8",
    "--config.dataset.validation_size=138",
    "--config.optimizer.learning_rate=0.01",  # rounding grows slowly
    "--config.schedule.name=constant",
    "--config.schedule.milestones_epochs=()",
    "--config.train.num_epochs=0",
    f"--config.train.num_steps={STEPS}",
    "--config.log.every_steps=5",
    "--config.log.tensorboard=False",
    "--config.eval.every_steps=20",
    "--config.checkpoint.every_steps=7",
    "--config.checkpoint.keep_every_steps=21",
]
HOST = os.uname().nodename
TWO_DEVICES = "--xla_force_host_platform_device_count=2"


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


class Pair:
    """Starts a run in two processes; a context manager, which kills those that remain."""

    def __init__(self, start_main, workdir):
        self._start_main, self.workdir, self._started = start_main, workdir, []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self._started:
            process.kill()
            process.communicate()

    def start(self, *arguments, zero=None):
        """Returns the two processes; `zero` is added to the environment of process 0."""
        port = free_port()
        pair = [
            self._start_main(
                *RUN,
                "--config.train.distributed=True",
                f"--workdir={self.workdir}",
                *arguments,
                JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(process),
                **variables,
            )
            for process, variables in enumerate((zero or {}, {}))
        ]
        self._started += pair
        return pair

    def finish(self, undisturbed):
        """Resumes the run, which must end exactly as an undisturbed one."""
        before = saved(self.workdir)
        zero, one = self.start()
        code, out, err = end(zero)
        assert (code, end(one)[0]) == (0, 0), err
        assert re.search(rf"from step {before}\b", out)
        assert_same(self.workdir, undisturbed)


@pytest.fixture
def pair(start_main, tmp_path):
    with Pair(start_main, tmp_path) as pair:
        yield pair


@pytest.fixture(scope="module")
def pairs_workdir(start_main, tmp_path_factory):
    """The workdir of an undisturbed run in two processes."""
    with Pair(start_main, tmp_path_factory.mktemp("pair")) as pair:
        ends = [end(process) for process in pair.start()]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "done: validation" in ends[0][1] and "validation" not in ends[1][1]
    return pair.workdir


@pytest.fixture(scope="module")
def undisturbed(pairs_workdir):
    return outcome(pairs_workdir)


def end_within(process, seconds, *, stopped=None):
    """As `end`, with a time limit that excludes time during which the test is suspended."""
    for _ in range(10 * seconds):
        if process.poll() is not None:
            return end(process)
        if stopped:
            stopped.send_signal(signal.SIGSTOP)  # again, in case something has woken it
        time.sleep(0.1)
    raise AssertionError(f"still running after {seconds} s")


def check_last_words(err, gone, what):
    """Checks the error message, which names both processes and their steps."""
    assert "Traceback" not in err
    found = re.search(
        rf"\nerror: process {gone} of 2 \({HOST}\) {what}; its last known step is (\d+); this is "
        rf"process {1 - gone} at step (\d+)\.\n"
        r"Rerun the same command for all processes ",
        err,
    )
    assert found, err
    assert all(0 < int(step) < STEPS for step in found.groups())


@pytest.mark.slow
def test_if_the_first_process_is_killed_the_other_reports_it(pair):
    zero, one = pair.start(zero={"JAXCIFAR_KILL_AT": "row:6"})
    code, _, err = end_within(one, 300)
    assert zero.wait() == -signal.SIGKILL
    assert code == 1
    check_last_words(err, 0, "was killed or has crashed")


@pytest.mark.slow
@pytest.mark.parametrize("gone", [0, 1])
def test_if_a_process_is_killed_the_other_exits_and_the_run_resumes(pair, undisturbed, gone):
    processes = pair.start()
    wait_for(processes[0], "step 25/")
    processes[gone].kill()
    code, _, err = end_within(processes[1 - gone], 60)
    assert code == 1
    check_last_words(err, gone, "was killed or has crashed")
    assert saved(pair.workdir) >= 14
    pair.finish(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("gone", [0, 1])
def test_if_a_process_is_suspended_the_other_exits_and_the_run_resumes(pair, undisturbed, gone):
    processes = pair.start("--config.train.peer_timeout_seconds=10")
    wait_for(processes[0], "step 25/")
    code, _, err = end_within(processes[1 - gone], 60, stopped=processes[gone])
    assert code == 1
    check_last_words(err, gone, "has not responded for 10 s")

    processes[gone].send_signal(signal.SIGCONT)  # too late
    code, _, err = end_within(processes[gone], 60)
    assert code == 1
    check_last_words(err, 1 - gone, rf"has exited: process {gone} of 2 .* has not responded .*; .*")
    pair.finish(undisturbed)


@pytest.mark.slow
def test_a_process_that_pauses_is_waited_for(pair, undisturbed):
    processes = pair.start()
    for step, process in (25, 1), (40, 0):
        wait_for(processes[0], f"step {step}/")
        processes[process].send_signal(signal.SIGSTOP)
        time.sleep(20)
        assert processes[1 - process].poll() is None
        processes[process].send_signal(signal.SIGCONT)
    assert [end(process)[0] for process in processes] == [0, 0]
    assert_same(pair.workdir, undisturbed)


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_ends_both(pair, undisturbed):
    zero, one = pair.start()
    wait_for(zero, "step 25/")
    one.send_signal(signal.SIGTERM)
    ends = [end_within(process, 300) for process in (zero, one)]
    step = saved(pair.workdir)
    for code, _, err in ends:
        assert code == 143
        assert f"by SIGTERM at step {step} of {STEPS};" in err
        assert "Traceback" not in err and "error" not in err
    pair.finish(undisturbed)


@pytest.mark.slow
def test_an_error_of_one_process_ends_both(pair):
    with (pair.workdir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        zero, one = pair.start()
        code, _, err = end_within(zero, 300)
        assert code == 1
        assert f"error: {pair.workdir} is being written to by " in err
        code, _, err = end_within(one, 60)
    assert code == 1
    assert f"\nerror: process 0 of 2 ({HOST}) has exited: {pair.workdir} is being written to" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_both_processes_take_the_checkpoint_before_a_damaged_one(pair, pairs_workdir, undisturbed):
    checkpoints = pair.workdir / "checkpoints"
    shutil.copytree(pairs_workdir, pair.workdir, dirs_exist_ok=True)
    for path in (checkpoints / "60").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    zero, one = pair.start()
    code, out, err = end(zero)
    assert (code, end(one)[0]) == (0, 0), err
    assert "from step 42" in out
    (aside,) = checkpoints.glob("60.damaged-*")
    shutil.rmtree(aside)
    assert_same(pair.workdir, undisturbed)

    for path in checkpoints.rglob("manifest.json"):
        path.unlink()
    for process in pair.start():
        code, _, err = end_within(process, 300)
        assert code == 1
        assert "no intact checkpoint" in err and "Traceback" not in err


@pytest.mark.slow
def test_two_processes_give_the_result_of_one_with_two_devices(
    start_main, pairs_workdir, undisturbed, tmp_path
):
    def run(workdir):
        code, out, err = end(start_main(*RUN, f"--workdir={workdir}", XLA_FLAGS=TWO_DEVICES))
        assert code == 0, err
        return out

    run(tmp_path / "one")
    # One process resumes what two have saved.
    shutil.copytree(pairs_workdir, tmp_path / "both")
    for step in "60", *(str(step) for step in range(43, 60)):
        shutil.rmtree(tmp_path / "both" / "checkpoints" / step, ignore_errors=True)
    assert "from step 42" in run(tmp_path / "both")

    for name in "one", "both":
        rows = outcome(tmp_path / name)[2]
        assert len(rows) == len(undisturbed[2]) == STEPS // 5 + 2 * 3
        for row, wanted in zip(rows, undisturbed[2], strict=True):
            assert (row["step"], row["split"]) == (wanted["step"], wanted["split"])
            np.testing.assert_allclose(float(row["loss"]), float(wanted["loss"]), rtol=1e-3)


START = """
import sys
from jaxcifar.resilience import processes
processes._START_SECONDS = int(sys.argv[1])
processes.start(distributed=True)
"""


@pytest.mark.slow
def test_a_process_that_never_joins_is_named():
    def start(process, port, *, processes=2, seconds=10):
        return subprocess.Popen(
            [sys.executable, "-c", START, str(seconds)],
            env=os.environ
            | {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(process),
            },
            stderr=subprocess.PIPE,
            text=True,
        )

    port = free_port()
    alone = {
        "process 1 has not joined": start(0, free_port()),
        "process 0 does not answer (Connection refused)": start(1, free_port()),
        "process 0 has joined, but not all of the others": start(1, port, processes=3),
        "not all of processes 1 to 2 have joined": start(0, port, processes=3, seconds=30),
    }
    for reason, process in alone.items():
        code, _, err = end_within(process, 120)
        assert code == 1, err
        assert " s at localhost:" in err and f": {reason}.\n" in err
        assert "Traceback" not in err
