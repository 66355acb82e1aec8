"""Metrics over a whole split, in training and from a checkpoint."""

from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jaxcifar import metrics, parallel
from jaxcifar.checkpoint import Checkpoints, Restored
from jaxcifar.config import durations, validate
from jaxcifar.data import datasets, tf_pipeline
from jaxcifar.data.datasets import Split
from jaxcifar.manifest import check_config, write_json
from jaxcifar.steps import Program, TrainState, create_program
from jaxcifar.writers import describe

Results = dict[str, dict[str, float]]


def evaluate(
    eval_step: Callable, state: TrainState, splits: dict[str, Split], batch_size: int
) -> Results:
    """Returns the metrics of each split but the training split, every example counted once.

    Args:
      eval_step: mapped over the devices.
      state: replicated.
      splits: by name.
      batch_size: over all devices; rounded up where they could not share it alike.
    """
    results = {}
    for name, split in splits.items():
        if name == "train":
            continue
        batches = tf_pipeline.eval_batches(
            split,
            batch_size=parallel.round_up_batch_size(batch_size),
            process=jax.process_index(),
            num_processes=jax.process_count(),
        )
        total: dict[str, float] = {}
        for batch in parallel.prefetch(batches):
            total = metrics.add(total, parallel.fetch(eval_step(state, batch)))
        results[name] = metrics.summarize(total)
    return results


def evaluate_run(config: ConfigDict, workdir: Path) -> Results:
    """Evaluates a checkpoint of the run in `workdir`, chosen by `config.eval.checkpoint`.

    Prints the metrics of each split but the training split, and writes them with the step to
    `evaluation.json`.

    Returns:
      The metrics of each of these splits.

    Raises:
      InputError: if the config cannot be meant or is not that of the run, or there is no such
        checkpoint.
    """
    program, (step, state, _) = restore(config, workdir)
    splits = datasets.load(config.dataset)
    eval_step = parallel.map_eval_step(program.eval_step)
    results = evaluate(eval_step, parallel.replicate(state), splits, config.eval.batch_size)
    if jax.process_index() == 0:
        for name, scalars in results.items():
            print(f"{name}, {splits[name].size:,} images, step {step:,}: {describe(scalars)}")
        write_json(workdir / "evaluation.json", {"step": step, **results})
    return results


def restore(config: ConfigDict, workdir: Path) -> tuple[Program, Restored]:
    """Returns what a config computes, and the checkpoint of the run that it names.

    Raises:
      InputError: as `evaluate_run`.
    """
    validate(config)
    check_config(workdir, config)
    parallel.start(config.train.distributed)
    info = datasets.info(config.dataset.name)
    train_size = info.train_size - config.dataset.validation_size
    program = create_program(config, info, durations(config, train_size))
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        step = checkpoints.find(config.eval.checkpoint)
        return program, checkpoints.restore(step, program.create_state)
