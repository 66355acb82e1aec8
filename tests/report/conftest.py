"""A directory of runs with everything that a report can show."""

import csv
import json
import shutil

import numpy as np
import pytest

from jaxcifar import metrics
from jaxcifar.metrics.layer_statistics import ALL

RATES, SEEDS, EPOCHS = (0.1, 0.2, 0.4), (0, 1), 6
LAYERS = ("conv", "head", "stage1_block1/conv1")


@pytest.fixture(scope="session")
def sweep_of_runs(whole_run, tmp_path_factory):
    """Finished runs of three learning rates with two seeds each, on the digits."""
    root = tmp_path_factory.mktemp("sweep")
    for rate in RATES:
        for seed in SEEDS:
            write_run(root / f"rate{rate}" / f"seed_{seed}", whole_run, rate, seed)
    return root


def write_run(workdir, whole_run, rate, seed):
    """Writes the files of a run by hand, but for the manifest and predictions."""
    from jaxcifar.data import datasets
    from jaxcifar.resilience import manifest

    workdir.mkdir(parents=True)
    shutil.copy(whole_run / "parameters.txt", workdir)
    run = json.loads((whole_run / "manifest.json").read_text())
    run["config"]["optimizer"]["learning_rate"] = rate
    run["config"]["train"]["seed"] = seed
    run["starts"] = [{**run["starts"][0], "time": "2026-01-01T00:00:00+00:00"}]
    (workdir / "manifest.json").write_text(json.dumps(run))
    header = (whole_run / "metrics.csv").read_text().splitlines()[0].split(",")
    with (workdir / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        for epoch in range(1, EPOCHS + 1):
            for split in "train", "test":
                row = {
                    "step": 20 * epoch,
                    "epoch": float(epoch),
                    "split": split,
                    "loss": 2 / epoch + 0.1 * seed,
                    "accuracy": 1 - 0.5 / epoch - 0.01 * seed - 0.05 * rate,
                    "time": f"2026-01-01T00:{epoch:02}:00+00:00",
                }
                if split == "train":
                    row |= {"learning_rate": rate, "images_per_second": 100 + seed}
                writer.writerow(row)
    with (workdir / "layers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "epoch", "layer", "gradient_norm", "weight_norm", "update_ratio"])
        for step in range(5, 50, 5):
            for number, layer in enumerate((ALL, *LAYERS)):
                writer.writerow([step, step / 20, layer, 10.0**-number / step, 1.0, 1e-3 * rate])
    config = manifest.saved_config(run)
    labels = datasets.load(config.dataset)["test"].labels
    logits = 3 * np.random.RandomState(seed).randn(len(labels), 10).astype(np.float32)
    logits[np.arange(len(labels)), labels] += 6
    np.savez(workdir / "predictions.npz", step=60, test_logits=logits, test_labels=labels)
    sums = metrics.evaluation_sums(logits, labels, np.ones(len(labels), bool))
    total = metrics.add({}, sums)
    evaluation = {"step": 60, "test": metrics.summarize(total) | metrics.details(total)}
    (workdir / "evaluation.json").write_text(json.dumps(evaluation))
