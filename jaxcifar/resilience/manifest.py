"""The manifest of a run, `manifest.json`: what was trained, with what, and how it ended.

It records config and data, software and hardware of every start, config changes and rollbacks, and
the final metrics and state hash.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxcifar.config import RESUME, default
from jaxcifar.config.structure import with_new_names
from jaxcifar.errors import InputError
from jaxcifar.kernels import native
from jaxcifar.kernels.backend import is_cpu
from jaxcifar.resilience import arithmetic
from jaxcifar.resilience.files import write_json
from jaxcifar.resilience.trees import shorten, tree_sha256

_FILE = "manifest.json"

_PACKAGES = (
    "jaxcifar jax jaxlib flax optax orbax-checkpoint numpy tensorflow-cpu tensorflow "
    "tensorflow-datasets clu ml-collections"
).split()


def check_config(
    workdir: Path, config: ConfigDict, *, accept: bool = False, trains: bool = True
) -> None:
    """Checks that the run in `workdir` can be resumed with a config; a new workdir fits any.

    Args:
      workdir: directory of the run.
      config: see `config.default`; `config.RESUME` lists which fields may differ.
      accept: whether fields of class "changeable" may differ.
      trains: whether the run will be trained, not only evaluated; affects the advice in the
        message.

    Raises:
      InputError: if fields differ that may not; the message lists them.
    """
    changes = _changes(workdir, config)
    never = [change for change in changes if RESUME.get(change["field"]) == "identity"]
    refused = never if accept else changes
    if refused:
        lines = [f"  {c['field']}: saved {c['old']!r}, requested {c['new']!r}" for c in refused]
        raise InputError(
            f"{workdir} already contains a run with a different config:\n"
            + "\n".join(shorten(lines))
            + "\n"
            + _advice(never, trains)
        )


def _advice(never: list[dict[str, Any]], trains: bool) -> str:
    if not trains:
        return "Choose another --workdir, or use the run's config."
    if never:
        field = never[0]["field"]
        return (
            "Choose another --workdir; the checkpoints there cannot be used with a different "
            f"{field}."
        )
    return (
        "Choose another --workdir, or resume from the last checkpoint with the new config: "
        "--accept_config_change."
    )


def check_data(workdir: Path, fingerprints: dict[str, str]) -> None:
    """Checks that the data is that with which the run in `workdir` was started.

    Args:
      workdir: directory of the run.
      fingerprints: fingerprint of each split, see `datasets.fingerprints`.

    Raises:
      InputError: if a split differs; the message has both fingerprints.
    """
    for split, saved in read(workdir).get("data", {}).items():
        if (found := fingerprints.get(split)) != saved:
            raise InputError(
                f"the {split} split differs from the one that the run in {workdir} was started "
                f"with:\n  saved fingerprint {saved}\n  found fingerprint {found}\n"
                "Choose another --workdir, or set dataset.data_dir to the data of the run."
            )


def saved_arithmetic(workdir: Path, step: int) -> dict[str, Any]:
    """Returns the arithmetic that led to a step, see `arithmetic.describe`; {} if not recorded."""
    before = [start for start in read(workdir).get("starts", ()) if start["step"] < step]
    return before[-1].get("arithmetic", {}) if before else {}


def record_start(
    workdir: Path, config: ConfigDict, step: int, fingerprints: dict[str, str] | None = None
) -> None:
    """Writes config and data to the manifest and appends this start to the earlier ones.

    Args:
      workdir: directory of the run.
      config: config of this start; differences from the saved one are recorded with the step,
        except in "free" fields.
      step: step from which training resumes.
      fingerprints: fingerprint of each split; None if the data has not been read yet.
    """
    run = read(workdir)
    changes = [{"step": step, **change} for change in _changes(workdir, config)]
    ended = run.pop("end", None)
    other = arithmetic.change(saved_arithmetic(workdir, step), config)
    if other and not ended:
        changes.append({"step": step, "field": "convolutions", **other})
    run |= {
        "config": _plain(config),
        "seed": config.train.seed,
        "data": fingerprints or {},
        "config_changes": [*run.get("config_changes", ()), *changes],
        "starts": [*run.get("starts", ()), describe_start(step)],
    }
    write_json(workdir / _FILE, run)


def describe_start(step: int) -> dict[str, Any]:
    """Returns command, software and hardware of a start that resumes from `step`."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "command": sys.argv,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {
            "host": platform.node(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "devices": [device.device_kind for device in jax.devices()],
            "processes": jax.process_count(),
        },
        "arithmetic": arithmetic.describe(),
        "environment": {
            name: os.environ[name] for name in ("XLA_FLAGS", "GLIBC_TUNABLES") if name in os.environ
        },
    }


def record_end(workdir: Path, step: int, state: Any, metrics: dict[str, dict[str, float]]) -> None:
    """Records the end of the run in the manifest.

    Args:
      workdir: directory of the run.
      step: last step.
      state: final state, fetched to the host.
      metrics: scalar metrics of each evaluated split.
    """
    metrics = {name: {k: float(v) for k, v in values.items()} for name, values in metrics.items()}
    update(workdir, end={"step": step, "metrics": metrics, "state_sha256": tree_sha256(state)})


def read(workdir: Path) -> dict[str, Any]:
    """Returns the manifest of a run; {} if there is none.

    Raises:
      InputError: if the file is not valid JSON.
    """
    path = workdir / _FILE
    if not path.exists():
        return {}
    try:
        run = json.loads(path.read_text())
        return {**run, "config": with_new_names(run["config"])} if "config" in run else {**run}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a valid manifest: {error}") from error


def update(workdir: Path, **entries: Any) -> None:
    """Sets entries of the manifest; they are on disk when this returns."""
    write_json(workdir / _FILE, read(workdir) | entries)


def _changes(workdir: Path, config: ConfigDict) -> list[dict[str, Any]]:
    """The fields that differ between the saved config and a new one, except "free" fields."""
    run = read(workdir)
    if "config" not in run:
        return []
    # A field that did not exist when the run was started had the effect of its default.
    before, now = _flat(_plain(default())) | _flat(run["config"]), _flat(_plain(config))
    return [
        {"field": field, "old": before.get(field), "new": now.get(field)}
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field) and RESUME.get(field) != "free"
    ]


def _plain(config: ConfigDict) -> dict[str, Any]:
    return json.loads(json.dumps(config.to_dict()))  # tuples become lists


def _flat(config: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{s}.{f}": value for s, fields in config.items() for f, value in fields.items()}


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    if is_cpu() and (compiler := native.compiler()):
        versions["compiler"] = compiler
    return versions


def _commit() -> str:
    """The git commit of the package, with a + if files have changed; "" outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", root, *args], capture_output=True, text=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except OSError:  # git is not installed
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
