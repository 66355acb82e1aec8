"""What a run says about itself: its config, and the software and hardware of each of its starts."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxcifar.errors import InputError

_FILE = "manifest.json"

# What a run may change when it goes on: where things are, and how often it looks at itself.
_FREE = ("dataset.data_dir", "eval.", "checkpoint.", "log.")

_PACKAGES = (
    "jaxcifar jax jaxlib flax optax orbax-checkpoint numpy tensorflow-cpu tensorflow "
    "tensorflow-datasets clu ml-collections"
).split()


def check_config(workdir: Path, config: ConfigDict) -> None:
    """Checks that a config is the one that the run in `workdir` was started with.

    Raises:
      InputError: with the fields that differ; a new or empty workdir fits any config.
    """
    run = _read(workdir)
    if run is None:
        return
    before, now = _flat(run["config"]), _flat(_plain(config))
    changed = [
        f"  {field}: {before.get(field, 'absent')!r} there, {now.get(field, 'absent')!r} here"
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field) and not field.startswith(_FREE)
    ]
    if changed:
        shown = changed[:15] + ([f"  and {len(changed) - 15} more"] if len(changed) > 15 else [])
        raise InputError(
            f"{workdir} holds a run of another config:\n" + "\n".join(shown) + "\n"
            "Choose another --workdir, or go on from its last checkpoint with the new config by "
            "--accept_config_change."
        )


def record_start(workdir: Path, config: ConfigDict, step: int) -> None:
    """Writes the config into the manifest and adds this start to those before."""
    run = _read(workdir) or {"starts": []}
    start = {
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
    run = {"config": _plain(config), "starts": [*run["starts"], start]}
    write_json(workdir / _FILE, run)


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file as a whole, so that a reader never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2) + "\n")
    part.replace(path)


def _read(workdir: Path) -> dict[str, Any] | None:
    path = workdir / _FILE
    if not path.exists():
        return None
    try:
        run = json.loads(path.read_text())
        return {"config": dict(run["config"]), "starts": list(run["starts"])}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not valid JSON of a run ({error})") from error


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
