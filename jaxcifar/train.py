"""The training loop, to be read from top to bottom."""

import dataclasses
import signal
from pathlib import Path
from typing import NamedTuple

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from jaxcifar import devices, environment, metrics
from jaxcifar.config import Durations, durations
from jaxcifar.config.validation import validate
from jaxcifar.data import datasets
from jaxcifar.data.datasets import Split
from jaxcifar.errors import StoppedError
from jaxcifar.evaluate import Evaluator, Results
from jaxcifar.feed import by_step, create_feed
from jaxcifar.kernels import native
from jaxcifar.reporting.format import describe
from jaxcifar.reporting.run_logger import RunLogger
from jaxcifar.reporting.throughput import Throughput
from jaxcifar.resilience import nonfinite, processes
from jaxcifar.resilience.checkpoint import Checkpoints, Restored
from jaxcifar.resilience.failpoints import kill_at
from jaxcifar.resilience.lock import WriterLock
from jaxcifar.resilience.manifest import check_config, check_data, record_end, record_start
from jaxcifar.resilience.nonfinite import NonFinite
from jaxcifar.resilience.peers import Peers
from jaxcifar.resilience.progress import Progress
from jaxcifar.resilience.signals import Signals
from jaxcifar.steps import Program, TrainState, create_program


class Run(NamedTuple):
    """A run, as all its attempts have it: after a rollback training begins again from a checkpoint.

    Attributes:
      config: validated.
      workdir: of this run alone.
      splits: the data.
      fingerprints: of the splits.
      length: when what is due.
      signals: that the process has received.
      peers: the other processes.
    """

    config: ConfigDict
    workdir: Path
    splits: dict[str, Split]
    fingerprints: dict[str, str]
    length: Durations
    signals: Signals
    peers: Peers


def train(config: ConfigDict, workdir: Path, *, accept_config_change: bool = False) -> Results:
    """Trains what the config describes, from the last checkpoint in `workdir` if there is one.

    Leaves in the workdir: `checkpoints/`, `metrics.csv`, TensorBoard's event files,
    `parameters.txt` and `manifest.json`.

    Args:
      config: see `config.default`.
      workdir: of this run alone; made if it is missing.
      accept_config_change: go on even if the run was started with another config.

    Returns:
      The metrics of each split but the training split at the last step.

    Raises:
      InputError: if the config cannot be meant, is not that of the run, or has no data or others
        than the run; or another process trains in the workdir; a `NonFinite`, if numbers of a step
        are not finite, as `train.on_nonfinite` says.
      StoppedError: after SIGTERM or SIGINT, once the state is saved; or if it cannot be saved.
    """
    validate(config)
    check_config(workdir, config, accept=accept_config_change)
    if config.train.deterministic:
        environment.make_deterministic()
    with (
        Peers(config.train.distributed, config.train.peer_timeout_seconds) as peers,
        WriterLock(workdir, active=peers.process == 0) as lock,
        Signals() as signals,
    ):
        processes.barrier()
        return _train(config, workdir, lock, signals, peers)


def _train(
    config: ConfigDict, workdir: Path, lock: WriterLock, signals: Signals, peers: Peers
) -> Results:
    devices.check_batch_size("train.batch_size", config.train.batch_size)
    devices.check_batch_size(
        "train.batch_size / train.accumulation_steps",
        config.train.batch_size // config.train.accumulation_steps,
    )

    info = datasets.info(config.dataset)
    splits = datasets.load(config.dataset)
    fingerprints = datasets.fingerprints(splits)
    check_data(workdir, fingerprints)
    length = durations(config, splits["train"].size)
    lock.acquire()
    run = Run(config, workdir, splits, fingerprints, length, signals, peers)
    factors = nonfinite.rate_factors(workdir)
    while True:
        program = create_program(config, info, length, factors)
        try:
            results, step, state = _attempt(run, program)
            break
        except NonFinite as error:
            steps = Checkpoints(workdir / "checkpoints", create=False).steps()
            saved = processes.gather_int(max(steps, default=-1))[0]
            factors = nonfinite.roll_back(config, workdir, factors, error, saved)
    # The run's checkpoints are closed, and so all on the disk.
    if jax.process_index() == 0:
        record_end(workdir, step, state, results)
    processes.barrier()
    return results


