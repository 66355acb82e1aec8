"""Exports a trained network, for use without the run, without this package, or without JAX.

    jaxcifar export runs/resnet20 --to torch
    jaxcifar export runs/resnet20 --to stablehlo --file models/resnet20.stablehlo

- npz: one file that `jaxcifar.load` and `jaxcifar predict` read, in NumPy's format.
- packed: the same for a network with ternary weights, of which each takes 1.6 bits. Batch
  normalisation is part of the scales.
- torch: a safetensors file for PyTorch. Names and layout are those of torchvision for the networks
  it has (ResNets of 18 layers or more and DenseNets, with the ImageNet stem), and follow the same
  pattern for all others. Ternary kernels have their ternary values.
- stablehlo: a program for any later JAX, on a CPU or an NVIDIA GPU.
- onnx: a program for ONNX Runtime and others; needs the extra "onnx".

The programs take uint8 images [N, H, W, C], any number of them, of the size that the network was
trained on, and return the probabilities of the classes, averaged over the run's test-time views.
The names of the classes are in FILE.json, or in the ONNX model.
"""

from pathlib import Path

from absl import flags

from jaxcifar.errors import InputError
from jaxcifar.tools import cli

_ENDINGS = {
    "npz": "npz",
    "packed": "packed.npz",
    "torch": "safetensors",
    "stablehlo": "stablehlo",
    "onnx": "onnx",
}

_TO = flags.DEFINE_enum("to", None, list(_ENDINGS), "Format to write.", required=True)
_FILE = flags.DEFINE_string("file", None, "File to write [<name of the run>.<ending>].")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best or a step.")
_EMA = flags.DEFINE_bool("ema", False, "Export the moving averages of the weights.")


def main(arguments: list[str]) -> None:
    """Exports the network of the run that the argument names."""
    if len(arguments) != 1:
        raise InputError(
            "give the directory of one run, e.g. jaxcifar export runs/resnet20 --to torch"
        )
    from jaxcifar.tools.serialize import write  # slow to import; --help does not need them
    from jaxcifar.trained import load

    run = Path(arguments[0])
    model = load(run, _CHECKPOINT.value, ema=_EMA.value)
    file = Path(_FILE.value or f"{run.resolve().stem}.{_ENDINGS[_TO.value]}")
    write(model, _TO.value, file)
    size = file.stat().st_size
    print(f"{file}: {model.config.model.name}, step {model.step:,}, {size / 1e6:,.2f} MB")


if __name__ == "__main__":
    cli.run(main, __doc__, takes_arguments=True)
