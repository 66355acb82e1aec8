"""Trains the variants of a recipe one after another: ablations, grids, random searches, seeds.

    python -m jaxcifar.tools.sweep --config configs/ablations.py --dry_run
    python -m jaxcifar.tools.sweep --config configs/ablations.py --only baseline,cosine --seeds 0,1,2
    python -m jaxcifar.tools.sweep --config configs/resnet20.py --seeds 0,1,2,3,4

The variants are what the recipe's file returns from `get_sweep()`: a dictionary of names, or any
iterable such as scikit-learn's ParameterGrid and ParameterSampler, of dictionaries of fields and
their values. A recipe without one has itself alone. Each variant is a run of `jaxcifar.main` in a
process and a workdir of its own. Run again with the same workdir a sweep goes on: what has ended is
not repeated. One that fails does not hold up the others. The end is the table of jaxcifar.tools.report.

Any field that the variants leave alone can be set on the command line, for all of them.
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
from jaxcifar.tools import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the runs are kept [runs/<config name>_sweep]."
)
_ONLY = flags.DEFINE_list("only", None, "The names of the variants to train [all].")
_SEEDS = flags.DEFINE_list("seeds", None, "Train each variant with these seeds [the recipe's].")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands of the runs alone.")

Fields = dict[str, Any]  # as {"optimizer.learning_rate": 0.1}


class Trial(NamedTuple):
    """One run.

    Attributes:
      workdir: of it alone.
      config: what it trains.
      command: the command line that does.
    """

    workdir: Path
    config: ConfigDict
    command: list[str]


def main() -> None:
    """Trains what the flags say."""
    from jaxcifar.resilience import manifest  # not before --help is answered

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
            print("has ended before")
        elif code := run(trial.command):
            failed.append(f"{trial.workdir} (exit code {code})")
    subprocess.run([sys.executable, "-m", "jaxcifar.tools.report", f"--runs={_workdir()}"])
    if failed:
        sys.exit(
            f"error: {len(failed)} of {len(trials)} runs failed: {', '.join(failed)}\n"
            "The same command trains them again, or goes on from their last checkpoints."
        )


def run(command: list[str]) -> int:
    """Runs a command to its end, and hands it the signals that ask this process to stop.

    Returns:
      Its exit code, or the signal's negative number that ended it.

    Raises:
      StoppedError: once it has ended, if there was such a signal.
    """
    received: list[int] = []
    child = None

    def forward(number: int, _: Any) -> None:
        received.append(number)
        if child:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # In a process group of its own, or a Ctrl-C would reach it twice, which stops it at once.
        child = subprocess.Popen(command, process_group=0)
        if received:
            child.send_signal(received[0])
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise StoppedError(
            f"the sweep was stopped by {signal.Signals(received[0]).name}; the same command goes "
            "on from there",
            code=128 + received[0],
        )
    return code


def variants(path: str) -> dict[str, Fields]:
    """Returns the variants of a recipe's file by name; {"": {}} if it has no `get_sweep`.

    Those without a name are called by their fields, as learning_rate=0.1+weight_decay=0.0001.

    Raises:
      InputError: if they cannot be made or are not what they should be, or two have one name.
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
                f"{path}: get_sweep has {name!r}: {fields!r}, not a name and its fields"
            )
        if name and not re.fullmatch(r"[\w+=][\w.+=-]*", name):  # no comma, for --only
            raise InputError(f"{path}: get_sweep has the name {name!r}: it must do for a directory")
    names = [name for name, _ in pairs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{path}: get_sweep has two variants of the name {min(twice)!r}")
    if not pairs:
        raise InputError(f"{path}: get_sweep has no variants")
    return dict(pairs)


def _named(path: str, found: Any) -> Iterable[tuple[str, Fields]]:
    if not isinstance(found, Iterable):
        raise InputError(f"{path}: get_sweep returned a {type(found).__name__}, not variants")
    for fields in found:
        if not isinstance(fields, dict):
            raise InputError(f"{path}: get_sweep has {fields!r}, not a dictionary of fields")
        values = {field.split(".")[-1]: value for field, value in fields.items()}
        texts = (
            f"{field}={format(value, '.4g') if isinstance(value, float) else value}"
            for field, value in values.items()
        )
        yield re.sub(r"[^\w.+=-]+", "_", "+".join(texts)), fields


def _trials() -> list[Trial]:
    """The runs that the flags ask for, each with a config that has been checked."""
    if _CONFIG.value is None:
        raise InputError("--config must name a recipe, as configs/ablations.py")
    recipe = config_flags.get_config_filename(flags.FLAGS["config"])
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
                    raise InputError(f"--seeds: {recipe}'s variant {name!r} sets train.seed itself")
                workdir /= f"seed_{seed}"
                fields["train.seed"] = seed
            if both := fields.keys() & given.keys():
                raise InputError(f"--config.{min(both)}: the sweep varies it itself")
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
        raise InputError(f"--seeds: {seed!r} is no seed; allowed are numbers as 0,1,2")
    return int(seed)


def _workdir() -> Path:
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).name.replace(".py", "")
    name = re.sub(r"[^\w.-]+", "_", name)
    return cli.run_directory("workdir", _WORKDIR.value or f"runs/{name}_sweep")


if __name__ == "__main__":
    cli.run(main, __doc__)
