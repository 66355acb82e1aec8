"""Evaluates a run with its own config, or on images that it was not trained for."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.table import Table

from jaxcifar import metrics
from jaxcifar.data import datasets, other_images
from jaxcifar.evaluate import evaluate_run, print_report
from jaxcifar.reporting.console import Console
from jaxcifar.resilience import manifest
from jaxcifar.resilience.files import write_json
from jaxcifar.trained import TrainedModel, load


def evaluate(workdir: Path, images: str | None = None) -> None:
    """Prints the metrics of a run's last checkpoint, on its own data set or on other images.

    Of its own data set, unless that is a folder of large images, the predictions are saved too.

    Args:
      workdir: directory of the run.
      images: file or folder of other images of its classes, see `other_images`; None for the splits
        of the run's data set, see `evaluate_run`.

    Raises:
      InputError: if there is no such run or checkpoint, or the images are unsuitable.
    """
    if images:
        return _evaluate_on(load(workdir), workdir, Path(images))
    config = manifest.saved_config(manifest.read_run(workdir))
    config.eval.predictions |= datasets.uses_device_pipeline(config.dataset)
    evaluate_run(config, workdir)


def _evaluate_on(model: TrainedModel, workdir: Path, path: Path) -> None:
    """Prints the metrics on other images, and writes `evaluation_on_NAME.json`."""
    totals = {}
    for images in other_images.find(path, model.class_names):
        totals[images.name] = _total(model, images)
    report = {name: metrics.summarize(t) | metrics.details(t) for name, t in totals.items()}
    name = f"evaluation_on_{path.resolve().stem}.json"
    write_json(workdir / name, {"step": model.step} | report)
    if all(map(other_images.strength, totals)):
        _print_corruptions({name: scalars["accuracy"] for name, scalars in report.items()})
    else:
        print_report(model.step, totals, model.class_names)


def _total(model: TrainedModel, images: other_images.ImageSet) -> metrics.Total:
    """The metric sums over a set of images."""
    count, size, logits = len(images.labels), 256, []
    for start in range(0, count, size):
        batch = images.batch(start, min(start + size, count))
        logits.append(model.logits(batch, batch_size=size))
    all_logits, labels = jnp.asarray(np.concatenate(logits)), jnp.asarray(images.labels)
    mask = jnp.ones(labels.shape, bool)
    return metrics.add({}, metrics.evaluation_sums(all_logits, labels, mask))


def _print_corruptions(accuracies: dict[str, float]) -> None:
    """Prints accuracies by corruption and strength, with their means."""
    rows: defaultdict[str, list[float]] = defaultdict(list)
    for name, accuracy in accuracies.items():
        corruption, _ = other_images.strength(name) or (name, 0)
        rows[corruption].append(accuracy)
    columns = [str(strength + 1) for strength in range(other_images.STRENGTHS)]
    table = Table("corruption", *columns, "mean", box=None, pad_edge=False, header_style="bold")
    for corruption, values in rows.items():
        table.add_row(corruption, *_percent([*values, float(np.mean(values))]))
    means = np.mean(list(rows.values()), axis=0)
    table.add_row("mean", *_percent([*means, float(means.mean())]), style="bold")
    Console(width=120).print("accuracy by corruption and strength", table, sep="\n")


def _percent(values: Sequence[float]) -> list[str]:
    return [f"{value:.1%}" for value in values]
