"""The training loop, to be read from top to bottom."""

import dataclasses
from pathlib import Path

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from jaxcifar import metrics, parallel
from jaxcifar.checkpoint import Checkpoints, Restored
from jaxcifar.config import Durations, durations, validate
from jaxcifar.data import datasets, tf_pipeline
from jaxcifar.data.datasets import Split
from jaxcifar.evaluate import Results, evaluate
from jaxcifar.manifest import check_config, record_start
from jaxcifar.steps import Program, TrainState, create_program
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
      InputError: if the config cannot be meant, is not that of the run, or has no data.
    """
    validate(config)
    if not accept_config_change:
        check_config(workdir, config)
    parallel.start(config.train.distributed)
    parallel.check_batch_size("train.batch_size", config.train.batch_size)
    is_first_process = jax.process_index() == 0

    info = datasets.info(config.dataset.name)
    splits = datasets.load(config.dataset)
    length = durations(config, splits["train"].size)
    program = create_program(config, info, length)

    workdir.mkdir(parents=True, exist_ok=True)
    with Checkpoints(workdir / "checkpoints", keep_every=length.keep_every) as checkpoints:
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
        ) as writers:
            writers.line(_headline(config, splits, start.state, length))
            if start.step:
                writers.line(f"going on from step {start.step:,}, saved in {workdir}")
            results = _loop(config, length, program, splits, start, checkpoints, writers)
            for name, scalars in results.items():
                writers.line(f"done: {name} {describe(scalars)}")
            writers.line(f"{workdir} has checkpoints/, metrics.csv, parameters.txt, manifest.json")
            if config.log.tensorboard:
                writers.line(f"curves: tensorboard --logdir {workdir}")
    return results


def _loop(
    config: ConfigDict,
    length: Durations,
    program: Program,
    splits: dict[str, Split],
    start: Restored,
    checkpoints: Checkpoints,
    writers: Writers,
) -> Results:
    train_step = parallel.map_train_step(program.train_step)
    eval_step = parallel.map_eval_step(program.eval_step)
    if program.weight_levels:
        weight_levels = parallel.map_eval_step(program.weight_levels)
    state, progress = parallel.replicate(start.state), start.progress
    batches = tf_pipeline.train_batches(
        splits["train"],
        config.augment,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        first_step=start.step,
        num_steps=length.num_steps,
        process=jax.process_index(),
        num_processes=jax.process_count(),
    )
    in_flight, throughput = [], Throughput()

    for step, batch in enumerate(parallel.prefetch(batches), start.step + 1):
        state, sums = train_step(state, batch)
        in_flight.append(sums)
        writers.step(step)

        last = step == length.num_steps
        log = last or step % config.log.every_steps == 0
        evaluation = last or step % length.eval_every == 0
        save = last or step % length.checkpoint_every == 0
        save = save or (length.keep_every > 0 and step % length.keep_every == 0)
        compiled = step == start.step + 1
        if not (log or evaluation or save or compiled):
            continue

        progress = progress.add(parallel.fetch(in_flight))
        throughput.stop(len(in_flight) * config.train.batch_size)
        in_flight = []

        if log:
            scalars = metrics.summarize(progress.train_sums)
            scalars["learning_rate"] = float(program.learning_rate(step - 1))
            seconds_left = None
            if rate := throughput.rate():
                scalars["images_per_second"] = rate
                seconds_left = (length.num_steps - step) * config.train.batch_size / rate
            writers.train(step, scalars, seconds_left)
            progress = dataclasses.replace(progress, train_sums={})

        if evaluation:
            results = evaluate(eval_step, state, splits, config.eval.batch_size)
            for name, scalars in results.items():
                writers.evaluation(step, name, scalars)
            if program.weight_levels:
                writers.evaluation(step, "weights", parallel.fetch(weight_levels(state)))
            accuracy = results.get("validation", {}).get("accuracy", -1.0)
            if accuracy > progress.best_accuracy:
                progress = dataclasses.replace(progress, best_step=step, best_accuracy=accuracy)
                save = True

        if save:
            checkpoints.save(step, parallel.fetch(state), progress)
        throughput.start()

    if start.step < length.num_steps:
        return results
    return evaluate(eval_step, state, splits, config.eval.batch_size)


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
