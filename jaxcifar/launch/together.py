"""Trains runs of a sweep several at a time in one compiled program, in a process of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcifar.data import datasets
from jaxcifar.errors import IN_USE, InputError, StoppedError
from jaxcifar.launch import local
from jaxcifar.launch.trials import Trial
from jaxcifar.resilience import closed_output, manifest, signals
from jaxcifar.traced import obstacles


def train_all(runs: Sequence[Trial], at_once: int) -> list[str]:
    """Trains runs, those that can share a program at once, and then the others one by one.

    As `local.train_all`, it resumes runs that have begun, leaves out those that have finished, and
    takes over those that other processes leave.

    Args:
      runs: the runs.
      at_once: number of runs that are trained at once; 0 for as many as the memory holds.

    Returns:
      The runs that failed, with their exit code, as text.

    Raises:
      StoppedError: if a signal stopped them.
      SystemExit: if the reader of standard output has gone.
    """
    failed: dict[Path, str] = {}
    unfinished = [run for run in runs if "end" not in manifest.read(run.workdir)]
    if done := len(runs) - len(unfinished):
        print(f"{done} of {len(runs)} runs have finished already", flush=True)
    for group in groups(unfinished):
        if len(group) == 1:
            reason = _why_alone(group[0], unfinished)
            print(f"{group[0].workdir}: is trained alone{reason}", flush=True)
            continue
        print(f"{len(group)} runs that can share a program; see <workdir>.log", flush=True)
        failed |= _train(group, at_once)
    left = [
        run
        for run in unfinished
        if run.workdir not in failed and "end" not in manifest.read(run.workdir)
    ]
    return [*failed.values(), *local.train_all(left)]


def groups(runs: Sequence[Trial]) -> list[list[Trial]]:
    """Divides runs into groups that can share a program, in the order of their first runs."""
    found: list[list[Trial]] = []
    for run in runs:
        for group in found:
            if not obstacles(group[0].config, run.config):
                group.append(run)
                break
        else:
            found.append([run])
    # Batches that tf.data makes come one by one.
    return [
        part
        for group in found
        for part in ([group] if _is_on_device(group[0]) else [[run] for run in group])
    ]


def _is_on_device(run: Trial) -> bool:
    config = run.config
    return datasets.uses_device_pipeline(config.dataset) and not config.train.distributed


def _why_alone(run: Trial, runs: Sequence[Trial]) -> str:
    """What keeps a run from sharing a program with the run that is most like it; "" if alone."""
    others = [obstacles(run.config, other.config) for other in runs if other is not run]
    fields = min(others, key=len, default=[])
    if not fields:
        return "" if not others else ", as its batches are not made on the device"
    return f", as it differs in {', '.join(fields)}, which cannot vary within a program"


def _train(group: Sequence[Trial], at_once: int) -> dict[Path, str]:
    """Trains a group in a process; returns those that failed, with their exit code as text."""
    with tempfile.TemporaryDirectory(prefix="jaxcifar_") as directory:
        plan = Path(directory) / "runs.json"
        content: dict[str, Any] = {
            "at_once": at_once,
            "runs": [
                {"workdir": str(run.workdir), "config": manifest.plain(run.config)} for run in group
            ],
        }
        plan.write_text(json.dumps(content))
        command = [sys.executable, "-m", "jaxcifar.tools.train_many", str(plan)]
        started: list[subprocess.Popen[bytes]] = []
        with local.forwarding(lambda: started) as received:
            started.append(subprocess.Popen(command, process_group=0))
            code = started[0].wait()
        outcomes = _outcomes(plan.with_name("outcomes.json"))
    if code == closed_output.EXIT_CODE:
        raise SystemExit(code)
    if received:
        raise StoppedError(
            f"the sweep was stopped by {signals.describe(received[0])}; rerun the same command "
            "to resume",
            code=128 + received[0],
        )
    if code and not outcomes:
        raise InputError(f"the runs could not be trained at once (exit code {code}); see above")
    return {
        workdir: f"{workdir} (exit code {number})"
        for workdir, number in outcomes.items()
        if number not in (0, IN_USE)
    }


def _outcomes(path: Path) -> dict[Path, int]:
    """The exit code of each run that has ended, by its workdir."""
    if not path.exists():
        return {}
    return {Path(workdir): code for workdir, code in json.loads(path.read_text()).items()}
