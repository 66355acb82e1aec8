"""Repeats a finished run from its manifest and compares the two runs bit for bit."""

from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxcifar import environment
from jaxcifar.config import durations
from jaxcifar.data import datasets
from jaxcifar.errors import InputError
from jaxcifar.program import create_program
from jaxcifar.reporting.csv_log import read_rows
from jaxcifar.resilience import manifest, processes
from jaxcifar.resilience.checkpoint import Checkpoints
from jaxcifar.train import train

_NOT_REPEATED = ("time", "images_per_second", "peak_memory")


def reproduce(workdir: Path, out: Path) -> bool:
    """Repeats the run that the manifest of `workdir` describes, and prints how the two compare.

    Args:
      workdir: directory of a finished run.
      out: directory of the new run; an interrupted reproduction there is resumed.

    Returns:
      Whether the rows of `metrics.csv` (except for times, speeds and memory), the final metrics
      and the final state are identical.

    Raises:
      InputError: if there is no such run, it has not finished, its config was changed while it ran,
        it started from imported weights, the data differ, or `out` contains something else.
    """
    run = manifest.read(workdir)
    if "config" not in run:
        raise InputError(f"{workdir}: not a run: it has no manifest.json with a config")
    if "end" not in run:
        raise InputError(f"{workdir}: the run has not finished; resume it with its config first")
    if changes := run.get("config_changes"):
        fields = ", ".join(f"{c['field']} at step {c['step']:,}" for c in changes)
        raise InputError(
            f"{workdir}: cannot be reproduced: the config was changed during the run: {fields}"
        )
    if weights := run.get("weights"):
        raise InputError(
            f"{workdir}: cannot be reproduced: the run started from weights in {weights['file']}"
        )
    if not _can_resume(workdir, out):
        raise InputError(f"{out} already exists; remove it or choose another --out")

    config = manifest.saved_config(run)
    if config.train.deterministic:
        environment.make_deterministic()
    processes.start(config.train.distributed)
    if jax.process_index() == 0:
        for line in islice(_software(run), 10):
            print(f"environment differs: {line}")
        out.mkdir(parents=True, exist_ok=True)
        manifest.update(out, reproduces=str(workdir.resolve()), data=run["data"])
    processes.barrier()
    train(config, out)

    differences = list(islice(_differences(config, workdir, out), 5))
    step = run["end"]["step"]
    if jax.process_index() > 0:
        return not differences
    manifest.update(out, identical=not differences)
    if not differences:
        print(f"bit-for-bit identical: all metrics and the state at step {step:,}")
    else:
        print("\n".join([f"not identical: {workdir} and {out} differ, first in", *differences]))
    return not differences


def _can_resume(workdir: Path, out: Path) -> bool:
    """Whether `out` is unused, or has a reproduction of `workdir` that was not compared with it."""
    if not out.exists() or all(path.name == "manifest.json.part" for path in out.iterdir()):
        return True
    existing = manifest.read(out)
    return existing.get("reproduces") == str(workdir.resolve()) and "identical" not in existing


def _software(run: dict[str, Any]) -> Iterator[str]:
    """Yields how versions, hardware and settings differ from those of the run's last start."""
    then, now = run["starts"][-1], manifest.describe_start(0)
    for kind in "versions", "hardware":
        for name, value in then[kind].items():
            if name != "host" and now[kind].get(name) != value:
                yield f"{name} {value}, now {now[kind].get(name)}"
    for kind in "commit", "environment":
        if now[kind] != then[kind]:
            yield f"{kind} {then[kind] or '-'}, now {now[kind] or '-'}"


def _differences(config: ConfigDict, workdir: Path, out: Path) -> Iterator[str]:
    nothing: dict[str, str] = {}
    for one, other in zip_longest(_rows(workdir), _rows(out), fillvalue=nothing):
        row = f"  metrics.csv, step {(one or other)['step']}, {(one or other)['split']}:"
        if not (one and other):
            yield f"{row} row exists only in the {'original' if one else 'reproduction'}"
            continue
        for column in one | other:
            if one.get(column) != other.get(column):
                yield f"{row} {column} {_both(repr(one.get(column)), repr(other.get(column)))}"
    ends = [manifest.read(directory)["end"] for directory in (workdir, out)]
    for name in "step", "metrics":
        if ends[0][name] != ends[1][name]:
            yield f"  final {name}: {_both(ends[0][name], ends[1][name])}"
    if ends[0]["state_sha256"] != ends[1]["state_sha256"]:
        yield f"  final state: {_both(*(end['state_sha256'] for end in ends))}"
        yield from _array_differences(config, workdir, out, ends[0]["step"])


def _both(original: Any, reproduction: Any) -> str:
    return f"{original} (original), {reproduction} (reproduction)"


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
