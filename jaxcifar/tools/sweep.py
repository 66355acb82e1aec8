"""Trains the variants of a recipe one after another: ablations, grids, random searches, seeds.

    jaxcifar sweep --config configs/ablations.py --list
    jaxcifar sweep --config configs/ablations.py --dry_run
    jaxcifar sweep --config configs/ablations.py --only baseline,cosine --seeds 0,1,2
    jaxcifar sweep --config configs/resnet20.py --seeds 0,1,2,3,4

The variants are what `get_sweep()` in the recipe file returns: either a dictionary from names to
dictionaries of fields and values, or an iterable of such dictionaries, e.g. scikit-learn's
ParameterGrid or ParameterSampler. A recipe without `get_sweep` has a single variant, itself. Each
variant is trained by `jaxcifar.main` in a separate process and workdir. Rerunning the command
resumes the sweep: finished runs are not repeated. A failed run does not stop the others. The sweep
ends with the table of `jaxcifar report`.

Fields that no variant sets can be set on the command line, for all variants.
"""

import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxcifar import errors
from jaxcifar.errors import InputError, StoppedError
from jaxcifar.resilience import closed_output, signals
from jaxcifar.tools import cli

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe file, e.g. configs/ablations.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Parent directory of the runs [runs/<config name>_sweep]."
)
_ONLY = flags.DEFINE_list("only", None, "Names of the variants to train [all].")
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds to train each variant with [the recipe's].")
_LIST = flags.DEFINE_bool("list", False, "Print the variants and their fields.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands without running them.")

Fields = dict[str, Any]  # e.g. {"optimizer.learning_rate": 0.1}


class Trial(NamedTuple):
    """One run of the sweep.

    Attributes:
      workdir: directory of the run.
      config: its config, with the variant's fields set.
      command: command line that trains it.
    """

    workdir: Path
    config: ConfigDict
    command: list[str]


def main() -> None:
    """Trains the variants that the flags select."""
    from jaxcifar.resilience import manifest  # slow to import; --help does not need it

    if _LIST.value:
        return _print_variants()
    trials = _trials()
    for trial in trials:
        manifest.check_config(trial.workdir, trial.config)
    if _DRY_RUN.value:
        for trial in trials:
            print(shlex.join(["python", *trial.command[1:]]))
        return
    failed = []
    for number, trial in enumerate(trials, 1):
        print(f"[{number}/{len(trials)}] {trial.workdir}", flush=True)
        if "end" in manifest.read(trial.workdir):
            print("already finished, skipping")
        elif (code := run(trial.command)) == closed_output.EXIT_CODE:
            sys.exit(code)
        elif code:
            failed.append(f"{trial.workdir} (exit code {code})")
    subprocess.run([sys.executable, "-m", "jaxcifar.tools.report", str(_workdir())])
    if failed:
        sys.exit(
            f"error: {len(failed)} of {len(trials)} runs failed: {', '.join(failed)}\n"
            "Rerun the same command to resume or restart them."
        )


def run(command: list[str]) -> int:
    """Runs a command to completion, forwarding to it the signals that end a run.

    Args:
      command: program and arguments.

    Returns:
      The command's exit code, or minus the number of the signal that killed it.

    Raises:
      StoppedError: if a signal was forwarded; raised once the command has ended.
    """
    received: list[int] = []
    child = None

    def forward(number: int, _: Any) -> None:
        received.append(number)
        if child:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in signals.unignored()}
    try:
        # In its own process group: otherwise Ctrl-C would reach it twice and kill it immediately.
        child = subprocess.Popen(command, process_group=0)
        if received:
            child.send_signal(received[0])
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise StoppedError(
            f"the sweep was stopped by {signals.describe(received[0])}; rerun the same command "
            "to resume",
            code=128 + received[0],
        )
    return code


