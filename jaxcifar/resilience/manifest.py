"""What a run says about itself, in manifest.json.

That is its config and data, the software and hardware of each of its starts, what was changed or
undone on the way, and how it ended.
"""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxcifar.config import RESUME, default
from jaxcifar.config.structure import with_new_names
from jaxcifar.errors import InputError
from jaxcifar.kernels import native
from jaxcifar.kernels.backend import is_cpu

_FILE = "manifest.json"

_PACKAGES = (
    "jaxcifar jax jaxlib flax optax orbax-checkpoint numpy tensorflow-cpu tensorflow "
    "tensorflow-datasets clu ml-collections"
).split()


def check_config(
    workdir: Path, config: ConfigDict, *, accept: bool = False, trains: bool = True
) -> None:
    """Checks that the run in `workdir` may go on with a config; a new workdir fits any.

    Args:
      workdir: of the run.
      config: see `config.default`; `config.RESUME` says what may differ.
      accept: whether what is "changeable" may.
      trains: whether the run is to go on, or only to be looked at.

    Raises:
      InputError: with the fields that differ and may not.
    """
    changes = _changes(workdir, config)
    never = [change for change in changes if RESUME.get(change["field"]) == "identity"]
    refused = never if accept else changes
    if refused:
        lines = [f"  {c['field']}: {c['old']!r} there, {c['new']!r} here" for c in refused]
        shown = lines[:15] + ([f"  and {len(lines) - 15} more"] if len(lines) > 15 else [])
        raise InputError(
            f"{workdir} holds a run of another config:\n"
            + "\n".join(shown)
            + "\n"
            + _advice(never, trains)
        )


def _advice(never: list[dict[str, Any]], trains: bool) -> str:
    if not trains:
        return "Choose another --workdir, or give the run's config."
    if never:
        field = never[0]["field"]
        return f"Choose another --workdir; its state means nothing with another {field}."
    return (
        "Choose another --workdir, or go on from its last checkpoint with the new config by "
        "--accept_config_change."
    )


def check_data(workdir: Path, fingerprints: dict[str, str]) -> None:
    """Checks that the data are those that the run in `workdir` was started with.

    Args:
      workdir: of the run.
      fingerprints: of the splits, see `datasets.fingerprints`.

    Raises:
      InputError: with both fingerprints of a split that is another.
    """
    for split, there in read(workdir).get("data", {}).items():
        if (here := fingerprints.get(split)) != there:
            raise InputError(
                f"the {split} split is not the one that the run in {workdir} was started with:\n"
                f"  fingerprint {there} there\n  fingerprint {here} here\n"
                "Choose another --workdir, or dataset.data_dir with the run's data."
            )


def record_start(
    workdir: Path, config: ConfigDict, step: int, fingerprints: dict[str, str] | None = None
) -> None:
    """Writes config and data into the manifest and adds this start to those before.

    Args:
      workdir: of the run.
      config: what of it differs from the one there, and is not free to, is recorded with the step.
      step: that the start goes on from.
      fingerprints: of the splits; None before they have been read.
    """
    run = read(workdir)
    run.pop("end", None)
    changes = [{"step": step, **change} for change in _changes(workdir, config)]
    run |= {
        "config": _plain(config),
        "seed": config.train.seed,
        "data": fingerprints or {},
        "config_changes": [*run.get("config_changes", ()), *changes],
        "starts": [*run.get("starts", ()), describe_start(step)],
    }
    write_json(workdir / _FILE, run)


def describe_start(step: int) -> dict[str, Any]:
    """Returns the command, software and hardware of a start that goes on from a step."""
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
        "environment": {
            name: os.environ[name] for name in ("XLA_FLAGS", "GLIBC_TUNABLES") if name in os.environ
        },
    }


def record_end(workdir: Path, step: int, state: Any, metrics: dict[str, dict[str, float]]) -> None:
    """Writes how the run ended into the manifest.

    Args:
      workdir: of the run.
      step: the last.
      state: the final one, fetched.
      metrics: of each evaluated split.
    """
    metrics = {name: {k: float(v) for k, v in values.items()} for name, values in metrics.items()}
    update(workdir, end={"step": step, "metrics": metrics, "state_sha256": tree_sha256(state)})


def tree_sha256(tree: Any) -> str:
    """Returns a SHA-256 over path, dtype, shape and bytes of each leaf, in hexadecimal."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def read(workdir: Path) -> dict[str, Any]:
    """Returns the manifest; {} if there is none.

    Raises:
      InputError: if it is not valid JSON.
    """
    path = workdir / _FILE
    if not path.exists():
        return {}
    try:
        run = json.loads(path.read_text())
        return {**run, "config": with_new_names(run["config"])} if "config" in run else {**run}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not valid JSON of a run ({error})") from error


def update(workdir: Path, **entries: Any) -> None:
    """Sets entries of the manifest, which is on the disk when this returns."""
    write_json(workdir / _FILE, read(workdir) | entries)


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file as a whole, so that a reader never sees half of it."""
    part = path.with_name(path.name + ".part")
    text = json.dumps(value, indent=2) + "\n"
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _changes(workdir: Path, config: ConfigDict) -> list[dict[str, Any]]:
    """The fields, but the free ones, in which a config is not that of the run, if there is one."""
    run = read(workdir)
    if "config" not in run:
        return []
    # A field that is younger than the run had its default's effect.
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
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    if is_cpu() and (compiler := native.compiler()):
        versions["compiler"] = compiler
    return versions


def _commit() -> str:
    """The package's git commit, with a + if files were changed since; "" outside a checkout."""
    root = Path(__file__).resolve().parent.parent
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