def _attempt(run: Run, program: Program) -> tuple[Results, int, TrainState]:
    """Trains from the last checkpoint; returns what `_loop` does."""
    config, workdir, length = run.config, run.workdir, run.length
    is_first_process = jax.process_index() == 0
    with Checkpoints(
        workdir / "checkpoints",
        keep_every=length.keep_every,
        timeout=config.checkpoint.timeout_seconds,
    ) as checkpoints:
        start = checkpoints.restore_latest(program.create_state)
        if is_first_process:
            overview = parameter_overview.get_parameter_overview(start.state.params)
            (workdir / "parameters.txt").write_text(overview + "\n")
            record_start(workdir, config, start.step, run.fingerprints)
        with RunLogger(
            workdir,
            first_step=start.step,
            num_steps=length.num_steps,
            steps_per_epoch=length.steps_per_epoch,
            tensorboard=config.log.tensorboard,
            active=is_first_process,
            histograms=config.log.histograms,
            layers=length.watch_every > 0,
            allow_zero=config.model.stochastic_depth > 0,
        ) as writers:
            writers.print(_headline(run, start.state))
            if settings := _cpu_settings():
                writers.print(f"CPU settings: {' '.join(settings)} (JAXCIFAR_CPU_SETTINGS=0: off)")
            if start.step:
                writers.print(f"going on from step {start.step:,}, saved in {workdir}")
            try:
                results, step, state = _loop(run, program, start, checkpoints, writers)
            except NonFinite as error:
                checkpoints.wait()
                if checkpoints.stalled:  # it could be whole at any time from now on
                    raise StoppedError(
                        f"error: {error}\nThe run has stopped, as its last checkpoint is still not "
                        "written. The same command goes on from the last whole one.",
                        at_once=True,
                    ) from error
                raise
            for name, scalars in results.items():
                writers.print(f"done: {name} {describe(scalars)}")
            writers.print(f"{workdir} has checkpoints/, metrics.csv, parameters.txt, manifest.json")
            if writers.writes_events:
                writers.print(f"curves: tensorboard --logdir {workdir}")
            _finish(config, checkpoints, writers, step)
    return results, step, state


