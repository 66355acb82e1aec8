"""Runs a finished run again, from its manifest, and compares the two to the bit."""

from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxcifar import devices, environment
from jaxcifar.config import default, durations
from jaxcifar.data import datasets
from jaxcifar.errors import InputError
from jaxcifar.program import create_program
from jaxcifar.reporting.csv_log import read_rows
from jaxcifar.resilience import manifest
from jaxcifar.resilience.checkpoint import Checkpoints
from jaxcifar.train import train

_NOT_REPEATED = ("time", "images_per_second", "peak_memory")


def reproduce(workdir: Path, out: Path) -> bool:
    """Runs what the manifest of `workdir` describes again, and prints how it compares.

    Args:
      workdir: of a run that has ended.
      out: of the new run; it goes on with a reproduction that was interrupted.

    Returns:
      Whether the rows of `metrics.csv`, but the clock, the final metrics and the final state are
      the same.

    Raises:
      InputError: if there is no such run, it has not ended or its config was changed on the way,
        it began with the weights of a file, the data are others, or `out` holds something else.
    """
    run = manifest.read(workdir)
    if not run:
        raise InputError(f"{workdir}: no run, as it has no manifest.json")
    if "end" not in run:
        raise InputError(f"{workdir}: the run has not ended; start it again with its config first")
    if changes := run["config_changes"]:
        fields = ", ".join(f"{c['field']} at step {c['step']:,}" for c in changes)
        raise InputError(f"{workdir}: no config describes the run, which was changed: {fields}")
    if weights := run.get("weights"):
        raise InputError(
            f"{workdir}: no config describes the run, which began from {weights['file']}"
        )
    there = manifest.read(out)
    if out.exists() and ("end" in there or there.get("reproduces") != str(workdir.resolve())):
        raise InputError(f"{out} is there already; remove it or choose another --out")

    config = _config(run)
    if config.train.deterministic:
        environment.make_deterministic()
    devices.start(config.train.distributed)
    if jax.process_index() == 0:
        for line in islice(_software(run), 10):
            print(f"not as it was: {line}")
        out.mkdir(parents=True, exist_ok=True)
        manifest.update(out, reproduces=str(workdir.resolve()), data=run["data"])
    devices.meet()
    train(config, out)

    differences = list(islice(_differences(config, workdir, out), 5))
    step = run["end"]["step"]
    if jax.process_index() > 0:
        return not differences
    if not differences:
        print(f"equal to the bit: all metrics, and the state at step {step:,}")
    else:
        print("\n".join([f"not equal: {workdir} and {out} differ, first of all in", *differences]))
    return not differences


def _config(run: dict[str, Any]) -> ConfigDict:
    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    config = default()
    for section, fields in run["config"].items():
        for field, value in fields.items():
            try:
                config[section][field] = tuples(value)
            except (KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"manifest.json: {section}.{field} = {value!r} is of another version of "
                    "jaxcifar; see `commit` in the manifest"
                ) from error
    return config


def _software(run: dict[str, Any]) -> Iterator[str]:
    """What is not as it was at the run's last start."""
    start, here = run["starts"][-1], manifest.describe_start(0)
    for kind in "versions", "hardware":
        for name, value in start[kind].items():
            if name != "host" and here[kind].get(name) != value:
                yield f"{name} {value}, now {here[kind].get(name)}"
    for kind in "commit", "environment":
        if here[kind] != start[kind]:
            yield f"{kind} {start[kind] or '-'}, now {here[kind] or '-'}"


def _differences(config: ConfigDict, workdir: Path, out: Path) -> Iterator[str]:
    for one, other in zip_longest(_rows(workdir), _rows(out), fillvalue={}):
        row = f"  metrics.csv, step {(one or other)['step']}, {(one or other)['split']}:"
        if not (one and other):
            yield f"{row} a row that is {'there' if one else 'here'} alone"
            continue
        for column in one | other:
            if one.get(column) != other.get(column):
                yield f"{row} {column} {one.get(column)!r} there, {other.get(column)!r} here"
    ends = [manifest.read(directory)["end"] for directory in (workdir, out)]
    for name in "step", "metrics":
        if ends[0][name] != ends[1][name]:
            yield f"  the last {name}: {ends[0][name]} there, {ends[1][name]} here"
    if ends[0]["state_sha256"] != ends[1]["state_sha256"]:
        yield f"  the final state: {ends[0]['state_sha256']} there, {ends[1]['state_sha256']} here"
        yield from _array_differences(config, workdir, out, ends[0]["step"])


def _array_differences(config: ConfigDict, workdir: Path, out: Path, step: int) -> Iterator[str]:
    info = datasets.info(config.dataset)
    length = durations(config, info.train_size - config.dataset.validation_size)
    create_state = create_program(config, info, length).create_state
    states = []
    for directory in workdir, out:
        with Checkpoints(directory / "checkpoints", create=False) as checkpoints:
            states.append(checkpoints.restore(step, create_state).state)
    leaves = zip(*map(jax.tree_util.tree_leaves_with_path, states), strict=True)
    for (path, one), (_, other) in leaves:
        one, other = np.asarray(one), np.asarray(other)
        if one.tobytes() != other.tobytes():
            gap = np.abs(one.astype(float) - other.astype(float)).max()
            yield f"  {jax.tree_util.keystr(path)}: differs by up to {gap:.3g}"


def _rows(workdir: Path) -> list[dict[str, str]]:
    rows = read_rows(workdir / "metrics.csv")
    return [{name: v for name, v in row.items() if name not in _NOT_REPEATED} for row in rows]
