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
from jaxcifar.config.structure import same_default, with_new_names
from jaxcifar.errors import InputError
from jaxcifar.kernels import native
from jaxcifar.kernels.backend import is_cpu
from jaxcifar.regular_files import check_regular
from jaxcifar.resilience import arithmetic
from jaxcifar.resilience.files import json_numbers, write_json
from jaxcifar.resilience.store import CheckpointStore
from jaxcifar.resilience.trees import shorten, tree_sha256

_FILE = "manifest.json"
_KINDS = {"config": dict, "data": dict, "end": dict, "starts": list, "rollbacks": list}

_PACKAGES = (
    "jaxcifar jax jaxlib flax optax orbax-checkpoint numpy tensorflow-cpu tensorflow "
    "tensorflow-datasets clu ml-collections"
).split()


def check_config(
    workdir: Path, config: ConfigDict, *, accept: bool = False, trains: bool = True
) -> None:
    """Checks that the run in `workdir` can be resumed with a config; a new workdir fits any.

    The config is compared with that of the manifest, and its "identity" fields with those that the
    newest checkpoint carries as well: the manifest could be that of another run.

    Args:
      workdir: directory of the run.
      config: see `config.default`; `config.RESUME` lists which fields may differ.
      accept: whether fields of class "changeable" may differ.
      trains: whether the run will be trained, not only evaluated; affects the advice in the
        message.

    Raises:
      InputError: if fields differ that may not; the message lists them.
    """
    changes = config_changes(read(workdir), config)
    known = {change["field"] for change in changes}
    changes += [
        change
        for change in config_changes(_carried(workdir), config)
        if change["field"] not in known and RESUME.get(change["field"]) == "identity"
    ]
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


def config_changes(run: dict[str, Any], config: ConfigDict) -> list[dict[str, Any]]:
    """Returns `field`, `old` and `new` of each difference between a run's config and another.

    Args:
      run: contents of the run's manifest; without a config nothing differs.
      config: the other config; differences in "free" fields are left out.
    """
    if "config" not in run:
        return []
    # A field that did not exist when the run was started had the effect of its default.
    before, now = _flat(plain(default())) | _flat(run["config"]), _flat(plain(config))
    return [
        {"field": field, "old": before.get(field), "new": now.get(field)}
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field) and RESUME.get(field) != "free"
        if not same_default(field, before.get(field), now.get(field))
    ]


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
                "Choose another --workdir, or set --config.dataset.data_dir to the data of the run."
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
    changes = [{"step": step, **change} for change in config_changes(run, config)]
    ended = run.pop("end", None)
    other = arithmetic.change(saved_arithmetic(workdir, step), config)
    if other and not ended:
        changes.append({"step": step, "field": "convolutions", **other})
    run |= {
        "config": plain(config),
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

    If the file is missing, or does not have the config, the result has the entries that the newest
    checkpoint carries.

    Raises:
      InputError: if the file is not valid JSON, or not a file.
    """
    run = _read_file(workdir)
    return run if "config" in run else {**_carried(workdir), **run}


def read_run(workdir: Path) -> dict[str, Any]:
    """Returns the manifest of a run that must exist.

    Raises:
      InputError: if there is none, or it has no config; otherwise as `read`.
    """
    run = read(workdir)
    if "config" not in run:
        raise InputError(f"{workdir}: not a run: it has no manifest.json with a config")
    return run


def is_missing(workdir: Path) -> bool:
    """Returns whether the file of a run's manifest is missing, or does not have the config."""
    return "config" not in _read_file(workdir)


def to_carry(workdir: Path) -> dict[str, Any]:
    """Returns the entries that a checkpoint carries, in case the file of the manifest is lost.

    These are all except the end, and of the starts only the last one, as there may be very many.
    """
    run = read(workdir)
    run.pop("end", None)
    return {**run, "starts": run.get("starts", [])[-1:]}


def saved_step(run: dict[str, Any]) -> int:
    """Returns a step, above 0, at which a run is known to have had a checkpoint; 0 if unknown.

    Args:
      run: contents of the run's manifest.
    """
    steps = [start["step"] for start in run.get("starts", ())]
    steps += [rollback["to_step"] for rollback in run.get("rollbacks", ())]
    steps += [run.get("first_checkpoint", 0), run.get("end", {}).get("step", 0)]
    return max(steps)


def saved_config(run: dict[str, Any]) -> ConfigDict:
    """Returns the config of a run.

    Args:
      run: contents of the run's manifest.

    Raises:
      InputError: if it has a field that no longer exists.
    """

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    config = default()
    for section, fields in run["config"].items():
        for field, value in fields.items():
            try:
                config[section][field] = tuples(value)
            except (KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"manifest.json: {section}.{field} = {value!r} was written by a different "
                    "version of jaxcifar; see `commit` in the manifest"
                ) from error
    return config


def update(workdir: Path, **entries: Any) -> None:
    """Sets entries of the manifest; they are on disk when this returns."""
    write_json(workdir / _FILE, read(workdir) | entries)


def _read_file(workdir: Path) -> dict[str, Any]:
    """The contents of manifest.json; {} if it is missing."""
    path = workdir / _FILE
    check_regular(path)
    if not path.exists():
        return {}
    try:
        # Earlier versions wrote a bare NaN.
        run = _with_new_names(json_numbers(json.loads(path.read_text())))
        for name, kind in _KINDS.items():
            if not isinstance(run.get(name, kind()), kind):
                raise TypeError(f"{name} must be a {kind.__name__}")
        return run
    except (ValueError, TypeError, RecursionError) as error:  # the last: nested too deeply
        hint = ""
        if "config" in _carried(workdir):
            hint = "; remove it to have it written again from the last checkpoint"
        raise InputError(f"{path}: not a valid manifest: {error}{hint}") from error


def _carried(workdir: Path) -> dict[str, Any]:
    """The entries of the manifest that the newest checkpoint carries."""
    carried = CheckpointStore(workdir / "checkpoints").newest_carried()
    return _with_new_names(carried.get("run_manifest", {}))


def _with_new_names(run: dict[str, Any]) -> dict[str, Any]:
    return {**run, "config": with_new_names(run["config"])} if "config" in run else {**run}


def plain(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as it is in a manifest."""
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
