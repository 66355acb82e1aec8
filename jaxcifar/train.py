"""The training loop, to be read from top to bottom."""

import dataclasses
import signal
from pathlib import Path

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from jaxcifar import metrics, parallel, runtime
from jaxcifar.checkpoint import Checkpoints, Progress, Restored
from jaxcifar.config import Durations, durations
from jaxcifar.data import datasets
from jaxcifar.data.datasets import Split
from jaxcifar.errors import StoppedError
from jaxcifar.evaluate import Evaluator, Results
from jaxcifar.failpoint import kill_at
from jaxcifar.feed import by_step, create_feed
from jaxcifar.lock import WriterLock
from jaxcifar.manifest import check_config, record_start
from jaxcifar.steps import Program, TrainState, create_program
from jaxcifar.stopping import Signals
from jaxcifar.validation import validate
from jaxcifar.writers import Throughput, Writers, describe


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
      InputError: if the config cannot be meant, is not that of the run, or has no data; or another
        process trains in the workdir.
      StoppedError: after SIGTERM or SIGINT, once the state is saved; or if it cannot be saved.
    """
    validate(config)
    if not accept_config_change:
        check_config(workdir, config)
    parallel.start(config.train.distributed)
    is_writer = not config.train.distributed or jax.process_index() == 0
    with WriterLock(workdir, active=is_writer) as lock, Signals() as signals:
        return _train(config, workdir, lock, signals)


def _train(config: ConfigDict, workdir: Path, lock: WriterLock, signals: Signals) -> Results:
    parallel.check_batch_size("train.batch_size", config.train.batch_size)
    parallel.check_batch_size(
        "train.batch_size / train.accumulation_steps",
        config.train.batch_size // config.train.accumulation_steps,
    )
    is_first_process = jax.process_index() == 0

    info = datasets.info(config.dataset)
    splits = datasets.load(config.dataset)
    length = durations(config, splits["train"].size)
    program = create_program(config, info, length)

    lock.acquire()
    with Checkpoints(
        workdir / "checkpoints",
        keep_every=length.keep_every,
        timeout=config.checkpoint.timeout_seconds,
    ) as checkpoints:
        start = checkpoints.restore_latest(program.create_state)
        if is_first_process:
            overview = parameter_overview.get_parameter_overview(start.state.params)
            (workdir / "parameters.txt").write_text(overview + "\n")
            record_start(workdir, config, start.step)
        with Writers(
            workdir,
            first_step=start.step,
            num_steps=length.num_steps,
            steps_per_epoch=length.steps_per_epoch,
            tensorboard=config.log.tensorboard,
            active=is_first_process,
            layers=config.log.layers_every_steps > 0,
            allow_zero=config.model.stochastic_depth > 0,
        ) as writers:
            writers.line(_headline(config, splits, start.state, length))
            if settings := runtime.in_effect():
                writers.line(f"CPU settings: {' '.join(settings)} (JAXCIFAR_CPU_SETTINGS=0: off)")
            if start.step:
                writers.line(f"going on from step {start.step:,}, saved in {workdir}")
            results = _loop(config, length, program, splits, start, checkpoints, writers, signals)
            for name, scalars in results.items():
                writers.line(f"done: {name} {describe(scalars)}")
            writers.line(f"{workdir} has checkpoints/, metrics.csv, parameters.txt, manifest.json")
            if config.log.tensorboard:
                writers.line(f"curves: tensorboard --logdir {workdir}")
            checkpoints.wait()
            _report_failure(checkpoints, writers, stop=True)
    return results


def _loop(
    config: ConfigDict,
    length: Durations,
    program: Program,
    splits: dict[str, Split],
    start: Restored,
    checkpoints: Checkpoints,
    writers: Writers,
    signals: Signals,
) -> Results:
    feed = create_feed(
        config,
        program,
        splits["train"],
        first_step=start.step,
        num_steps=length.num_steps,
        next_due=length.next_due,
    )
    evaluator = Evaluator(config, program, splits)
    state, progress = parallel.replicate(start.state), start.progress
    step, in_flight, throughput = start.step, [], Throughput()
    if _stops(config, progress):
        writers.line(f"stopped early before step {start.step:,}")
        return evaluator(state)
    if signalled := max(parallel.gather(signals.received)):
        raise _stopped_by(signalled, step, length.num_steps)

    for call in feed.calls:
        state, sums, layers = feed.train_call(state, *call.arguments)
        step += call.steps
        in_flight.append(sums)
        throughput.add(call.steps * config.train.batch_size)
        writers.step(step)
        _report_failure(checkpoints, writers, stop=config.checkpoint.on_error == "stop")

        due = length.due(step)
        compiled = step == start.step + 1
        # Several processes stop together, where all of them come by.
        signalled = signals.received and jax.process_count() == 1
        if not (compiled or any(due) or signalled):
            continue
        for sums in parallel.fetch(in_flight):
            progress = progress.add(by_step(sums))
        throughput.stop()
        in_flight, save = [], due.save

        if due.log:
            scalars = metrics.summarize(progress.train_sums)
            scalars["learning_rate"] = float(program.learning_rate(step - 1))
            if program.loss_scale:
                scalars["loss_scale"] = float(parallel.fetch(state.loss_scale.scale))
            seconds_left = None
            if rate := throughput.rate():
                scalars["images_per_second"] = rate
                seconds_left = (length.num_steps - step) * config.train.batch_size / rate
            writers.train(step, scalars | parallel.memory(), seconds_left)
            progress = dataclasses.replace(progress, train_sums={})

        if due.watch:
            writers.layers(step, parallel.fetch(layers["statistics"]))
            if config.log.histograms:
                writers.histograms(step, *parallel.fetch((state.params, layers["gradients"])))

        if due.evaluate:
            results = evaluator(state)
            for name, scalars in results.items():
                writers.evaluation(step, name, scalars)
            if "validation" in results:
                score = results["validation"][config.eval.best_metric]
                score = -score if config.eval.best_metric == "loss" else score
                progress = progress.evaluated(step, score, config.train.early_stopping_min_delta)
                save = save or progress.best_step == step

        stop = due.evaluate and _stops(config, progress)
        signalled = max(parallel.gather(signals.received))
        if signalled:
            kill_at("signalled")
        if save or stop or signalled:
            checkpoints.save(step, parallel.fetch(state), progress)
        if stop:
            writers.line(
                f"stopping early at step {step:,}: no better validation {config.eval.best_metric} "
                f"in {progress.stale_evaluations} evaluations; the best was at step "
                f"{progress.best_step:,}"
            )
            break
        if signalled and step < length.num_steps:
            checkpoints.wait()
            _report_failure(checkpoints, writers, stop=True)
            raise _stopped_by(signalled, step, length.num_steps)
        throughput.start()

    return results if start.step < length.num_steps else evaluator(state)


def _stops(config: ConfigDict, progress: Progress) -> bool:
    patience = config.train.early_stopping_patience
    return patience > 0 and progress.stale_evaluations >= patience


def _report_failure(checkpoints: Checkpoints, writers: Writers, *, stop: bool) -> None:
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
        writers.line(f"warning: {failure}")


def _stopped_by(number: int, step: int, num_steps: int) -> StoppedError:
    """What ends a run after a signal, once the state is saved."""
    return StoppedError(
        f"stopped by {signal.Signals(number).name} at step {step:,} of {num_steps:,}; the same "
        f"command goes on from there",
        code=128 + number,
    )


def _headline(
    config: ConfigDict, splits: dict[str, Split], state: TrainState, length: Durations
) -> str:
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    sizes = " + ".join(f"{split.size:,} {name}" for name, split in splits.items())
    parameters = parameter_overview.count_parameters(state.params)
    return (
        f"{devices}, {config.train.precision}; {config.dataset.name}: {sizes} images; "
        f"{config.model.name}: {parameters:,} parameters; {length.num_steps:,} steps of "
        f"{config.train.batch_size} images ({length.num_steps / length.steps_per_epoch:.1f} epochs)"
    )
