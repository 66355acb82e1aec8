"""Starts a run from weights of PyTorch, or of another run.

    jaxcifar import --config configs/resnet56.py --workdir runs/b --from torch --file a.safetensors
    jaxcifar import --config configs/mine.py --workdir runs/c --from run --file runs/a --reset_head

The workdir that is created can be evaluated as it is, or trained from these weights. Names and
layout are those of `jaxcifar export --to torch`.

--from torch reads a safetensors file and, where PyTorch is installed, a .pt or .pth file: a state
dict, or a checkpoint that contains one as `state_dict`, `model_state_dict`, `model` or `net`. It
removes prefixes that every name has, such as `module.` and `_orig_mod.`. --from run takes the
weights of another run's checkpoint, that which `eval.checkpoint` names. With --reset_head the
classifier is not taken but newly initialised, as for a data set with other classes.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxcifar.errors import InputError, StoppedError
from jaxcifar.tools import cli

if TYPE_CHECKING:  # slow to import
    from jaxcifar.steps import TrainState

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe file, e.g. configs/resnet20.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
_FILE = flags.DEFINE_string(
    "file", None, "safetensors, .pt or .pth file, or the workdir of a run.", required=True
)
_FROM = flags.DEFINE_enum("from", None, ["torch", "run"], "Whose weights they are.", required=True)
_RESET_HEAD = flags.DEFINE_bool(
    "reset_head", False, "Initialise the classifier instead of taking the saved one."
)


def main() -> None:
    """Creates a run from the weights that the flags name."""
    read = read_torch if _FROM.value == "torch" else read_run
    workdir = cli.run_directory("workdir", _WORKDIR.value)
    read(_CONFIG.value, workdir, Path(_FILE.value), reset_head=_RESET_HEAD.value)


def read_torch(config: ConfigDict, workdir: Path, file: Path, *, reset_head: bool = False) -> None:
    """Creates a workdir with a checkpoint at step 0 that has the weights of a file.

    Args:
      config: config of the new run.
      workdir: directory of the new run; must not contain checkpoints.
      file: weights under PyTorch's names, see `weights_file.read` and `torch_weights`.
      reset_head: whether to initialise the classifier instead of taking that of the file.

    Raises:
      InputError: if the workdir has checkpoints or belongs to a different config, or the file is
        missing, damaged or of a different network.
    """
    import hashlib  # --help needs none of these imports, most of which are slow

    from jaxcifar.models import registry, torch_weights, weights_file

    if (file / "checkpoints").is_dir():
        raise InputError(f"--file={file}: is the directory of a run; give --from=run")
    state = _new_state(config, workdir)
    arrays, notes = weights_file.read(file)
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    template = {"params": state.params, "batch_stats": state.batch_stats}
    arrays, renamings = torch_weights.with_our_names(arrays, template)
    for note in notes + renamings:
        print(f"{file}: {note}")
    head = registry.registered[config.model.name].head
    try:
        values = torch_weights.from_torch(arrays, template, head=head, reset_head=reset_head)
    except InputError as error:
        raise InputError(f"{file} does not fit this {config.model.name}:\n  {error}") from error
    origin = {"file": str(file), "sha256": sha256, "reset_head": reset_head}
    _write_start(config, workdir, state, values, origin)


def read_run(config: ConfigDict, workdir: Path, source: Path, *, reset_head: bool = False) -> None:
    """Creates a workdir with a checkpoint at step 0 that has the weights of another run.

    Args:
      config: config of the new run; `eval.checkpoint` selects the checkpoint of the other.
      workdir: directory of the new run; must not contain checkpoints.
      source: directory of the other run, which may have another config, or of one of its
        checkpoints.
      reset_head: whether to initialise the classifier instead of taking that of the other run.

    Raises:
      InputError: if the workdir has checkpoints or belongs to a different config, or the source is
        no run, or its checkpoint is missing, damaged or of a different network.
    """
    from jaxcifar.models import initial_weights, registry
    from jaxcifar.resilience.checkpoint import Checkpoints
    from jaxcifar.resilience.trees import tree_sha256

    if not source.is_dir():
        raise InputError(f"--file={source}: with --from=run this must be the directory of a run")
    name = config.eval.checkpoint
    if source.parent.name == "checkpoints" and source.name.isdecimal():
        source, name = source.parent.parent, source.name
    state = _new_state(config, workdir)
    with Checkpoints(source / "checkpoints", create=False) as checkpoints:
        step, saved = checkpoints.read_variables(name)
    try:
        values = initial_weights.from_variables(
            saved,
            {"params": state.params, "batch_stats": state.batch_stats},
            head=registry.registered[config.model.name].head,
            reset_head=reset_head,
        )
    except InputError as error:
        raise InputError(
            f"{source}, step {step}, does not fit this {config.model.name}:\n  {error}"
        ) from error
    sha256 = tree_sha256(saved)
    origin = {"file": str(source), "step": step, "sha256": sha256, "reset_head": reset_head}
    _write_start(config, workdir, state, values, origin)


def _new_state(config: ConfigDict, workdir: Path) -> "TrainState":
    """The state at step 0 of a new run, once it is clear that the run can be created."""
    from jaxcifar.config import durations
    from jaxcifar.config.validation import validate
    from jaxcifar.data import datasets
    from jaxcifar.program import create_program
    from jaxcifar.resilience import manifest
    from jaxcifar.resume import check_workdir

    validate(config)
    manifest.check_config(workdir, config)
    if "weights" not in manifest.read(workdir):  # a command that was killed may be repeated
        check_workdir(workdir, config)
    directory = workdir / "checkpoints"
    if directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory} already contains checkpoints; choose another --workdir")
    info = datasets.info(config.dataset)
    train_size = info.train_size - config.dataset.validation_size
    return create_program(config, info, durations(config, train_size)).create_state()


def _write_start(
    config: ConfigDict,
    workdir: Path,
    state: "TrainState",
    values: dict[str, Any],
    origin: dict[str, Any],
) -> None:
    """Writes the manifest and the checkpoint of a run that starts from given weights.

    Args:
      config: config of the new run.
      workdir: directory of the new run.
      state: state at step 0.
      values: `params` and `batch_stats` to start from.
      origin: where they are from, for the manifest.

    Raises:
      StoppedError: if the checkpoint cannot be written.
    """
    import dataclasses

    import jax

    from jaxcifar.resilience import manifest
    from jaxcifar.resilience.checkpoint import Checkpoints
    from jaxcifar.resilience.lock import WriterLock
    from jaxcifar.resilience.progress import Progress

    state = dataclasses.replace(state, **values, ema=values if state.ema else {})
    with WriterLock(workdir) as lock:
        lock.acquire()
        # Before the checkpoint, as training refuses a run that has this record alone.
        manifest.record_start(workdir, config, step=0)
        manifest.update(workdir, weights=origin)
        checkpoints = Checkpoints(workdir / "checkpoints")
        carried = {"run_manifest": {"config": manifest.plain(config), "weights": origin}}
        checkpoints.save(0, jax.device_get(state), Progress(), carried)
        checkpoints.wait()
        if failure := checkpoints.failure():
            raise StoppedError(f"error: {failure}") from failure
    step = f", step {origin['step']:,}" if "step" in origin else ""
    new = "a new classifier and otherwise " if origin["reset_head"] else ""
    print(
        f"{workdir}: a run of {config.model.name} at step 0, with {new}the weights of "
        f"{origin['file']}{step}"
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main, __doc__)
