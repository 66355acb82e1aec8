"""Metrics over a whole split, in training and from a checkpoint."""

from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jaxcifar import metrics, parallel
from jaxcifar.checkpoint import Checkpoints, Restored
from jaxcifar.config import durations, validate
from jaxcifar.data import datasets
from jaxcifar.data.batches import eval_batches
from jaxcifar.data.datasets import Split
from jaxcifar.manifest import check_config, write_json
from jaxcifar.steps import Program, TrainState, Variables, create_program
from jaxcifar.writers import describe

Results = dict[str, dict[str, float]]


class Evaluator:
    """Evaluates states of a run on every split but the training split; call it with one."""

    def __init__(self, config: ConfigDict, program: Program, splits: dict[str, Split]):
        """Makes the steps ready.

        Args:
          config: see `config.default`.
          program: what it computes.
          splits: by name.
        """
        self._config = config
        self._splits = {name: split for name, split in splits.items() if name != "train"}
        self._eval_step = parallel.map_eval_step(program.eval_step)
        self._weight_levels = None
        if program.weight_levels:
            self._weight_levels = parallel.map_eval_step(program.weight_levels)

    def __call__(self, state: TrainState) -> Results:
        """Returns the scalar metrics of a replicated state by split.

        For the moving average of the weights, if there is one, they are those of "<split>_ema". The
        levels of ternary weights are those of "weights".
        """
        results = {name: metrics.summarize(total) for name, total in self.totals(state).items()}
        if self._weight_levels:
            results["weights"] = parallel.fetch(self._weight_levels(state.variables()))
        return results

    def totals(self, state: TrainState) -> dict[str, metrics.Total]:
        """Returns the metric sums of a replicated state by split, every example counted once."""
        totals = {n: self._total(state.variables(), split) for n, split in self._splits.items()}
        if state.ema:
            totals |= {f"{n}_ema": self._total(state.ema, s) for n, s in self._splits.items()}
        return totals

    def _total(self, variables: Variables, split: Split) -> metrics.Total:
        batch_size = parallel.round_up_batch_size(self._config.eval.batch_size)
        total: metrics.Total = {}
        for batch in parallel.prefetch(eval_batches(split, self._config, batch_size=batch_size)):
            total = metrics.add(total, parallel.fetch(self._eval_step(variables, batch)))
        return total


def evaluate_run(config: ConfigDict, workdir: Path) -> Results:
    """Evaluates a checkpoint of the run in `workdir`, chosen by `config.eval.checkpoint`.

    Prints the scalar metrics of each split but the training split, and the accuracy of each class
    if there are at most 20. Writes the step and, by split, the scalars and `metrics.details` to
    `evaluation.json`.

    Returns:
      The scalar metrics of each of these splits.

    Raises:
      InputError: if the config cannot be meant or is not that of the run, or there is no such
        checkpoint.
    """
    program, (step, state, _) = restore(config, workdir)
    splits = datasets.load(config.dataset)
    totals = Evaluator(config, program, splits).totals(parallel.replicate(state))
    results = {name: metrics.summarize(total) for name, total in totals.items()}
    details = {name: metrics.details(total) for name, total in totals.items()}
    if jax.process_index() == 0:
        for name, scalars in results.items():
            count = f"{int(totals[name]['count']):,} images"
            print(f"{name}, {count}, step {step:,}: {describe(scalars)}")
            accuracies = details[name].get("per_class_accuracy", [])
            if len(accuracies) <= 20:
                print(_class_table(accuracies), end="")
        report = {name: {**results[name], **details[name]} for name in results}
        write_json(workdir / "evaluation.json", {"step": step, **report})
    return results


def _class_table(accuracies: Sequence[float | None]) -> str:
    """Lines of ten classes, numbered from 0, above lines of their accuracies."""
    table = ""
    for start in range(0, len(accuracies), 10):
        row = accuracies[start : start + 10]
        cells = ["-" if accuracy is None else f"{accuracy:.1%}" for accuracy in row]
        table += "  class   " + "".join(f"{start + i:>7}" for i in range(len(row))) + "\n"
        table += "  accuracy" + "".join(f"{cell:>7}" for cell in cells) + "\n"
    return table


def restore(config: ConfigDict, workdir: Path) -> tuple[Program, Restored]:
    """Returns what a config computes, and the checkpoint of the run that it names.

    Raises:
      InputError: as `evaluate_run`.
    """
    validate(config)
    check_config(workdir, config)
    parallel.start(config.train.distributed)
    info = datasets.info(config.dataset)
    train_size = info.train_size - config.dataset.validation_size
    program = create_program(config, info, durations(config, train_size))
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        step = checkpoints.find(config.eval.checkpoint)
        return program, checkpoints.restore(step, program.create_state)
