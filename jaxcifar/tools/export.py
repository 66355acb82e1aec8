"""Exports a run's weights to PyTorch, or imports PyTorch weights into a run, as safetensors files.

    jaxcifar export --config configs/resnet56.py --workdir runs/a --to torch --file a.safetensors
    jaxcifar export --config configs/resnet56.py --workdir runs/b --from torch --file a.safetensors

The first command writes the checkpoint that `eval.checkpoint` names. The second creates a workdir
that can be evaluated as it is, or trained from the weights of the file. Names and layout are those
of torchvision for the networks it has (ResNets of 18 layers or more and DenseNets, with the
ImageNet stem), and follow the same pattern for all others.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxcifar.errors import InputError, StoppedError
from jaxcifar.tools import cli

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe file, e.g. configs/resnet20.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
_FILE = flags.DEFINE_string("file", None, "safetensors file to write or read.", required=True)
_TO = flags.DEFINE_enum("to", None, ["torch"], "Write the weights of the run to the file.")
_FROM = flags.DEFINE_enum(
    "from", None, ["torch"], "Create a run that starts from the weights in the file."
)


def main() -> None:
    """Exports or imports weights, as the flags say."""
    if bool(_TO.value) == bool(_FROM.value):
        raise InputError("give exactly one of --to and --from")
    config, file = _CONFIG.value, Path(_FILE.value)
    if _TO.value:
        write_torch(config, Path(_WORKDIR.value), file)
    else:
        read_torch(config, cli.run_directory("workdir", _WORKDIR.value), file)


def write_torch(config: ConfigDict, workdir: Path, file: Path) -> None:
    """Writes the weights of a run's checkpoint to a safetensors file.

    Args:
      config: config of the run; `eval.checkpoint` selects the checkpoint.
      workdir: directory of the run.
      file: output file; replaced atomically if it exists.

    Raises:
      InputError: if the config differs from the run's, there is no such checkpoint, the network has
        layers that PyTorch lacks, or the file cannot be written.
    """
    from safetensors import SafetensorError  # slow imports; --help needs none
    from safetensors.numpy import save_file

    from jaxcifar.evaluate import restore
    from jaxcifar.models.torch_weights import to_torch

    if config.model.ternary != "none":
        raise InputError(
            f"model.ternary = {config.model.ternary!r}: only networks with float weights can "
            "be exported to PyTorch"
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
    """Creates a workdir with a checkpoint at step 0 that has the weights of a safetensors file.

    Args:
      config: config of the new run.
      workdir: directory of the new run; must not contain checkpoints.
      file: weights under PyTorch's names, see `from_torch`.

    Raises:
      InputError: if the workdir has checkpoints or belongs to a different config, or the file is
        missing, damaged or of a different network.
    """
    import dataclasses
    import hashlib

    import jax
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from jaxcifar.config import durations
    from jaxcifar.config.validation import validate
    from jaxcifar.data import datasets
    from jaxcifar.models.torch_weights import from_torch
    from jaxcifar.program import create_program
    from jaxcifar.resilience.checkpoint import Checkpoints
    from jaxcifar.resilience.lock import WriterLock
    from jaxcifar.resilience.manifest import check_config, record_start, update
    from jaxcifar.resilience.progress import Progress

    validate(config)
    check_config(workdir, config)
    directory = workdir / "checkpoints"
    if directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory} already contains checkpoints; choose another --workdir")
    try:
        arrays = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: not a readable safetensors file: {error}") from error
    info = datasets.info(config.dataset)
    train_size = info.train_size - config.dataset.validation_size
    state = create_program(config, info, durations(config, train_size)).create_state()
    try:
        values = from_torch(arrays, {"params": state.params, "batch_stats": state.batch_stats})
    except InputError as error:
        raise InputError(f"{file} does not fit this {config.model.name}: {error}") from error
    with WriterLock(workdir) as lock:
        lock.acquire()
        checkpoints = Checkpoints(directory)
        state = dataclasses.replace(state, **values, ema=values if state.ema else {})
        checkpoints.save(0, jax.device_get(state), Progress())
        checkpoints.wait()
        if failure := checkpoints.failure():
            raise StoppedError(f"error: {failure}") from failure
        record_start(workdir, config, step=0)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        update(workdir, weights={"file": str(file), "sha256": sha256})
    print(f"{workdir}: a run of {config.model.name} at step 0, with the weights of {file}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main, __doc__)
