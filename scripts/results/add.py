"""Keeps finished runs in results/, from which the tables and pictures of results are made.

    python scripts/results/add.py runs/speedrun94/*

A run belongs to the row that has its config. It is evaluated again, and must have the accuracy of
its manifest. results/README.md says what is kept.
"""

from jaxcifar import environment

if __name__ == "__main__":
    environment.prepare()

import argparse
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from rows import RESULTS, ROOT, Row, all_rows, labels_path
from runs import Predictions, most_confident_mistakes

_ONE_VIEW = {"test_time_flip": False, "test_time_shift": 0, "test_time_views": "corners"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="directories of finished runs")
    for workdir in parser.parse_args().runs:
        out = add(workdir)
        print(f"{workdir} -> {out.relative_to(ROOT)}")


def add(workdir: Path) -> Path:
    """Keeps a finished run, in place of an earlier one of its seed, and returns its new place."""
    from jaxcifar.resilience import manifest

    run = manifest.read(workdir)
    if "end" not in run:
        sys.exit(f"error: {workdir}: the run has not finished")
    config = manifest.saved_config(run)
    name, row = find_row(config)
    files = {
        "manifest.json": (json.dumps(_without_places(run, row), indent=1) + "\n").encode(),
        "metrics.csv": (workdir / "metrics.csv").read_bytes(),
    }
    if row.predictions:
        files |= _predictions(config, workdir, run["end"]["metrics"]["test"]["accuracy"], row)
    out = RESULTS / name / str(run["seed"])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file, content in files.items():
        (out / file).write_bytes(content)
    return out


def find_row(config: ConfigDict) -> tuple[str, Row]:
    """Returns the row that a config is of, with the name of its directory."""
    from jaxcifar.resilience.manifest import config_changes, plain

    for name, row in all_rows().items():
        if not config_changes({"config": plain(row.config(config.train.seed))}, config):
            return name, row
    sys.exit(f"error: no row of the tables has the config of this run of {config.model.name}")


def _predictions(config: ConfigDict, workdir: Path, recorded: float, row: Row) -> dict[str, bytes]:
    """Evaluates a run and returns the contents of the files that are made from that."""
    found = _predict(config, workdir)
    accuracy = float(np.mean(found.labels == found.classes))
    if accuracy != recorded:
        sys.exit(f"error: {workdir}: an evaluation gives {accuracy}, the manifest says {recorded}")
    labels_path(config.dataset.name).write_bytes(found.labels.tobytes())
    files = {
        "predictions.bin": found.classes.tobytes(),
        "probabilities.bin": found.probabilities.tobytes(),
    }
    if row.examined:
        files["mistakes.png"] = _mistakes(config, found)
    if config.eval.test_time_flip or config.eval.test_time_shift:
        config.eval.update(_ONE_VIEW)
        files["predictions_one_view.bin"] = _predict(config, workdir).classes.tobytes()
    return files


def _predict(config: ConfigDict, workdir: Path) -> Predictions:
    from jaxcifar.evaluate import evaluate_run

    config.eval.predictions = True
    evaluate_run(config, workdir)
    with np.load(workdir / "predictions.npz") as arrays:
        logits, labels = arrays["test_logits"].astype(np.float64), arrays["test_labels"]
    logits -= logits.max(axis=1, keepdims=True)
    highest = 1 / np.exp(logits).sum(axis=1)
    return Predictions(
        labels.astype(np.uint8), logits.argmax(axis=1).astype(np.uint8), highest.astype(np.float16)
    )


def _mistakes(config: ConfigDict, found: Predictions) -> bytes:
    """The images of the most confident mistakes side by side, as a PNG file."""
    from jaxcifar.data import datasets

    images = datasets.load(config.dataset)["test"].images[most_confident_mistakes(found)]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(images, axis=1)).save(file, "PNG")
    return file.getvalue()


def _without_places(run: dict[str, Any], row: Row) -> dict[str, Any]:
    """A manifest without names of directories and machines; commands are those of the table."""
    run = json.loads(json.dumps(run))
    run["config"]["dataset"]["data_dir"] = ""
    for start in run["starts"]:
        start["command"] = row.run_command(run["seed"]).split()
        start["hardware"].pop("host", None)
    return run


if __name__ == "__main__":
    main()
