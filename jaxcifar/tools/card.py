"""Writes a model card: what a trained network is, how good, how robust and how fast.

    jaxcifar card runs/resnet20
    jaxcifar card runs/resnet20 --out cards/resnet20.md --max_images 2000

It is written to MODEL_CARD.md in the run's directory, and the figures to MODEL_CARD.json beside it.
The network is evaluated on the test images, on the training images without augmentation, and on
corrupted test images; then its speed is measured, so nothing else should run. What cannot be
measured here is said to be missing.
"""

import hashlib
import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jaxcifar.errors import InputError
from jaxcifar.tools import cli

if TYPE_CHECKING:  # slow to import
    import numpy as np

    from jaxcifar.data.split import Split
    from jaxcifar.trained import TrainedModel

_OUT = flags.DEFINE_string("out", None, "File to write [<run>/MODEL_CARD.md].")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best or a step.")
_EMA = flags.DEFINE_bool("ema", False, "Use the moving averages of the weights.")
_MAX_IMAGES = flags.DEFINE_integer(
    "max_images", 10_000, "Images to corrupt, and training images to evaluate.", lower_bound=1
)

STRENGTHS = (1, 3, 5)
_BATCH = 256


def main(arguments: list[str]) -> None:
    """Writes the card of the run that the argument names."""
    if len(arguments) != 1:
        raise InputError("give the directory of one run, e.g. jaxcifar card runs/resnet20")
    from jaxcifar.resilience.files import write_json, write_text
    from jaxcifar.tools.card_text import markdown
    from jaxcifar.trained import load

    workdir = Path(arguments[0])
    out = Path(_OUT.value) if _OUT.value else workdir / "MODEL_CARD.md"
    if out.suffix != ".md":
        raise InputError(f"--out={out}: the file name must end in .md")
    model = load(workdir, _CHECKPOINT.value, ema=_EMA.value)
    facts = collect(model, workdir, _MAX_IMAGES.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out.with_suffix(".json"), facts)
    write_text(out, markdown(facts))
    print(f"written: {out} and {out.with_suffix('.json')}")


def collect(model: "TrainedModel", workdir: Path, max_images: int) -> dict[str, Any]:
    """Returns everything that a card says of a run's network.

    Args:
      model: the network.
      workdir: directory of its run.
      max_images: limit on the corrupted images, and on the training images that are evaluated.
    """
    from jaxcifar.data import datasets
    from jaxcifar.models.counting import count
    from jaxcifar.resilience import manifest

    run = manifest.read(workdir)
    # First, as the evaluations below need more memory.
    speed, file_bytes = _speed(model)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = count(model.module, model.info.image_shape)
    facts: dict[str, Any] = {
        "model": model.config.model.name,
        "step": model.step,
        "image_shape": model.info.image_shape,
        "class_names": model.class_names,
        "parameters": counts.parameters,
        "multiply_adds": counts.macs,
        "file_bytes": file_bytes,
        "recipe": _recipe(run),
        "data": {"name": model.config.dataset.name, "fingerprints": run.get("data", {})},
        "training": _training(run, workdir),
        "speed": speed,
        "peak_memory_bytes": memory * (1 if sys.platform == "darwin" else 1024),
        "machine": manifest.describe_start(0)["hardware"],
    }
    facts["machine"].pop("host")
    try:
        splits: dict[str, Any] = datasets.load(model.config.dataset)
        test, train = splits["test"], splits["train"]
        if not hasattr(test, "images"):
            raise InputError("images in folders are not evaluated")
    except InputError as error:
        facts["not_evaluated"] = str(error)
        return facts
    return facts | _evaluations(model, splits, train, test, max_images)


def _evaluations(
    model: "TrainedModel",
    splits: Mapping[str, "Split"],
    train: "Split",
    test: "Split",
    max_images: int,
) -> dict[str, Any]:
    """What is measured on the images of the data set."""
    import numpy as np

    from jaxcifar import metrics
    from jaxcifar.data.corruptions import CORRUPTIONS, corrupt
    from jaxcifar.metrics.uncertainty import wilson_interval

    def accuracy(images: np.ndarray, labels: np.ndarray) -> float:
        return float(np.mean(model.logits(images).argmax(axis=1) == labels))

    logits = model.logits(test.images)
    total = _total(logits, test.labels)
    scalars, details = metrics.summarize(total), metrics.details(total)
    correct = int(total["correct"])
    chosen = np.random.RandomState(0).permutation(train.size)[:max_images]
    on_train = accuracy(train.images[chosen], train.labels[chosen])
    few, labels = test.images[:max_images], test.labels[:max_images]
    robustness = {
        name: {
            "group": kind.group,
            "accuracy": {str(s): accuracy(corrupt(few, name, s), labels) for s in STRENGTHS},
        }
        for name, kind in CORRUPTIONS.items()
    }
    pairs = metrics.most_confused(total["confusion"])
    sizes = total["confusion"].sum(axis=1)
    return {
        "test": {
            "images": test.size,
            **scalars,
            "interval": wilson_interval(correct, test.size),
            "per_class": dict(zip(model.class_names, details["per_class_accuracy"], strict=True)),
            "confused": [
                {
                    "label": model.class_names[label],
                    "prediction": model.class_names[prediction],
                    "share": count / float(sizes[label]),
                }
                for label, prediction, count in pairs
            ],
        },
        "calibration": _calibration(model, logits, splits),
        "train": {"images": len(chosen), "accuracy": on_train},
        "robustness": {
            "images": len(few),
            "clean": float(np.mean(logits[:max_images].argmax(axis=1) == labels)),
            "kinds": robustness,
        },
    }


