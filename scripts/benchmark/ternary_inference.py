"""Compares a trained ternary network in several forms: size, accuracy and speed.

    python scripts/benchmark/ternary_inference.py runs/ternary

The forms are float32 with ternary values, bfloat16, packed (1.6 bits per weight, with folded batch
normalisation) and, as the peer, ONNX Runtime's int8, quantised statically and per channel with
training images. Prints a Markdown table; nothing else should run.
"""

from jaxcifar import environment

if __name__ == "__main__":
    environment.prepare()

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from jaxcifar.data import datasets
from jaxcifar.tools.card_speed import measure
from jaxcifar.tools.serialize import serialize
from jaxcifar.trained import TrainedModel, load

CALIBRATION_IMAGES, BATCH = 512, 256


class Images(CalibrationDataReader):
    """Training images, for the ranges of int8 activations."""

    def __init__(self, images: np.ndarray):
        self._batches = iter(np.split(images, len(images) // 64))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="directory of a run with ternary weights")
    model = load(parser.parse_args().run)
    splits = datasets.load(model.config.dataset)
    packed = model.packed()
    half = dataclasses.replace(model, module=model.module.clone(dtype=jnp.bfloat16))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.variables))
    codes = sum(x.nbytes for x in jax.tree.leaves(packed.variables) if x.dtype == jnp.uint8)
    memory = sum(leaf.nbytes for leaf in jax.tree.leaves(packed.variables))
    quantised = quantise(serialize(model, "onnx"), splits["train"].images[:CALIBRATION_IMAGES])
    session = onnxruntime.InferenceSession(quantised, providers=["CPUExecutionProvider"])
    rows: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
        "float32": (4 * parameters, compiled(model)),
        "bfloat16": (2 * parameters, compiled(half)),
        "packed, 1.6 bits": (memory, compiled(packed)),
        "ONNX Runtime, int8": (len(quantised), lambda x: session.run(None, {"images": x})[0]),
    }
    print(f"{model.config.model.name}, {parameters:,} parameters; at 2 bits instead of 1.6, the "
          f"packed form would take {memory + codes / 4:,.0f} bytes\n")  # fmt: skip
    print("| form | bytes | of float32 | test accuracy | one image, ms | images/s at 256 |")
    print("|---|---|---|---|---|---|")
    for name, (size, program) in rows.items():
        speed = measure(program, model.info.image_shape, BATCH)
        print(
            f"| {name} | {size:,} | {size / (4 * parameters):.1%} "
            f"| {accuracy(program, splits['test']):.2%} | {speed['latency_ms']:.2f} "
            f"| {speed['images_per_second']:,.0f} |"
        )


def compiled(model: TrainedModel) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function of uint8 images that reads the variables where they are."""
    function = jax.jit(lambda variables, images: model.logits_of(variables, images))
    return lambda images: np.asarray(function(model.variables, images))


def accuracy(program: Callable[[np.ndarray], np.ndarray], test: Any) -> float:
    correct = 0
    for start in range(0, test.size, BATCH):
        found = program(test.images[start : start + BATCH]).argmax(axis=1)
        correct += int((found == test.labels[start : start + BATCH]).sum())
    return correct / test.size


def quantise(content: bytes, images: np.ndarray) -> bytes:
    """Returns an ONNX model with int8 weights and activations."""
    with tempfile.TemporaryDirectory() as directory:
        before, after = Path(directory, "float.onnx"), Path(directory, "int8.onnx")
        before.write_bytes(content)
        quantize_static(before, after, Images(images), per_channel=True)
        return after.read_bytes()


if __name__ == "__main__":
    main()
