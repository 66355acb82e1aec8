"""Metrics over a whole split, in training and from a checkpoint."""

from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jaxcifar import metrics, parallel
from jaxcifar.checkpoint import Checkpoints
from jaxcifar.config import durations, validate
from jaxcifar.data import datasets, tf_pipeline
from jaxcifar.data.datasets import Split
from jaxcifar.manifest import check_config, write_json
from jaxcifar.steps import TrainState, create_program
from jaxcifar.writers import describe


def evaluate(
    eval_step: Callable, state: TrainState, split: Split, batch_size: int
) -> dict[str, float]:
    """Returns the metrics of a replicated state over every example of `split`, counted once.

    Args:
      eval_step: mapped over the devices.
      state: replicated.
      split: the examples.
      batch_size: over all devices; rounded up where they could not share it alike.
    """
    batches = tf_pipeline.eval_batches(
        split,
        batch_size=parallel.round_up_batch_size(batch_size),
        process=jax.process_index(),
        num_processes=jax.process_count(),
    )
    total: dict[str, float] = {}
    for batch in parallel.prefetch(batches):
        total = metrics.add(total, parallel.fetch(eval_step(state, batch)))
    return metrics.summarize(total)


def evaluate_run(config: ConfigDict, workdir: Path) -> dict[str, dict[str, float]]:
    """Evaluates a checkpoint of the run in `workdir`, chosen by `config.eval.checkpoint`.

    Prints the metrics of each split but the training split, and writes them with the step to
    `evaluation.json`.

    Returns:
      The metrics of each of these splits.

    Raises:
      InputError: if the config cannot be meant or is not that of the run, or there is no such
        checkpoint.
    """
    validate(config)
    check_config(workdir, config)
    parallel.start(config.train.distributed)
    info = datasets.info(config.dataset.name)
    train_size = info.train_size - config.dataset.validation_size
    program = create_program(config, info, durations(config, train_size))
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.find(config.eval.checkpoint)
        state, _ = checkpoints.restore(step, program.create_state())

    splits = datasets.load(config.dataset)
    eval_step = parallel.map_eval_step(program.eval_step)
    state = parallel.replicate(state)
    results = {}
    for name in splits.keys() - {"train"}:
        results[name] = evaluate(eval_step, state, splits[name], config.eval.batch_size)
        if jax.process_index() == 0:
            size = splits[name].size
            print(f"{name}, {size:,} images, step {step:,}: {describe(results[name])}")
    if jax.process_index() == 0:
        write_json(workdir / "evaluation.json", {"step": step, **results})
    return results
