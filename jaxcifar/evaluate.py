"""Metrics over whole splits, during training and from a checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict
from rich.table import Table
from rich.text import Text

from jaxcifar import devices, metrics
from jaxcifar.config import durations
from jaxcifar.config.validation import validate
from jaxcifar.data import bad_images, datasets, device_pipeline
from jaxcifar.data.batches import eval_batches
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.split import Batch, Split
from jaxcifar.errors import InputError
from jaxcifar.program import Program, create_program
from jaxcifar.reporting.console import Console, printable
from jaxcifar.reporting.format import describe
from jaxcifar.resilience import dataset_facts, processes
from jaxcifar.resilience.checkpoint import Checkpoints, Restored
from jaxcifar.resilience.failpoints import kill_at
from jaxcifar.resilience.files import replacing, write_json
from jaxcifar.resilience.manifest import check_config
from jaxcifar.resilience.peers import Peers
from jaxcifar.steps import TrainState, Variables

Results = dict[str, dict[str, float]]


class Evaluator:
    """Evaluates a state on every split except the training split; call it with the state."""

    def __init__(
        self, config: ConfigDict, program: Program, splits: dict[str, Split | FolderSplit]
    ):
        """Prepares the compiled steps.

        Args:
          config: see `config.default`.
          program: functions built from the config.
          splits: splits of the data set by name.
        """
        self._config = config
        self._splits = {name: split for name, split in splits.items() if name != "train"}
        self._batch_size = devices.round_up_batch_size(config.eval.batch_size)
        self._eval_step = devices.map_eval_step(program.eval_step)
        self._predict_step = devices.map_eval_step(program.predict_step)
        self._resident = {
            name: devices.replicate(device_pipeline.as_resident(split))
            for name, split in self._splits.items()
            if split.on_device
        }
        share = self._batch_size // jax.device_count()
        self._eval_resident = {
            name: devices.map_eval_step(
                partial(
                    _eval_resident,
                    program.eval_step,
                    -(-self._splits[name].size // self._batch_size),
                    share,
                )
            )
            for name in self._resident
        }
        self._weight_levels = None
        if program.weight_levels:
            self._weight_levels = devices.map_eval_step(program.weight_levels)

    def __call__(self, state: TrainState) -> Results:
        """Returns the scalar metrics of a replicated state by split.

        If there is a moving average of the weights, its metrics are under "<split>_ema". The levels
        of ternary weights are under "weights".
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

        They are in the order of the split; an image that cannot be decoded is left out.

        Args:
          state: replicated state.
        """
        arrays = {}
        weights = {"": state.variables()} | ({"_ema": state.ema} if state.ema else {})
        for name, (suffix, variables) in product(self._splits, weights.items()):
            logits, labels = [], []
            for batch in self._batches(name):
                mask = devices.fetch_rows(batch["mask"])
                logits.append(devices.fetch_rows(self._predict_step(variables, batch))[mask])
                labels.append(devices.fetch_rows(batch["label"])[mask])
            arrays[f"{name}{suffix}_logits"] = np.concatenate(logits)
            arrays[f"{name}{suffix}_labels"] = np.concatenate(labels)
        return arrays

    def _batches(self, name: str) -> Iterator[Batch]:
        batches = eval_batches(self._splits[name], self._config, batch_size=self._batch_size)
        return devices.prefetch(batches)

    def _total(self, variables: Variables, name: str) -> metrics.Total:
        kill_at("evaluate")
        if name in self._resident:
            sums = devices.fetch(self._eval_resident[name](variables, self._resident[name]))
            batches = [jax.tree.map(lambda x, i=i: x[i], sums) for i in range(len(sums["count"]))]
            return reduce(metrics.add, batches, {})
        total: metrics.Total = {}
        for batch in self._batches(name):
            total = metrics.add(total, devices.fetch(self._eval_step(variables, batch)))
        size = self._splits[name].size
        skipped = int(size - total["count"])
        bad_images.check_share(name, skipped, size, size, self._config.dataset.max_bad_images)
        return total | {"skipped": skipped}


def _eval_resident(
    eval_step: Callable[[Variables, Batch], metrics.Sums],
    num_batches: int,
    share: int,
    variables: Variables,
    split: device_pipeline.Resident,
) -> metrics.Sums:
    """Metric sums of each batch of a split in device memory, computed in one call."""
    device = lax.axis_index(devices.AXIS)

    def one_batch(number: jax.Array) -> metrics.Sums:
        return eval_step(variables, device_pipeline.eval_batch(split, number, device, share=share))

    return lax.map(one_batch, jnp.arange(num_batches))


def evaluate_run(config: ConfigDict, workdir: Path) -> Results:
    """Evaluates a checkpoint of the run in `workdir`, chosen by `config.eval.checkpoint`.

    Prints the scalar metrics of each split except the training split, the accuracy of each class
    if there are at most 20, and the most frequent mistakes. Writes the step and, by split, the
    scalars and `metrics.details` to `evaluation.json`; with `config.eval.predictions` also every
    image's logits, see `Evaluator.predictions`, to `predictions.npz`.

    Returns:
      The scalar metrics of each of these splits.

    Raises:
      InputError: if the config is invalid or not that of the run, or there is no such checkpoint.
    """
    validate(config, trains=False)
    with Peers(config.train.distributed, config.train.peer_timeout_seconds):
        processes.barrier()
        program, (step, state, _) = restore(config, workdir)
        splits = datasets.load(config.dataset)
        evaluator, state = Evaluator(config, program, splits), devices.replicate(state)
        totals = evaluator.totals(state)
        predictions = evaluator.predictions(state) if config.eval.predictions else {}
        if jax.process_index() == 0:
            report = {name: metrics.summarize(t) | metrics.details(t) for name, t in totals.items()}
            write_json(workdir / "evaluation.json", {"step": step} | report)
            if predictions:
                with replacing(workdir / "predictions.npz") as part, part.open("wb") as file:
                    np.savez(file, step=step, **predictions)
        processes.barrier()
    if jax.process_index() == 0:  # last, as printing may fail
        print_report(step, totals, datasets.class_names(config.dataset))
    return {name: metrics.summarize(total) for name, total in totals.items()}


def print_report(step: int, totals: dict[str, metrics.Total], class_names: Sequence[str]) -> None:
    """Prints what `evaluate_run` prints of the metric sums of each split."""
    names = [printable(name) for name in class_names]
    for name, total in totals.items():
        scalars, details = metrics.summarize(total), metrics.details(total)
        print(f"{name}, {int(total['count']):,} images, step {step:,}: {describe(scalars)}")
        accuracies = details.get("per_class_accuracy", [])
        if 0 < len(accuracies) <= 20:
            Console().print(_class_table(names, accuracies))
        if mistakes := _describe_mistakes(names, total["confusion"]):
            print(mistakes)


def _class_table(names: Sequence[str], accuracies: Sequence[float | None]) -> Table:
    """A table of classes and their accuracies."""
    table = Table("class", "accuracy", box=None)
    for name, accuracy in zip(names, accuracies, strict=True):
        # As text, because rich reads brackets in a string as markup.
        table.add_row(Text(name), "-" if accuracy is None else f"{accuracy:.1%}")
    return table


def _describe_mistakes(names: Sequence[str], confusion: np.ndarray) -> str:
    """A line with the most frequent mistakes; "" if there are none."""
    sizes = confusion.sum(axis=1)
    pairs = [
        f"{names[label]} as {names[prediction]} ({count:,} of {int(sizes[label]):,})"
        for label, prediction, count in metrics.most_confused(confusion)
    ]
    return f"most confused: {', '.join(pairs)}" if pairs else ""


def restore(config: ConfigDict, workdir: Path) -> tuple[Program, Restored]:
    """Returns the functions built from a config and the checkpoint that it selects.

    Raises:
      InputError: see `evaluate_run`.
    """
    validate(config, trains=False)
    check_config(workdir, config, trains=False)
    processes.start(config.train.distributed)
    info = dataset_facts.with_recorded(workdir, datasets.info(config.dataset))
    train_size = info.train_size - config.dataset.validation_size
    program = create_program(config, info, durations(config, train_size))
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        while True:
            step = checkpoints.find(config.eval.checkpoint)
            try:
                return program, checkpoints.restore(step, program.create_state)
            except InputError:
                if step in checkpoints.steps():
                    raise  # otherwise a trainer has just replaced it
