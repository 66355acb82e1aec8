"""Repeats finished runs from their manifests and compares the two bit for bit."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy import stats

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


class Outcome(NamedTuple):
    """How a repeated run compares with its original.

    Attributes:
      identical: whether metrics and final state have the same bits.
      elsewhere: whether versions, hardware, settings or the commit differ.
      accuracy: final accuracy of the repetition, a fraction.
    """

    identical: bool
    elsewhere: bool
    accuracy: float


def reproduce(workdir: Path, out: Path) -> bool:
    """Repeats finished runs as their manifests describe them, and prints how the two compare.

    Args:
      workdir: directory of a finished run, or one with the runs of a config by seed, as in
        results/.
      out: directory of the new run, or of the new runs by seed; what was interrupted there is
        resumed.

    Returns:
      Whether the rows of `metrics.csv` (except for times, speeds and memory), the final metrics
      and the final state are identical; or, where versions, hardware, settings or the commit
      differ, whether the mean accuracy is within the deviation of the original's seeds.

    Raises:
      InputError: if there is no such run, it has not finished, its config was changed while it ran,
        it started from imported weights, the data differ, or `out` contains something else.
    """
    runs = _runs(workdir)
    outs = [out] if runs == [workdir] else [out / run.name for run in runs]
    pairs = list(zip(runs, outs, strict=True))
    for run, directory in pairs:
        _check(run)
        if not _can_resume(run, directory, compared=len(runs) > 1):
            raise InputError(f"{directory} already exists; remove it or choose another --out")
    outcomes = [_repeat(run, directory) for run, directory in pairs]
    if all(outcome.identical for outcome in outcomes):
        return True
    if jax.process_index() > 0:
        return False
    seeds = [_accuracy(run) for run in _seeds(runs[0])]
    close = _is_close(seeds, [outcome.accuracy for outcome in outcomes])
    return close and all(outcome.identical or outcome.elsewhere for outcome in outcomes)


def default_out(workdir: Path) -> Path:
    """Returns where the runs in `workdir` are repeated if nothing else is said."""
    if (workdir / "checkpoints").exists():
        return workdir / "reproduction"
    return Path("runs") / f"reproduction_{'_'.join(workdir.resolve().parts[-2:])}"


def _runs(workdir: Path) -> list[Path]:
    """The runs to repeat: `workdir`, or the runs by seed within it."""
    if manifest.is_missing(workdir):
        seeds = [path.parent for path in workdir.glob("*/manifest.json")]
        if seeds and all(path.name.isdigit() for path in seeds):
            return sorted(seeds, key=lambda path: int(path.name))
    return [workdir]


def _seeds(workdir: Path) -> list[Path]:
    """The finished runs beside `workdir`, itself included, that differ from it in their seed."""

    def config(run: Path) -> dict[str, Any]:
        config = manifest.saved_config(manifest.read(run))
        config.train.seed, config.dataset.data_dir = 0, ""
        return config.to_dict()

    found = []
    for path in sorted(workdir.resolve().parent.glob("*/manifest.json")):
        with suppress(InputError):
            if "end" in manifest.read(path.parent) and config(path.parent) == config(workdir):
                found.append(path.parent)
    return found


def _check(workdir: Path) -> None:
    """Raises an InputError if the run in `workdir` cannot be repeated."""
    run = manifest.read_run(workdir)
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


def _repeat(workdir: Path, out: Path) -> Outcome:
    """Repeats one run, unless that was done and compared already."""
    run = manifest.read(workdir)
    config = manifest.saved_config(run)
    if config.train.deterministic:
        environment.make_deterministic()
    processes.start(config.train.distributed)
    changes = list(_software(run))
    if jax.process_index() == 0:
        for line in changes[:10]:
            print(f"environment differs: {line}")
        out.mkdir(parents=True, exist_ok=True)
        manifest.update(out, reproduces=str(workdir.resolve()), data=run["data"])
    processes.barrier()
    train(config, out)

    differences = list(islice(_differences(config, workdir, out), 5))
    outcome = Outcome(not differences, bool(changes), _accuracy(out))
    if jax.process_index() > 0:
        return outcome
    manifest.update(out, identical=outcome.identical)
    if outcome.identical:
        step = run["end"]["step"]
        print(f"bit-for-bit identical: all metrics and the state at step {step:,}")
    else:
        print("\n".join([f"not identical: {workdir} and {out} differ, first in", *differences]))
    return outcome


def _accuracy(workdir: Path) -> float:
    """Final accuracy on the held-out images, if there are any, otherwise on the test images."""
    metrics = manifest.read(workdir)["end"]["metrics"]
    return metrics.get("validation", metrics["test"])["accuracy"]


def _is_close(seeds: Sequence[float], repeated: Sequence[float]) -> bool:
    """Prints whether the mean of repeated runs is within the deviation of the original's seeds.

    That is, whether it is in the interval that has it with a probability of 95 % if both come from
    the same normal distribution: Student's t, with the deviation of the original's seeds alone.

    Args:
      seeds: final accuracies of all seeds of the original.
      repeated: final accuracies of the repeated runs.
    """
    difference = statistics.mean(repeated) - statistics.mean(seeds)
    print(
        f"accuracy: {statistics.mean(seeds):.2%} (original, mean of {len(seeds)}), "
        f"{statistics.mean(repeated):.2%} (reproduction, mean of {len(repeated)})"
    )
    if len(seeds) < 2:
        print("the original has one seed, hence no deviation to compare with")
        return False
    width = stats.t.ppf(0.975, len(seeds) - 1) * statistics.stdev(seeds)
    width *= (1 / len(seeds) + 1 / len(repeated)) ** 0.5
    close = abs(difference) <= width
    print(
        f"{'within' if close else 'not within'} the deviation of the original's seeds: "
        f"a difference of up to {100 * width:.2f} percentage points is to be expected"
    )
    return close


def _can_resume(workdir: Path, out: Path, compared: bool) -> bool:
    """Whether `out` is unused, or has a reproduction of `workdir`.

    Args:
      workdir: directory of the original.
      out: directory of the reproduction.
      compared: whether it may have been compared with the original already.
    """
    if not out.exists() or all(path.name == "manifest.json.part" for path in out.iterdir()):
        return True
    existing = manifest.read(out)
    ours = existing.get("reproduces") == str(workdir.resolve())
    return ours and (compared or "identical" not in existing)


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
        if (workdir / "checkpoints").exists():
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
