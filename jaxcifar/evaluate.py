"""Metrics over a whole split, in training and from a checkpoint."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from jaxcifar import devices, metrics
from jaxcifar.config import durations
from jaxcifar.config.validation import validate
from jaxcifar.data import datasets, device_pipeline
from jaxcifar.data.batches import eval_batches
from jaxcifar.data.datasets import Split
from jaxcifar.errors import InputError
from jaxcifar.reporting.writers import describe
from jaxcifar.resilience.checkpoint import Checkpoints, Restored
from jaxcifar.resilience.failpoints import kill_at
from jaxcifar.resilience.manifest import check_config, write_json
from jaxcifar.resilience.peers import Peers
from jaxcifar.steps import Program, TrainState, Variables, create_program

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
        self._eval_step = devices.map_eval_step(program.eval_step)
        self._predict_step = devices.map_eval_step(program.predict_step)
        self._resident = None
        if all(split.on_device for split in self._splits.values()):
            batch_size = devices.round_up_batch_size(config.eval.batch_size)
            share = batch_size // jax.device_count()
            self._resident = {
                name: devices.replicate(device_pipeline.as_resident(split))
                for name, split in self._splits.items()
            }
            self._eval_resident = {
                name: devices.map_eval_step(
                    partial(_eval_resident, program.eval_step, -(-split.size // batch_size), share)
                )
                for name, split in self._splits.items()
            }
        self._weight_levels = None
        if program.weight_levels:
            self._weight_levels = devices.map_eval_step(program.weight_levels)

    def __call__(self, state: TrainState) -> Results:
        """Returns the scalar metrics of a replicated state by split.

        For the moving average of the weights, if there is one, they are those of "<split>_ema". The
        levels of ternary weights are those of "weights".
        """
        results = {name: metrics.summarize(total) for name, total in self.totals(state).items()}
        if self._weight_levels:
            results["weights"] = devices.fetch(self._weight_levels(state.variables()))
        return results

    def totals(self, state: TrainState) -> dict[str, metrics.Total]:
        """Returns the metric sums of a replicated state by split, every example counted once."""
        totals = {name: self._total(state.variables(), name) for name in self._splits}
        if state.ema:
            totals |= {f"{name}_ema": self._total(state.ema, name) for name in self._splits}
        return totals

    def predictions(self, state: TrainState) -> dict[str, np.ndarray]:
        """Returns `<split>_logits` float32 [N, classes] and `<split>_labels` int32 [N].

        In the order of the split; an image that cannot be decoded is left out.

        Args:
          state: replicated.
        """
        arrays = {}
        variables = {"": state.variables()} | ({"_ema": state.ema} if state.ema else {})
        for (name, split), (suffix, of) in product(self._splits.items(), variables.items()):
            logits, labels = [], []
            batch_size = devices.round_up_batch_size(self._config.eval.batch_size)
            for batch in devices.prefetch(eval_batches(split, self._config, batch_size=batch_size)):
                mask = devices.fetch_rows(batch["mask"])
                logits.append(devices.fetch_rows(self._predict_step(of, batch))[mask])
                labels.append(devices.fetch_rows(batch["label"])[mask])
            arrays[f"{name}{suffix}_logits"] = np.concatenate(logits)
            arrays[f"{name}{suffix}_labels"] = np.concatenate(labels)
        return arrays

    def _total(self, variables: Variables, name: str) -> metrics.Total:
        kill_at("evaluate")
        if self._resident:
            sums = devices.fetch(self._eval_resident[name](variables, self._resident[name]))
            batches = [jax.tree.map(lambda x, i=i: x[i], sums) for i in range(len(sums["count"]))]
            return reduce(metrics.add, batches, {})
        batch_size = devices.round_up_batch_size(self._config.eval.batch_size)
        batches = eval_batches(self._splits[name], self._config, batch_size=batch_size)
        total: metrics.Total = {}
        for batch in devices.prefetch(batches):
            total = metrics.add(total, devices.fetch(self._eval_step(variables, batch)))
        size = self._splits[name].size
        if not total["count"]:
            raise InputError(f"{name}: none of its {size} images can be decoded")
        return total | {"skipped": size - total["count"]}


def _eval_resident(
    eval_step: Callable[[Variables, device_pipeline.Batch], metrics.Sums],
    num_batches: int,
    share: int,
    variables: Variables,
    split: device_pipeline.Resident,
) -> metrics.Sums:
    """The metric sums of each batch of a split that lies on the device, in one call."""
    device = lax.axis_index(devices.AXIS)

    def one_batch(number: jax.Array) -> metrics.Sums:
        return eval_step(variables, device_pipeline.eval_batch(split, number, device, share=share))

    return lax.map(one_batch, jnp.arange(num_batches))


def evaluate_run(config: ConfigDict, workdir: Path) -> Results:
    """Evaluates a checkpoint of the run in `workdir`, chosen by `config.eval.checkpoint`.

    Prints the scalar metrics of each split but the training split, and the accuracy of each class
    if there are at most 20. Writes the step and, by split, the scalars and `metrics.details` to
    `evaluation.json`; and with `config.eval.predictions` every image's logits, see
    `Evaluator.predictions`, to `predictions.npz`.

    Returns:
      The scalar metrics of each of these splits.

    Raises:
      InputError: if the config cannot be meant or is not that of the run, or there is no such
        checkpoint.
    """
    validate(config)
    with Peers(config.train.distributed, config.train.peer_timeout_seconds):
        devices.meet()
        program, (step, state, _) = restore(config, workdir)
        splits = datasets.load(config.dataset)
        evaluator, state = Evaluator(config, program, splits), devices.replicate(state)
        totals = evaluator.totals(state)
        predictions = evaluator.predictions(state) if config.eval.predictions else {}
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
            if predictions:
                part = workdir / "predictions.part.npz"
                np.savez(part, step=step, **predictions)
                part.replace(workdir / "predictions.npz")
        devices.meet()
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
    check_config(workdir, config, trains=False)
    devices.start(config.train.distributed)
    info = datasets.info(config.dataset)
    train_size = info.train_size - config.dataset.validation_size
    program = create_program(config, info, durations(config, train_size))
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        while True:
            step = checkpoints.find(config.eval.checkpoint)
            try:
                return program, checkpoints.restore(step, program.create_state)
            except InputError:
                if step in checkpoints.steps():
                    raise  # else a trainer has just replaced it
