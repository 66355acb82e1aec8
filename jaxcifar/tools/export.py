"""Takes a run's weights to PyTorch, or PyTorch's to a run, as safetensors files.

    python -m jaxcifar.tools.export --config configs/resnet56.py --workdir runs/a --to torch --file a.st
    python -m jaxcifar.tools.export --config configs/resnet56.py --workdir runs/b --from torch --file a.st

The first writes the checkpoint that `eval.checkpoint` names. The second makes a workdir whose
training starts from the file's weights, and that can be evaluated as it is. Names and layout are
torchvision's where it has the network (the ResNets from 18 layers on and the DenseNets, with the
ImageNet stem), and in the same manner elsewhere.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxcifar.errors import InputError, StoppedError
from jaxcifar.tools import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's.")
_FILE = flags.DEFINE_string("file", None, "A safetensors file.")
_TO = flags.DEFINE_enum("to", None, ["torch"], "Write the run's weights to the file.")
_FROM = flags.DEFINE_enum("from", None, ["torch"], "Start a run from the file's weights.")


def main() -> None:
    """Does what the flags say."""
    if bool(_TO.value) == bool(_FROM.value):
        raise InputError("give one of --to and --from")
    config, file = _CONFIG.value, Path(_FILE.value)
    if _TO.value:
        write_torch(config, Path(_WORKDIR.value), file)
    else:
        read_torch(config, cli.run_directory("workdir", _WORKDIR.value), file)


def write_torch(config: ConfigDict, workdir: Path, file: Path) -> None:
    """Writes the weights of a run's checkpoint to a safetensors file.

    Args:
      config: that of the run; `eval.checkpoint` chooses the checkpoint.
      workdir: of the run.
      file: replaced as a whole, if it exists.

    Raises:
      InputError: if the config is not the run's, there is no such checkpoint, PyTorch has no layers
        for the network's, or the file cannot be written.
    """
    from safetensors import SafetensorError  # nothing heavy before --help is answered
    from safetensors.numpy import save_file

    from jaxcifar.evaluate import restore
    from jaxcifar.models.torch_weights import to_torch

    if config.model.ternary != "none":
        raise InputError(
            f"model.ternary = {config.model.ternary!r}: a file for PyTorch holds the weights of "
            "float convolutions only"
        )
    _, restored = restore(config, workdir)
    arrays = to_torch({"params": restored.state.params, "batch_stats": restored.state.batch_stats})
    metadata = {"format": "pt", "model": config.model.name, "step": str(restored.step)}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    try:
        save_file(arrays, part, metadata)
        part.replace(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    print(f"{file}: {len(arrays)} arrays of {config.model.name}, step {restored.step:,}")


def read_torch(config: ConfigDict, workdir: Path, file: Path) -> None:
    """Makes a workdir whose checkpoint, at step 0, has the weights of a safetensors file.

    Args:
      config: of the run that is to start there.
      workdir: without checkpoints.
      file: with PyTorch's names, see `from_torch`.

    Raises:
      InputError: if the workdir has checkpoints or is of another config, or the file is missing,
        damaged, or of another network.
    """
    import hashlib

    import jax
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from jaxcifar.config import durations
    from jaxcifar.config.validation import validate
    from jaxcifar.data import datasets
    from jaxcifar.models.torch_weights import from_torch
    from jaxcifar.program import create_program
    from jaxcifar.resilience.checkpoint import Checkpoints, Progress
    from jaxcifar.resilience.lock import WriterLock
    from jaxcifar.resilience.manifest import check_config, record_start, update

    validate(config)
    check_config(workdir, config)
    directory = workdir / "checkpoints"
    if directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory} holds checkpoints; choose another --workdir")
    try:
        arrays = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: not a safetensors file that can be read: {error}") from error
    info = datasets.info(config.dataset)
    train_size = info.train_size - config.dataset.validation_size
    state = create_program(config, info, durations(config, train_size)).create_state()
    try:
        values = from_torch(arrays, {"params": state.params, "batch_stats": state.batch_stats})
    except InputError as error:
        raise InputError(f"{file} is not of this {config.model.name}: {error}") from error
    with WriterLock(workdir) as lock:
        lock.acquire()
        checkpoints = Checkpoints(directory)
        state = state.replace(**values, ema=values if state.ema else {})
        checkpoints.save(0, jax.device_get(state), Progress())
        checkpoints.wait()
        if failure := checkpoints.failure():
            raise StoppedError(f"error: {failure}")
        record_start(workdir, config, step=0)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        update(workdir, weights={"file": str(file), "sha256": sha256})
    print(f"{workdir}: a run of {config.model.name} at step 0, with the weights of {file}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir", "file"])
    cli.run(main, __doc__)
