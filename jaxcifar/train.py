"""The training loop, to be read from top to bottom."""

import dataclasses
from functools import reduce
from pathlib import Path

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from jaxcifar import metrics, parallel
from jaxcifar.checkpoint import Checkpoints, Progress
from jaxcifar.config import Durations, durations, validate
from jaxcifar.data import datasets, tf_pipeline
from jaxcifar.data.datasets import Split
from jaxcifar.evaluate import evaluate
from jaxcifar.manifest import check_config, record_start
from jaxcifar.steps import Program, TrainState, create_program
from jaxcifar.writers import Throughput, Writers

Results = dict[str, dict[str, float]]


def train(config: ConfigDict, workdir: Path, *, accept_config_change: bool = False) -> Results:
    """Trains what the config describes, from the last checkpoint in `workdir` if there is one.

    Leaves in the workdir: `checkpoints/`, `metrics.csv`, TensorBoard's event files,
    `parameters.txt` and `manifest.json`.

    Args:
      config: see `config.default`.
      workdir: of this run alone; made if it is missing.
      accept_config_change: go on even if the run was started with another config.

    Returns:
      The last metrics of each split that was evaluated; none if the run was at its end already.

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
    state = program.create_state()
    headline = _headline(config, splits, state, length)

    workdir.mkdir(parents=True, exist_ok=True)
    with Checkpoints(workdir / "checkpoints", keep_every=length.keep_every) as checkpoints:
        first_step, state, progress = checkpoints.restore_latest(state)
        if is_first_process:
            overview = parameter_overview.get_parameter_overview(state.params)
            (workdir / "parameters.txt").write_text(overview + "\n")
            record_start(workdir, config, first_step)
        with Writers(
            workdir,
            first_step=first_step,
            num_steps=length.num_steps,
            steps_per_epoch=length.steps_per_epoch,
            tensorboard=config.log.tensorboard,
            active=is_first_process,
        ) as writers:
            writers.line(headline)
            if first_step:
                writers.line(f"going on from step {first_step:,}, saved in {workdir}")
            return _loop(
                config, length, program, splits, state, first_step, progress, checkpoints, writers
            )


def _loop(
    config: ConfigDict,
    length: Durations,
    program: Program,
    splits: dict[str, Split],
    state: TrainState,
    first_step: int,
    progress: Progress,
    checkpoints: Checkpoints,
    writers: Writers,
) -> Results:
    batch_size = config.train.batch_size
    batches = tf_pipeline.train_batches(
        splits["train"],
        config.augment,
        batch_size=batch_size,
        seed=config.train.seed,
        first_step=first_step,
        num_steps=length.num_steps,
        process=jax.process_index(),
        num_processes=jax.process_count(),
    )
    train_step = parallel.map_train_step(program.train_step)
    eval_step = parallel.map_eval_step(program.eval_step)
    state = parallel.replicate(state)
    in_flight, results, throughput = [], {}, Throughput()

    for step, batch in enumerate(parallel.prefetch(batches), first_step + 1):
        state, sums = train_step(state, batch)
        in_flight.append(sums)
        writers.step(step)

        compiled = step == first_step + 1
        last = step == length.num_steps
        log = last or step % config.log.every_steps == 0
        evaluation = last or step % length.eval_every == 0
        save = last or step % length.checkpoint_every == 0
        save = save or (length.keep_every and step % length.keep_every == 0)
        if not (compiled or log or evaluation or save):
            continue

        total = reduce(metrics.add, parallel.fetch(in_flight), progress.train_sums)
        progress = dataclasses.replace(progress, train_sums=total)
        throughput.stop(len(in_flight) * batch_size)
        in_flight = []

        if log:
            scalars = metrics.summarize(total)
            scalars["learning_rate"] = float(program.learning_rate(step - 1))
            seconds_left = None
            if rate := throughput.rate():
                scalars["images_per_second"] = rate
                seconds_left = (length.num_steps - step) * batch_size / rate
            writers.train(step, scalars, seconds_left)
            progress = dataclasses.replace(progress, train_sums={})

        if evaluation:
            for name in splits.keys() - {"train"}:
                results[name] = evaluate(eval_step, state, splits[name], config.eval.batch_size)
                writers.evaluation(step, name, results[name])
            accuracy = results.get("validation", {}).get("accuracy", -1.0)
            if accuracy > progress.best_accuracy:
                progress = dataclasses.replace(progress, best_step=step, best_accuracy=accuracy)
                save = True

        if save:
            checkpoints.save(step, parallel.fetch(state), progress)
        throughput.start()
    return results


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