def _total(logits: "np.ndarray", labels: "np.ndarray") -> dict[str, Any]:
    import jax.numpy as jnp

    from jaxcifar import metrics

    mask = jnp.ones(len(labels), bool)
    sums = metrics.evaluation_sums(jnp.asarray(logits), jnp.asarray(labels), mask)
    return dict(metrics.add({}, sums))


def _calibration(
    model: "TrainedModel", logits: "np.ndarray", splits: Mapping[str, "Split"]
) -> dict[str, Any]:
    """Calibration errors on the test images, before and after temperature scaling.

    The temperature is fitted to the validation images. Without them, each half of the test images
    is scaled by the temperature of the other half.
    """
    import numpy as np

    from jaxcifar import metrics
    from jaxcifar.metrics.uncertainty import fit_temperature

    labels = splits["test"].labels
    if "validation" in splits:
        validation = splits["validation"]
        temperatures = [fit_temperature(model.logits(validation.images), validation.labels)] * 2
        fitted_to = f"{validation.size:,} validation images"
    else:
        odd = np.arange(len(labels)) % 2
        temperatures = [fit_temperature(logits[odd != h], labels[odd != h]) for h in (0, 1)]
        fitted_to = "the other half of the test images"
    scaled = logits / np.where(np.arange(len(labels)) % 2, *temperatures[::-1])[:, None]
    errors = [
        metrics.summarize(_total(values, labels))["calibration_error"]
        for values in (logits, scaled)
    ]
    return {
        "before": errors[0],
        "after": errors[1],
        "temperature": float(np.mean(temperatures)),
        "fitted_to": fitted_to,
    }


def _recipe(run: Mapping[str, Any]) -> dict[str, Any]:
    from jaxcifar.config import default
    from jaxcifar.resilience.manifest import plain

    config, usual = run["config"], plain(default())
    text = json.dumps(config, sort_keys=True)
    return {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "fields": {
            f"{section}.{field}": value
            for section, fields in config.items()
            for field, value in fields.items()
            if value != usual.get(section, {}).get(field) and field != "data_dir"
        },
        "commit": run["starts"][-1]["commit"],
    }


def _training(run: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    import statistics

    from jaxcifar.reporting.csv_log import read_rows

    start = run["starts"][-1]
    rows = read_rows(workdir / "metrics.csv") if (workdir / "metrics.csv").exists() else []
    speeds = [float(row["images_per_second"]) for row in rows if row.get("images_per_second")]
    hardware = {name: value for name, value in start["hardware"].items() if name != "host"}
    return {
        "starts": len(run["starts"]),
        "first_start": run["starts"][0]["time"],
        "last_row": rows[-1]["time"] if rows else None,
        "images_per_second": statistics.median(speeds) if speeds else None,
        "hardware": hardware,
        "versions": start["versions"],
    }


def _speed(model: "TrainedModel") -> tuple[dict[str, Any], dict[str, int]]:
    """Latency and throughput by program, and sizes of the files by format."""
    import jax
    import numpy as np
    from jax import export

    from jaxcifar.tools.card_speed import measure
    from jaxcifar.tools.serialize import serialize

    shape = model.info.image_shape
    files = {format: serialize(model, format) for format in ("npz", "stablehlo")}
    compiled = jax.jit(model.probabilities)
    exported = jax.jit(export.deserialize(bytearray(files["stablehlo"])).call)
    programs: dict[str, Any] = {
        "JAX": lambda images: np.asarray(compiled(images)),
        "StableHLO file": lambda images: np.asarray(exported(images)),
    }
    missing = {}
    try:
        files["onnx"] = serialize(model, "onnx")
        import onnxruntime

        session = onnxruntime.InferenceSession(files["onnx"], providers=["CPUExecutionProvider"])
        programs["ONNX Runtime"] = lambda images: session.run(None, {"images": images})
    except (InputError, ImportError) as error:
        missing["ONNX Runtime"] = str(error)
    speed: dict[str, Any] = {
        name: measure(program, shape, _BATCH) for name, program in programs.items()
    }
    speed |= {name: {"missing": reason} for name, reason in missing.items()}
    return speed, {name: len(content) for name, content in files.items()}


if __name__ == "__main__":
    cli.run(main, __doc__, takes_arguments=True)
