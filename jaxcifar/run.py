"""What happens to a run before its first step and after its last."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from jaxcifar import devices, environment, resume
from jaxcifar.attempt import Attempt, Run
from jaxcifar.config import durations
from jaxcifar.data import datasets
from jaxcifar.data.first_look import look_through
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.split import Split
from jaxcifar.errors import StoppedError
from jaxcifar.evaluate import Evaluator, Results
from jaxcifar.kernels import backend, native
from jaxcifar.program import Program
from jaxcifar.reporting.console import Console
from jaxcifar.reporting.format import describe
from jaxcifar.reporting.run_logger import RunLogger
from jaxcifar.resilience import arithmetic, dataset_facts, nonfinite, processes
from jaxcifar.resilience.checkpoint import Checkpoints, Restored
from jaxcifar.resilience.data_check import check_splits
from jaxcifar.resilience.files import write_text
from jaxcifar.resilience.lock import WriterLock
from jaxcifar.resilience.manifest import record_end, record_start, saved_arithmetic
from jaxcifar.resilience.nonfinite import NonFinite
from jaxcifar.resilience.peers import Peers
from jaxcifar.resilience.signals import Signals


def load_splits(config: ConfigDict) -> dict[str, Split | FolderSplit]:
    """Loads the data of a config, once its batches are known to suit the devices.

    Raises:
      InputError: if they do not, or the data is missing.
    """
    devices.check_batch_size("train.batch_size", config.train.batch_size)
    devices.check_batch_size(
        "train.batch_size / train.accumulation_steps",
        config.train.batch_size // config.train.accumulation_steps,
    )
    return datasets.load(config.dataset)


def open_run(
    config: ConfigDict,
    workdir: Path,
    splits: dict[str, Split | FolderSplit],
    lock: WriterLock,
    signals: Signals,
    peers: Peers,
    accept_change: bool = False,
) -> Run:
    """Checks the data and the processor against those of earlier starts, and takes the lock.

    Raises:
      InputError: see `train`.
    """
    info = dataset_facts.with_recorded(workdir, datasets.info(config.dataset))
    fingerprints = check_splits(workdir, splits, config.dataset.fingerprint)
    if jax.process_index() == 0:
        print_once(look_through(splits, config.dataset))
    processes.barrier()  # the others write nothing before
    plan = durations(config, splits["train"].size)
    _check_arithmetic(config, workdir, plan.num_steps, accept_change)
    lock.acquire()
    if len(np.unique(splits["train"].labels)) == 1:
        print_once("warning: all training images are of one class; there is nothing to learn")
    return Run(config, workdir, info, splits, fingerprints, plan, signals, peers, lock)


@contextmanager
def begin(
    run: Run,
    program: Program,
    evaluator: Evaluator | None = None,
    console: Console | None = None,
) -> Iterator[Attempt]:
    """Opens a run's files, restores its last checkpoint, and records and prints the start.

    Args:
      run: what all attempts share.
      program: functions built from the config.
      evaluator: see `Attempt`.
      console: where messages go; None for standard output.
    """
    config, workdir, plan = run.config, run.workdir, run.plan
    is_first_process = jax.process_index() == 0
    with Checkpoints(
        workdir / "checkpoints",
        keep_every=plan.keep_every,
        timeout=config.checkpoint.timeout_seconds,
        check=run.lock.check,
    ) as checkpoints:
        start = checkpoints.restore_latest(program.create_state)
        resume.check_length(run, start.step)
        carried = checkpoints.carried(start.step)
        notes = list(resume.notes(run, program, start.step, carried)) if carried else []
        with RunLogger(
            workdir,
            first_step=start.step,
            num_steps=plan.num_steps,
            steps_per_epoch=plan.steps_per_epoch,
            tensorboard=config.log.tensorboard,
            active=is_first_process,
            layers=plan.layer_stats_every > 0,
            allow_zero=config.model.stochastic_depth > 0,
            histograms=config.log.histograms,
            expected_rows=carried.get("rows"),
            console=console,
        ) as log:
            if is_first_process:
                overview = parameter_overview.get_parameter_overview(start.state.params)
                write_text(workdir / "parameters.txt", overview + "\n")
                record_start(workdir, config, start.step, run.fingerprints)
                dataset_facts.record(workdir, run.info, datasets.class_names(config.dataset))
            _print_start(run, start, notes, log)
            yield Attempt(run, program, start, checkpoints, log, evaluator)


def end(run: Run, attempt: Attempt, results: Results) -> None:
    """Waits for the last save, and records and prints the end of a run.

    Raises:
      StoppedError: if the save failed.
    """
    attempt.finish_saves()
    if jax.process_index() == 0:
        record_end(run.workdir, attempt.step, devices.fetch(attempt.state), results)
    processes.barrier()
    for name, scalars in results.items():
        attempt.log.print(f"done: {name} {describe(scalars)}")
    attempt.log.print(f"{run.workdir} has checkpoints/, metrics.csv, parameters.txt, manifest.json")
    if attempt.log.writes_events:
        attempt.log.print(f"curves: tensorboard --logdir {run.workdir}")


def stop_if_saving(checkpoints: Checkpoints, error: NonFinite) -> None:
    """Stops instead of rolling back if a save has stalled: it could still finish at any time.

    Raises:
      StoppedError: if the last save takes longer than it may.
    """
    checkpoints.wait()
    if checkpoints.stalled:
        raise StoppedError(
            f"error: {error}\nTraining stopped, because its last checkpoint is still being "
            "written. Rerun the same command to resume from the last intact one.",
            at_once=True,
        ) from error


def roll_back(
    run: Run, factors: list[tuple[int, float]], error: NonFinite
) -> list[tuple[int, float]]:
    """Records a rollback to the last checkpoint, and returns the learning-rate factors with it.

    Raises:
      NonFinite: if the config allows none, or no more.
    """
    run.lock.check()
    steps = Checkpoints(run.workdir / "checkpoints", create=False).steps()
    last_saved = processes.gather_int(max(steps, default=-1))[0]
    return nonfinite.roll_back(run.config.train, run.workdir, factors, error, last_saved)


def _check_arithmetic(config: ConfigDict, workdir: Path, num_steps: int, accept: bool) -> None:
    """Checks the convolutions and threads of a run that is about to be trained further."""
    last_step = max(Checkpoints(workdir / "checkpoints", create=False).steps(), default=0)
    if jax.process_index() == 0 and last_step < num_steps:
        saved = saved_arithmetic(workdir, last_step)
        for warning in arithmetic.check(workdir, saved, config, accept=accept):
            print(f"warning: {warning}", file=sys.stderr)


def print_once(line: str) -> None:
    """Prints a line, unless it is empty, in the first process only."""
    if line and jax.process_index() == 0:
        print(line, flush=True)


def _print_start(run: Run, start: Restored, notes: list[str], log: RunLogger) -> None:
    """Prints the devices, data, model, length and CPU settings, and where the run resumes."""
    config, plan = run.config, run.plan
    hardware = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    sizes = " + ".join(f"{split.size:,} {name}" for name, split in run.splits.items())
    parameters = int(parameter_overview.count_parameters(start.state.params))
    log.print(
        f"{hardware}, {config.train.precision}; {config.dataset.name}: {sizes} images; "
        f"{config.model.name}: {parameters:,} parameters; {plan.num_steps:,} steps of "
        f"{config.train.batch_size} images ({plan.num_steps / plan.steps_per_epoch:.1f} epochs)"
    )
    settings = environment.in_effect()
    if backend.is_cpu() and (compiler := native.compiler()):
        settings.append(f"convolutions by {compiler}")
    if settings:
        log.print(f"CPU settings: {' '.join(settings)} (JAXCIFAR_CPU_SETTINGS=0: off)")
    if start.step:
        log.print(f"resuming from step {start.step:,} in {run.workdir}")
    for note in notes:
        log.print(note)
