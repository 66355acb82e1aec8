"""What a run checks before it resumes, and what it says of that at its start."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxcifar.attempt import Run
from jaxcifar.config import durations
from jaxcifar.data import datasets
from jaxcifar.errors import InputError
from jaxcifar.program import Program, create_learning_rate
from jaxcifar.regular_files import check_regular
from jaxcifar.reporting.csv_log import read_rows
from jaxcifar.resilience import manifest, nonfinite
from jaxcifar.resilience.store import Carried, CheckpointStore

_FILES = ("lock", "metrics.csv", "layers.csv", "parameters.txt")


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Checks, before anything is written, that a run does not start from the beginning by mistake.

    Args:
      workdir: directory of the run.
      config: config of this start, which `manifest.check_config` has accepted.

    Raises:
      InputError: if the run has saved checkpoints of which none is left, or one of its files is a
        pipe or a device.
    """
    for name in _FILES:
        check_regular(workdir / name)
    directory = workdir / "checkpoints"
    if CheckpointStore(directory).steps() or (directory.exists() and not directory.is_dir()):
        return
    if reason := _why_it_had_checkpoints(workdir, config):
        raise InputError(
            f"{directory}: no checkpoint, but {reason}\n"
            "To resume, put the checkpoints back. To start from the beginning, choose another "
            f"--workdir or remove {workdir}."
        )


def _why_it_had_checkpoints(workdir: Path, config: ConfigDict) -> str:
    """How a run without checkpoints shows that it had some; "" if it does not."""
    run = manifest.read(workdir)
    if step := manifest.saved_step(run):
        return f"manifest.json says that the run had one at step {step:,} or later"
    if weights := run.get("weights"):
        return f"manifest.json says that the run started from weights in {weights['file']}"
    last_row = _last_row(workdir / "metrics.csv")
    if "config" not in run:
        missing = f"metrics.csv has rows up to step {last_row:,}, and manifest.json is missing too"
        return missing if last_row else ""
    try:
        saved = manifest.saved_config(run)
    except InputError:  # of another version
        return ""
    train_size = datasets.info(config.dataset).train_size - config.dataset.validation_size
    every = durations(saved, train_size).checkpoint_every
    # The second save waits for the first, and with "stop" the run ends if that has failed.
    if saved.checkpoint.on_error == "stop" and last_row > 2 * every:
        return (
            f"metrics.csv has rows up to step {last_row:,}, and the run saved one every {every:,}"
        )
    return ""


def _last_row(path: Path) -> int:
    """The highest step in a table; 0 if there is none."""
    if not path.is_file():
        return 0
    try:
        steps = [row.get("step") or "" for row in read_rows(path)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a table written by jaxcifar; move or repair it") from error
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def check_length(run: Run, step: int) -> None:
    """Checks that a run which resumes from a checkpoint has not passed its last step.

    Raises:
      InputError: if `step`, that of the checkpoint, is after the last step.
    """
    train, plan = run.config.train, run.plan
    if step <= plan.num_steps:
        return
    name = "num_steps" if train.num_steps else "num_epochs"
    raise InputError(
        f"{run.workdir} has already passed the length asked for: it is at step {step:,}, and "
        f"train.{name} = {train[name]} ends at step {plan.num_steps:,}\n"
        f"Nothing was trained or changed. To train on, ask for more than {step:,} steps "
        f"({step / plan.steps_per_epoch:.2f} epochs); to\nevaluate the run as it is, use --mode "
        "eval with its own config; for a shorter run, choose another --workdir."
    )


def notes(run: Run, program: Program, step: int, carried: Carried) -> Iterator[str]:
    """Yields what a run says before it resumes from a checkpoint.

    Args:
      run: the run, whose manifest is still that of the last start.
      program: functions built from its config.
      step: step of the checkpoint.
      carried: what the checkpoint carries.
    """
    file = run.workdir / "manifest.json"
    if manifest.is_missing(run.workdir) and carried["run_manifest"]:
        yield (
            f"warning: {file} was missing; it is made again from checkpoint {step:,}, which has "
            "only the last of the earlier starts"
        )
    elif manifest.is_missing(run.workdir):
        yield (
            f"warning: {file} was missing, and checkpoint {step:,} does not have the config and "
            "the data's fingerprints: whether they are the same could not be checked"
        )
    former = carried["run_manifest"] or manifest.read(run.workdir)
    yield from _rate_notes(run, program, step, former)


def _rate_notes(run: Run, program: Program, step: int, former: dict[str, Any]) -> Iterator[str]:
    """Yields how the config changes the learning rate of the next step, if it does.

    Args:
      run, program, step: see `notes`.
      former: manifest of the run as it was trained up to `step`.
    """
    changes = [
        change
        for change in manifest.config_changes(former, run.config)
        if change["field"].startswith(
            ("schedule.", "optimizer.learning_rate", "train.num_steps", "train.num_epochs")
        )
    ]
    if not changes:
        return
    try:
        saved = manifest.saved_config(former)
        plan = durations(saved, run.splits["train"].size)
    except InputError:  # of another version
        return
    schedule = create_learning_rate(saved, plan, nonfinite.rate_factors(run.workdir))
    before, after = float(schedule(step)), float(program.learning_rate(step))
    if not math.isclose(before, after, rel_tol=1e-6):
        fields = ", ".join(f"{c['field']} from {c['old']} to {c['new']}" for c in changes)
        yield f"learning rate at step {step:,}: {after:.4g} instead of {before:.4g} ({fields})"
