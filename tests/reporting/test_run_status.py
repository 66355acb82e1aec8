"""How far a run has come, from files written by hand."""

import json
import os

import pytest

from jaxcifar.reporting import run_status
from jaxcifar.resilience.lock import WriterLock

HEAD = "step,epoch,split,loss,accuracy,images_per_second,time\n"
ROWS = [
    "100,1.0,train,2.0,0.3,500,2026-01-01T00:01:00+00:00\n",
    "100,1.0,test,1.9,0.35,,2026-01-01T00:01:10+00:00\n",
    "200,2.0,train,1.5,0.5,520,2026-01-01T00:02:00+00:00\n",
    "300,3.0,train,1.0,0.7,510,2026-01-01T00:03:00+00:00\n",
]


@pytest.fixture
def run(tmp_path):
    def write(rows=ROWS, **entries):
        train = {"num_steps": 0, "num_epochs": 10.0}
        start = {"time": "2026-01-01T00:00:00+00:00", "step": 0}
        content = {"config": {"train": train}, "starts": [start], **entries}
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        if rows is not None:
            (tmp_path / "metrics.csv").write_text(HEAD + "".join(rows))
        return tmp_path

    return write


def test_progress_speed_and_time_left_are_those_of_the_rows(run):
    workdir = run()
    with WriterLock(workdir):
        status = run_status.read(workdir)
    assert (status.state, status.step, status.epoch, status.progress) == ("running", 300, 3.0, 0.3)
    assert status.losses == (2.0, 1.5, 1.0) and status.images_per_second == 510
    assert status.metrics == {"train": 0.7, "test": 0.35}
    # 200 steps took 120 seconds, and 700 are left.
    assert status.seconds_left == pytest.approx(420)


def test_states_are_told_apart(run):
    workdir = run()
    (workdir / "lock").touch()
    assert run_status.read(workdir).state == "stopped"
    with WriterLock(workdir):
        assert run_status.read(workdir).state == "running"
        WriterLock(workdir).__exit__()
    finished = run_status.read(run(end={"step": 300}))
    assert finished.state == "finished" and finished.progress == 1.0
    assert finished.seconds_left is None


def test_looking_takes_no_lock(run):
    workdir = run()
    (workdir / "lock").touch()
    run_status.read(workdir)
    with WriterLock(workdir):  # would raise if it were held
        pass


def test_a_resumed_run_is_estimated_from_its_last_start(run):
    starts = [{"time": "2026-01-01T00:00:00+00:00"}, {"time": "2026-01-01T05:00:00+00:00"}]
    rows = [
        *ROWS,
        "400,4.0,train,0.9,0.7,510,2026-01-01T05:01:00+00:00\n",
        "500,5.0,train,0.8,0.7,510,2026-01-01T05:01:30+00:00\n",
    ]
    workdir = run(rows, starts=starts)
    with WriterLock(workdir):
        assert run_status.read(workdir).seconds_left == pytest.approx(150)


def test_steps_count_where_the_length_is_in_steps(run):
    workdir = run(config={"train": {"num_steps": 1200, "num_epochs": 0.0}})
    assert run_status.read(workdir).progress == 0.25


def test_a_run_that_has_just_begun_has_no_progress(run):
    for rows in (None, [], ["100,1.0,tr"]):
        assert run_status.read(run(rows)).progress is None
        (run() / "metrics.csv").unlink()


def test_a_pipe_is_refused(run, tmp_path):
    os.remove(run() / "manifest.json")
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ValueError, match="is a pipe"):
        run_status.read(tmp_path)
