"""The runs of a sweep: variants of a recipe, times seeds, and one machine's share of them."""

import os
import re
import runpy
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxcifar import errors
from jaxcifar.config.structure import check_field
from jaxcifar.config.validation import validate
from jaxcifar.errors import InputError

Fields = dict[str, Any]  # e.g. {"optimizer.learning_rate": 0.1}

# Where clusters tell a job its index: SLURM arrays and Kubernetes' Indexed Jobs.
_INDICES = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")


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


def trials(
    recipe: str,
    config: ConfigDict,
    parent: Path,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    given: Mapping[str, Any],
) -> list[Trial]:
    """Returns the runs of a sweep, each with a validated config.

    Args:
      recipe: file of the recipe, with its argument if any.
      config: config that it returns, with the given fields set.
      parent: directory of the runs.
      only: names of the variants to train; all if empty.
      seeds: seeds to train each with; the recipe's if empty.
      given: fields that are set for all variants.

    Raises:
      InputError: if a variant is unknown or invalid, or a field is set twice.
    """
    found = variants(recipe.split(":")[0])
    for name in only:
        if name not in found:
            raise errors.unknown(f"variant of {recipe}", name, found)
    runs = []
    for name in dict.fromkeys(only or found):
        for seed in dict.fromkeys(seeds) or [None]:
            workdir = parent / name
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
            valid = changed(config, fields, f"{recipe}, variant {name!r}")
            settings = [f"--config.{field}={value}" for field, value in {**given, **fields}.items()]
            command = [sys.executable, "-m", "jaxcifar.main", f"--config={recipe}"]
            runs.append(Trial(workdir, valid, [*command, f"--workdir={workdir}", *settings]))
    return runs


def shard(runs: Sequence[Trial], part: str) -> list[Trial]:
    """Returns every n-th run, for a sweep that several machines share.

    Args:
      runs: all runs of the sweep.
      part: "i/n" for the runs i, i + n, i + 2n, ..., where i is from 0 to n - 1; or "n", where the
        index is in the environment, as in SLURM arrays and Kubernetes' Indexed Jobs.

    Raises:
      InputError: if it is something else, or the index is missing or too large.
    """
    if not (found := re.fullmatch(r"(?:(\d+)/)?(\d+)", part.strip())):
        raise InputError(f"--shard={part}: must be an index from 0 and a number, e.g. 3/16")
    index, count = found[1], int(found[2])
    if index is None:
        name = next((name for name in _INDICES if name in os.environ), None)
        if name is None:
            raise InputError(
                f"--shard={part}: no index: none of {', '.join(_INDICES)} is set; give it, e.g. "
                f"0/{count}"
            )
        index = os.environ[name]
        if not index.isdecimal():
            raise InputError(f"--shard={part}: {name}={index} is not an index")
    if count < 1 or int(index) >= count:
        raise InputError(f"--shard={part}: the index {index} must be from 0 to {count - 1}")
    return list(runs[int(index) :: count])


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


def changed(config: ConfigDict, fields: Fields, where: str) -> ConfigDict:
    """Returns a copy of a config with fields set, after validating it.

    Args:
      config: see `config.default`.
      fields: values by path.
      where: what the fields come from, for error messages.

    Raises:
      InputError: if the result is invalid.
    """
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
