"""The training loop, to be read from top to bottom."""

import sys
from pathlib import Path

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from jaxcifar import devices, environment, resume
from jaxcifar.attempt import Attempt, Run
from jaxcifar.config import durations
from jaxcifar.config.validation import validate
from jaxcifar.data import datasets
from jaxcifar.data.first_look import look_through
from jaxcifar.errors import StoppedError
from jaxcifar.evaluate import Results
from jaxcifar.kernels import backend, native
from jaxcifar.program import Program, create_program
from jaxcifar.reporting.format import describe
from jaxcifar.reporting.run_logger import RunLogger
from jaxcifar.resilience import arithmetic, dataset_facts, nonfinite, processes
from jaxcifar.resilience.checkpoint import Checkpoints, Restored
from jaxcifar.resilience.data_check import check_splits
from jaxcifar.resilience.files import write_text
from jaxcifar.resilience.lock import WriterLock
from jaxcifar.resilience.manifest import (
    check_config,
    record_end,
    record_start,
    saved_arithmetic,
)
from jaxcifar.resilience.nonfinite import NonFinite
from jaxcifar.resilience.peers import Peers
from jaxcifar.resilience.signals import Signals


def train(
    config: ConfigDict, workdir: Path, *, accept_config_change: bool = False, note: str = ""
) -> Results:
    """Trains a config's network, resuming from the last checkpoint in `workdir` if there is one.

    Leaves in the workdir: `checkpoints/`, `metrics.csv`, TensorBoard event files,
    `parameters.txt` and `manifest.json`.

    Args:
      config: see `config.default`.
      workdir: directory of this run alone; created if it is missing.
      accept_config_change: resume even if the config differs from the one the run was started with,
        or if the convolutions give other bits.
      note: line to print first.

    Returns:
      The metrics of each split except the training split, at the last step.

    Raises:
      InputError: if the config is invalid or differs from the run's, the data is missing or differs
        from the run's, or another process trains in the workdir.
      NonFinite: an `InputError`; if a step or an evaluation produces NaN or infinity, unless
        `train.on_nonfinite` and `train.nonfinite_limit` let the run continue.
      StoppedError: after SIGTERM or SIGINT, once the state is saved; or if it cannot be saved.
    """
    validate(config)
    check_config(workdir, config, accept=accept_config_change)
    resume.check_workdir(workdir, config)
    if config.train.deterministic:
        environment.make_deterministic()
    with (
        Peers(config.train.distributed, config.train.peer_timeout_seconds) as peers,
        WriterLock(workdir, active=peers.process == 0) as lock,
        Signals() as signals,
    ):
        processes.barrier()
        _print_once(note)
        return _train(config, workdir, lock, signals, peers, accept_config_change)


def _train(
    config: ConfigDict,
    workdir: Path,
    lock: WriterLock,
    signals: Signals,
    peers: Peers,
    accept_change: bool,
) -> Results:
    """Loads the data and makes attempts until one reaches the end."""
    devices.check_batch_size("train.batch_size", config.train.batch_size)
    devices.check_batch_size(
        "train.batch_size / train.accumulation_steps",
        config.train.batch_size // config.train.accumulation_steps,
    )
    info = dataset_facts.with_recorded(workdir, datasets.info(config.dataset))
    splits = datasets.load(config.dataset)
    fingerprints = check_splits(workdir, splits, config.dataset.fingerprint)
    if jax.process_index() == 0:
        _print_once(look_through(splits, config.dataset))
    processes.barrier()  # the others write nothing before
    plan = durations(config, splits["train"].size)
    _check_arithmetic(config, workdir, plan.num_steps, accept_change)
    lock.acquire()
    if len(np.unique(splits["train"].labels)) == 1:
        _print_once("warning: all training images are of one class; there is nothing to learn")
    run = Run(config, workdir, info, splits, fingerprints, plan, signals, peers, lock)
    factors = nonfinite.rate_factors(workdir)
    while True:
        images = getattr(splits["train"], "images", None)
        program = create_program(config, info, plan, factors, images)
        try:
            return _attempt(run, program)
        except NonFinite as error:
            lock.check()
            steps = Checkpoints(workdir / "checkpoints", create=False).steps()
            last_saved = processes.gather_int(max(steps, default=-1))[0]
            factors = nonfinite.roll_back(config.train, workdir, factors, error, last_saved)


def _check_arithmetic(config: ConfigDict, workdir: Path, num_steps: int, accept: bool) -> None:
    """Checks the convolutions and threads of a run that is about to be trained further."""
    last_step = max(Checkpoints(workdir / "checkpoints", create=False).steps(), default=0)
    if jax.process_index() == 0 and last_step < num_steps:
        saved = saved_arithmetic(workdir, last_step)
        for warning in arithmetic.check(workdir, saved, config, accept=accept):
            print(f"warning: {warning}", file=sys.stderr)


def _attempt(run: Run, program: Program) -> Results:
    """Trains from the last checkpoint to the end, and records the end once all of it is on disk."""
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
        ) as log:
            if is_first_process:
                overview = parameter_overview.get_parameter_overview(start.state.params)
                write_text(workdir / "parameters.txt", overview + "\n")
                record_start(workdir, config, start.step, run.fingerprints)
                dataset_facts.record(workdir, run.info, datasets.class_names(config.dataset))
            _print_start(run, start, notes, log)
            attempt = Attempt(run, program, start, checkpoints, log)
            try:
                results = _loop(attempt)
            except NonFinite as error:
                _stop_if_saving(checkpoints, error)
                raise
            attempt.finish_saves()
            if is_first_process:
                record_end(workdir, attempt.step, devices.fetch(attempt.state), results)
            processes.barrier()
            for name, scalars in results.items():
                log.print(f"done: {name} {describe(scalars)}")
            log.print(f"{workdir} has checkpoints/, metrics.csv, parameters.txt, manifest.json")
            if log.writes_events:
                log.print(f"curves: tensorboard --logdir {workdir}")
    return results


def _loop(attempt: Attempt) -> Results:
    """Trains to the end, or until early stopping or a signal; returns the last results."""
    if attempt.is_out_of_patience():
        attempt.log.print(f"stopped early before step {attempt.step:,}")
        return attempt.last_results()
    attempt.stop_if_signalled(attempt.agreed_signal())

    for call in attempt.calls():
        attempt.run_call(call)
        due = attempt.plan.due(attempt.step)
        if not (any(due) or attempt.is_first_call or attempt.is_signalled_alone()):
            continue
        attempt.collect()
        if due.log:
            attempt.log_training()
        if due.layer_stats:
            attempt.log_layers()
        is_best = due.evaluate and attempt.evaluate()
        stops_early = due.evaluate and attempt.is_out_of_patience()
        signalled = attempt.agreed_signal()
        if due.save or is_best or stops_early or signalled:
            attempt.save()
        if stops_early:
            attempt.print_early_stop()
            break
        attempt.stop_if_signalled(signalled)
        attempt.throughput.start()

    return attempt.last_results()


def _stop_if_saving(checkpoints: Checkpoints, error: NonFinite) -> None:
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


def _print_once(line: str) -> None:
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
