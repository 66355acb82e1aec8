"""Submits runs to a SLURM cluster as one array of jobs, by submitit."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcifar.errors import InputError
from jaxcifar.launch.trials import Trial

# Parameters that submitit has for all kinds of clusters; others are passed on to SLURM.
_GENERAL = {
    "cpus_per_task",
    "gpus_per_node",
    "mem_gb",
    "name",
    "nodes",
    "stderr_to_stdout",
    "tasks_per_node",
    "timeout_min",
}


class Job:
    """What a job of the array does: it trains a run, and is queued again when its time is up."""

    def __init__(self, command: Sequence[str]):
        self.command = list(command)

    def __call__(self) -> int:
        """Trains the run to its end, or resumes it, and returns the exit code.

        Raises:
          RuntimeError: if it failed, so that the cluster shows the job as failed.
        """
        code = subprocess.run(self.command).returncode
        if code:
            raise RuntimeError(f"exit code {code}: {' '.join(self.command)}")
        return code

    def checkpoint(self) -> Any:
        """Called by submitit on a timeout or preemption; the run itself saves on SIGTERM."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(runs: Sequence[Trial], folder: Path, options: Mapping[str, str]) -> list[Any]:
    """Submits runs and returns submitit's jobs.

    Args:
      runs: the runs.
      folder: directory for scripts and logs, which all nodes must see.
      options: parameters such as partition, timeout_min, cpus_per_task and gpus_per_node; `cluster`
        is "slurm", or "local" for processes on this machine.

    Raises:
      InputError: if submitit is not installed, or refuses an option.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError(
            "submitit is not installed; install it with pip install 'jaxcifar[slurm]'"
        ) from error
    cluster = options.get("cluster", "slurm")
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        parameters = {
            name if name in _GENERAL else f"slurm_{name}": _value(text)
            for name, text in options.items()
            if name != "cluster"
        }
        executor.update_parameters(**{"name": "jaxcifar", **parameters})
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"--slurm: {error}") from error
    return executor.map_array(lambda job: job(), [Job(run.command) for run in runs])


def _value(text: str) -> Any:
    for kind in int, float:
        try:
            return kind(text)
        except ValueError:
            continue
    return text
