"""Trained networks as files of each format that `export` offers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from jaxcifar.errors import InputError
from jaxcifar.formats import model_file, onnx_file, stablehlo
from jaxcifar.models import ternary
from jaxcifar.models.torch_weights import to_torch
from jaxcifar.resilience.files import replacing, write_json
from jaxcifar.trained import TrainedModel


def write(model: TrainedModel, to: str, file: Path) -> None:
    """Writes a trained network to a file, which is replaced as a whole.

    Args:
      model: the network.
      to: npz, packed, torch, stablehlo or onnx, see `export`.
      file: the file; its directory is created if missing.

    Raises:
      InputError: if the format cannot hold the network, or what writes it is not installed.
      OSError: if the file cannot be written.
    """
    content = serialize(model, to)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part:
        part.write_bytes(content)
    if to == "stablehlo":
        facts = {"class_names": list(model.class_names), "image_shape": model.info.image_shape}
        write_json(file.with_name(file.name + ".json"), facts)


def serialize(model: TrainedModel, to: str) -> bytes:
    """Returns the contents of a file of a format; raises as `write` does."""
    return _WRITERS[to](model)


def _npz(model: TrainedModel) -> bytes:
    return model_file.serialize(model.contents())


def _packed(model: TrainedModel) -> bytes:
    return model_file.serialize(model.packed().contents())


def _torch(model: TrainedModel) -> bytes:
    variables = ternary.with_ternary_kernels(model.module, model.variables, model.info.image_shape)
    metadata = {"format": "pt", "model": model.config.model.name, "step": str(model.step)}
    return save(to_torch(variables), metadata)


def _stablehlo(model: TrainedModel) -> bytes:
    return stablehlo.serialize(model.probabilities, model.info.image_shape)


def _onnx(model: TrainedModel) -> bytes:
    model = model.in_float32()
    metadata = {
        "model": model.config.model.name,
        "step": str(model.step),
        "class_names": json.dumps(model.class_names),
    }
    content = onnx_file.serialize(model.probabilities, model.info.image_shape, metadata)
    _check_onnx(content, model)
    return content


def _check_onnx(content: bytes, model: TrainedModel) -> None:
    """Raises an InputError if an ONNX model computes something else than the network."""
    import onnxruntime  # optional, like onnx

    images = np.random.default_rng(0).integers(0, 256, (2, *model.info.image_shape), np.uint8)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"images": images})
    gap = np.abs(found - model.predict(images).probabilities).max()
    if not gap < 1e-3:
        raise InputError(
            f"--to=onnx: not written, as ONNX Runtime's probabilities differ by up to {gap:.2g}"
        )


_WRITERS: dict[str, Callable[[TrainedModel], bytes]] = {
    "npz": _npz,
    "packed": _packed,
    "torch": _torch,
    "stablehlo": _stablehlo,
    "onnx": _onnx,
}