def _loop(
    run: Run, program: Program, start: Restored, checkpoints: Checkpoints, writers: RunLogger
) -> tuple[Results, int, TrainState]:
    """Trains to the end; returns the metrics, the last step and the state, fetched."""
    config, length, signals, peers = run.config, run.length, run.signals, run.peers
    feed = create_feed(
        config,
        program,
        run.splits["train"],
        first_step=start.step,
        num_steps=length.num_steps,
        next_due=length.next_due,
    )
    evaluator = Evaluator(config, program, run.splits)
    state, progress = devices.replicate(start.state), start.progress
    step, in_flight, throughput = start.step, [], Throughput()
    peers.step = step
    if _stops(config, progress):
        writers.print(f"stopped early before step {start.step:,}")
        return evaluator(state), step, start.state
    if signalled := max(processes.gather_int(signals.received)):
        raise _stopped_by(signalled, step, length.num_steps)

    for call in feed.calls:
        state, sums, layers = feed.train_call(state, *call.arguments)
        in_flight.append((step, sums))
        step += call.steps
        peers.step = step
        throughput.add(call.steps * config.train.batch_size)
        writers.show_step(step)
        _report_failure(checkpoints, writers, stop=config.checkpoint.on_error == "stop")

        due = length.due(step)
        compiled = step == start.step + 1
        # Several processes stop together, where all of them come by.
        signalled = signals.received and jax.process_count() == 1
        if not (compiled or any(due) or signalled):
            continue
        for first_step, sums in in_flight:
            done = by_step(devices.fetch(sums))
            nonfinite.check_steps(config, first_step, done, progress.skipped_steps, state)
            progress = progress.add(done)
        throughput.stop()
        in_flight, save = [], due.save

        if due.log:
            scalars = metrics.summarize(progress.train_sums) if progress.train_sums else {}
            scalars["learning_rate"] = float(program.learning_rate(step - 1))
            if program.loss_scale:
                scalars["loss_scale"] = float(devices.fetch(state.loss_scale.scale))
            if config.train.on_nonfinite == "skip":
                scalars["skipped_steps"] = progress.skipped_steps
            seconds_left = None
            if rate := throughput.rate():
                scalars["images_per_second"] = rate
                seconds_left = (length.num_steps - step) * config.train.batch_size / rate
            writers.log_train(step, scalars | devices.memory(), seconds_left)
            progress = dataclasses.replace(progress, train_sums={})

        if due.watch:
            writers.log_layers(step, devices.fetch(layers["statistics"]))
            if config.log.histograms:
                writers.log_histograms(step, *devices.fetch((state.params, layers["gradients"])))

        if due.evaluate:
            results = evaluator(state)
            for name, scalars in results.items():
                writers.log_evaluation(step, name, scalars)
            if "validation" in results:
                score = results["validation"][config.eval.best_metric]
                score = -score if config.eval.best_metric == "loss" else score
                progress = progress.evaluated(step, score, config.train.early_stopping_min_delta)
                save = save or progress.best_step == step

        stop = due.evaluate and _stops(config, progress)
        signalled = max(processes.gather_int(signals.received))
        if signalled:
            kill_at("signalled")
        if save or stop or signalled:
            fetched = devices.fetch(state)
            nonfinite.check_state(step, fetched)
            checkpoints.save(step, fetched, progress)
        if stop:
            writers.print(
                f"stopping early at step {step:,}: no better validation {config.eval.best_metric} "
                f"in {progress.stale_evaluations} evaluations; the best was at step "
                f"{progress.best_step:,}"
            )
            break
        if signalled and step < length.num_steps:
            _finish(config, checkpoints, writers, step)
            processes.barrier()
            raise _stopped_by(signalled, step, length.num_steps)
        throughput.start()

    results = results if start.step < length.num_steps else evaluator(state)
    return results, step, devices.fetch(state)


def _stops(config: ConfigDict, progress: Progress) -> bool:
    patience = config.train.early_stopping_patience
    return patience > 0 and progress.stale_evaluations >= patience


def _finish(config: ConfigDict, checkpoints: Checkpoints, writers: RunLogger, step: int) -> None:
    """Waits for the last save, which was that of `step`, and reports all failures.

    Raises:
      StoppedError: if that save failed or, where `checkpoint.on_error` is stop, any.
    """
    missing = step not in checkpoints.steps()
    _report_failure(checkpoints, writers, stop=missing or config.checkpoint.on_error == "stop")


def _report_failure(checkpoints: Checkpoints, writers: RunLogger, *, stop: bool) -> None:
    """Says what is newly known to have gone wrong with a save, and stops the run if that is asked.

    Raises:
      StoppedError: to stop it.
    """
    while failure := checkpoints.failure():
        if stop:
            raise StoppedError(
                f"error: {failure}\nThe run has stopped. Once that is mended, the same command "
                "goes on from the last whole checkpoint.",
                at_once=checkpoints.stalled,
            )
        writers.print(f"warning: {failure}")


def _stopped_by(number: int, step: int, num_steps: int) -> StoppedError:
    """What ends a run after a signal, once the state is saved."""
    return StoppedError(
        f"stopped by {signal.Signals(number).name} at step {step:,} of {num_steps:,}; the same "
        f"command goes on from there",
        code=128 + number,
    )


def _headline(run: Run, state: TrainState) -> str:
    config, length = run.config, run.length
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    sizes = " + ".join(f"{split.size:,} {name}" for name, split in run.splits.items())
    parameters = parameter_overview.count_parameters(state.params)
    return (
        f"{devices}, {config.train.precision}; {config.dataset.name}: {sizes} images; "
        f"{config.model.name}: {parameters:,} parameters; {length.num_steps:,} steps of "
        f"{config.train.batch_size} images ({length.num_steps / length.steps_per_epoch:.1f} epochs)"
    )


def _cpu_settings() -> list[str]:
    compiler = native.compiler() if jax.default_backend() == "cpu" else None
    return environment.in_effect() + ([f"convolutions by {compiler}"] if compiler else [])
