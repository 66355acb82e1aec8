"""Jobs of a cluster, with the executor of submitit that runs them here."""

import sys
from pathlib import Path

import pytest

from jaxcifar.errors import InputError
from jaxcifar.launch import slurm
from jaxcifar.launch.trials import Trial

submitit = pytest.importorskip("submitit")


def make(path, code=0):
    script = f"from pathlib import Path; Path({str(path)!r}).touch(); raise SystemExit({code})"
    return Trial(Path(path), None, [sys.executable, "-c", script])


def test_each_run_is_a_job(tmp_path):
    runs = [make(tmp_path / "one"), make(tmp_path / "two"), make(tmp_path / "bad", 3)]
    options = {"cluster": "local", "timeout_min": "5", "cpus_per_task": "1"}
    jobs = slurm.submit(runs, tmp_path / "logs", options)
    assert [job.result() for job in jobs[:2]] == [0, 0]
    with pytest.raises(submitit.core.utils.FailedJobError, match="exit code 3"):
        jobs[2].result()
    assert all(run.workdir.exists() for run in runs)


def test_a_job_whose_time_is_up_is_queued_again():
    again = slurm.Job(["true"]).checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert again.function.command == ["true"] and again.function() == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cluster": "moon"}, "--slurm: .*moon"),
        ({"cluster": "local", "timeout_min": "soon"}, "--slurm: .*timeout_min"),
    ],
)
def test_bad_options_are_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        slurm.submit([make(tmp_path / "run")], tmp_path / "logs", options)