def variants(path: str) -> dict[str, Fields]:
    """Returns the variants of a recipe file by name; {"": {}} if it has no `get_sweep`.

    Unnamed variants are named after their fields, e.g. learning_rate=0.1+weight_decay=0.0001.

    Args:
      path: the recipe file.

    Raises:
      InputError: if `get_sweep` fails or returns something else, or two variants share a name.
    """
    get_sweep = runpy.run_path(path).get("get_sweep", lambda: {"": {}})
    try:
        found = get_sweep()
        pairs = list(found.items() if isinstance(found, dict) else _named(path, found))
    except InputError:
        raise
    except Exception as error:  # a recipe may raise anything
        raise InputError(f"{path}: get_sweep: {type(error).__name__}: {error}") from error
    for name, fields in pairs:
        if not (isinstance(name, str) and isinstance(fields, dict)):
            raise InputError(
                f"{path}: get_sweep: {name!r}: {fields!r} is not a name with a dictionary of fields"
            )
        if name and not re.fullmatch(r"[\w+=][\w.+=-]*", name):  # no comma, for --only
            raise InputError(
                f"{path}: get_sweep: variant name {name!r} is not a valid directory name"
            )
    names = [name for name, _ in pairs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{path}: get_sweep: two variants are named {min(twice)!r}")
    if not pairs:
        raise InputError(f"{path}: get_sweep returned no variants")
    return dict(pairs)


def _named(path: str, found: Any) -> Iterable[tuple[str, Fields]]:
    if not isinstance(found, Iterable):
        raise InputError(
            f"{path}: get_sweep returned {type(found).__name__}, not a collection of variants"
        )
    for fields in found:
        if not isinstance(fields, dict):
            raise InputError(f"{path}: get_sweep: {fields!r} is not a dictionary of fields")
        values = {field.split(".")[-1]: value for field, value in fields.items()}
        texts = (
            f"{field}={format(value, '.4g') if isinstance(value, float) else value}"
            for field, value in values.items()
        )
        yield re.sub(r"[^\w.+=-]+", "_", "+".join(texts)), fields


def _recipe() -> str:
    """The value of --config."""
    if _CONFIG.value is None:
        raise InputError("--config must name a recipe, e.g. --config=configs/ablations.py")
    return config_flags.get_config_filename(flags.FLAGS["config"])


def _print_variants() -> None:
    found = variants(_recipe().split(":")[0])
    width = max(map(len, found))
    for name, fields in found.items():
        values = ", ".join(f"{field}={value}" for field, value in fields.items())
        print(f"{name:{width}}  {values or 'the recipe itself'}".lstrip())


def _trials() -> list[Trial]:
    """Returns the runs that the flags select, each with a validated config."""
    recipe = _recipe()
    found = variants(recipe.split(":")[0])
    for name in _ONLY.value or ():
        if name not in found:
            raise errors.unknown(f"variant of {recipe}", name, found)
    chosen = _ONLY.value or list(found)
    seeds = [_number(seed) for seed in _SEEDS.value or ()]
    given = config_flags.get_override_values(flags.FLAGS["config"])
    trials = []
    for name in dict.fromkeys(chosen):
        for seed in dict.fromkeys(seeds) or [None]:
            workdir = _workdir() / name
            fields = dict(found[name])
            if seed is not None:
                if "train.seed" in fields:
                    raise InputError(
                        f"--seeds: {recipe}'s variant {name!r} already sets train.seed"
                    )
                workdir /= f"seed_{seed}"
                fields["train.seed"] = seed
            if both := fields.keys() & given.keys():
                raise InputError(
                    f"--config.{min(both)}: the variants of the sweep set this field themselves"
                )
            config = _changed(_CONFIG.value, fields, f"{recipe}, variant {name!r}")
            settings = [f"--config.{field}={value}" for field, value in (given | fields).items()]
            command = [sys.executable, "-m", "jaxcifar.main", f"--config={recipe}"]
            trials.append(Trial(workdir, config, [*command, f"--workdir={workdir}", *settings]))
    return trials


def _changed(config: ConfigDict, fields: Fields, where: str) -> ConfigDict:
    from jaxcifar.config.structure import check_field
    from jaxcifar.config.validation import validate

    config = config.copy_and_resolve_references()
    try:
        for path, value in fields.items():
            check_field(path)
            section, field = path.split(".")
            config[section][field] = value.item() if isinstance(value, np.generic) else value
        validate(config)
    except (InputError, TypeError) as error:
        raise InputError(f"{where}: {error}") from error
    return config


def _number(seed: str) -> int:
    if not seed.strip().isdecimal():
        raise InputError(f"--seeds: {seed!r} is not a non-negative integer; expected e.g. 0,1,2")
    return int(seed)


def _workdir() -> Path:
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).name.replace(".py", "")
    name = re.sub(r"[^\w.-]+", "_", name)
    return cli.run_directory("workdir", _WORKDIR.value or f"runs/{name}_sweep")


if __name__ == "__main__":
    cli.run(main, __doc__)
