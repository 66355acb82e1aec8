"""Runs on one machine: several at a time, and two launchers in one directory."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxcifar.errors import IN_USE, InputError, StoppedError
from jaxcifar.launch import local
from jaxcifar.launch.trials import Trial
from jaxcifar.resilience.lock import WriterLock

# A stand-in for a training: takes the lock, works, and writes the end to its manifest.
WORK = """
import json, os, sys, time
from pathlib import Path
from jaxcifar.errors import IN_USE, InUseError
from jaxcifar.resilience.lock import WriterLock

workdir, seconds, code = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
try:
    with WriterLock(workdir) as lock:
        lock.acquire()
        facts = {"cores": sorted(os.sched_getaffinity(0)), "begin": time.time(),
                 "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
                 "memory": os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", ""), "pid": os.getpid()}
        manifest = workdir / "manifest.json"
        manifest.write_text(json.dumps({"config": {"train": {}}}))
        with (workdir / "begun").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(seconds)
        if code:
            sys.exit(code)
        end = {"config": {"train": {}}, "end": facts | {"until": time.time()}}
        manifest.write_text(json.dumps(end))
except InUseError:
    sys.exit(IN_USE)
"""


@pytest.fixture
def make(tmp_path):
    """Makes trials by name, with the seconds that each takes and its exit code."""
    script = tmp_path / "work.py"
    script.write_text(WORK)

    def trials(**runs):
        found = []
        for name, (seconds, code) in runs.items():
            workdir = tmp_path / "runs" / name
            command = [sys.executable, script, workdir, seconds, code]
            found.append(Trial(workdir, None, list(map(str, command))))
        return found

    return trials


def end_of(run):
    return json.loads((run.workdir / "manifest.json").read_text())["end"]


def starts_of(run):
    return (run.workdir / "begun").read_text().splitlines()


def test_two_at_a_time_have_half_of_the_cores_each(make, capfd):
    runs = make(a=(1.5, 0), b=(1.5, 0), c=(0, 0), bad=(0, 3))
    failed = local.train_all(runs, jobs=2)
    assert failed == [f"{runs[3].workdir} (exit code 3)"]
    a, b, c = map(end_of, runs[:3])
    assert max(a["begin"], b["begin"]) < min(a["until"], b["until"])  # at the same time
    assert c["begin"] >= min(a["until"], b["until"])
    every = sorted(os.sched_getaffinity(0))
    assert sorted(a["cores"] + b["cores"]) == every and a["cores"] and b["cores"]
    out = capfd.readouterr().out
    assert f"[4/4] {runs[3].workdir}" in out and "failed with exit code 3; see" in out
    assert local.train_all(runs[:3], jobs=2) == []  # finished ones are not repeated
    assert all(len(starts_of(run)) == 1 for run in runs[:3])
    assert capfd.readouterr().out.count("already finished") == 3


def test_gpus_are_divided(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    two = local.shares(2)
    assert [share.environment["CUDA_VISIBLE_DEVICES"] for share in two] == ["4,6", "5,7"]
    assert [sorted(share.cores) for share in two] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert all("XLA_PYTHON_CLIENT_MEM_FRACTION" not in share.environment for share in two)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    shared = local.shares(3)
    assert [share.environment["CUDA_VISIBLE_DEVICES"] for share in shared] == ["3"] * 3
    assert {s.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] for s in shared} == {"0.300"}
    assert local.shares(1) == [local.Share(None, {})]
    with pytest.raises(InputError, match="--jobs=9: must be at most the number of cores, 8"):
        local.shares(9)


def test_a_run_that_another_process_trains_is_left_to_it(make, capfd):
    busy, free = make(busy=(0, 0), free=(0, 0))
    owner = subprocess.Popen([*busy.command[:3], "3", "0"])
    while not (busy.workdir / "begun").exists():
        time.sleep(0.02)
    assert local.train_all([busy, free]) == []
    assert owner.wait() == 0 and starts_of(busy) == [str(owner.pid)]
    assert end_of(busy)["pid"] == owner.pid and end_of(free)["pid"] != owner.pid
    out = capfd.readouterr().out
    assert f"[1/2] {busy.workdir}: another process trains it" in out
    assert f"waiting for other processes to finish {busy.workdir}" in out


def test_a_run_whose_owner_dies_is_taken_over(make):
    (run,) = make(run=(0, 0))
    owner = subprocess.Popen([*run.command[:3], "60", "0"])
    while not (run.workdir / "begun").exists():
        time.sleep(0.02)
    watcher = subprocess.Popen(
        [sys.executable, "-c", f"import time, os; time.sleep(1.5); os.kill({owner.pid}, 9)"]
    )
    assert local.train_all([run]) == []
    owner.wait(), watcher.wait()
    assert len(starts_of(run)) == 2 and end_of(run)["pid"] != owner.pid


def test_the_lock_decides_where_the_system_does_not_tell(make, monkeypatch):
    """As on a shared file system, where /proc/locks has nothing of the other machine."""
    monkeypatch.setattr(local, "_is_running", lambda _: False)
    monkeypatch.setattr(local, "_RETRY_SECONDS", 2.0)
    (run,) = make(run=(0, 0))
    with WriterLock(run.workdir) as lock:
        lock.acquire()
        process = subprocess.Popen(run.command)
        assert process.wait() == IN_USE
        helper = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from pathlib import Path\n"
                "from jaxcifar.launch import local\nfrom jaxcifar.launch.trials import Trial\n"
                "local._is_running, local._RETRY_SECONDS = (lambda _: False), 2.0\n"
                "print(local.train_all([Trial(Path(sys.argv[1]), None, sys.argv[2:])]))",
                str(run.workdir),
                *run.command,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(6)
        assert helper.poll() is None and not (run.workdir / "begun").exists()
    out, _ = helper.communicate(timeout=60)
    assert out.splitlines()[-1] == "[]" and len(starts_of(run)) == 1


def test_a_signal_reaches_all_runs(make):
    runs = make(a=(60, 0), b=(60, 0), c=(0, 0))
    killer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import time, os, signal; time.sleep(2); os.kill({os.getpid()}, signal.SIGTERM)",
        ]
    )
    with pytest.raises(StoppedError, match="the sweep was stopped by SIGTERM") as error:
        local.train_all(runs, jobs=2)
    killer.wait()
    assert error.value.code == 128 + signal.SIGTERM
    assert not runs[2].workdir.exists()
    for run in runs[:2]:
        with WriterLock(run.workdir):  # both have ended
            pass
