"""Two fake devices, and the data and processes that several tests need."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# Before JAX starts. More threads than cores, or the fake devices' collectives can hang.
_TWO_DEVICES = "--xla_force_host_platform_device_count=2"
_USERS_FLAGS = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{_USERS_FLAGS} {_TWO_DEVICES}".strip()
os.environ.setdefault("NPROC", "16")
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests and the processes they start compile the same programs again and again.
_CACHE = tempfile.TemporaryDirectory(prefix="jaxcifar_test_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def cifar_archives() -> Path:
    """A directory with the files of the official binary archives, or a skipped test."""
    path = os.environ.get("JAXCIFAR_TEST_DATA")
    if not path:
        pytest.skip("set JAXCIFAR_TEST_DATA to a directory with the unpacked binary CIFAR archives")
    return Path(path)


@pytest.fixture(scope="session")
def start_main():
    """Starts `python -m jaxcifar.main` in a process of its own, on one device.

    Positional arguments are the command line's, keywords are environment variables.
    """

    def start(*arguments: str, **variables: str) -> subprocess.Popen:
        env = {**os.environ, "XLA_FLAGS": _USERS_FLAGS, **variables}
        return subprocess.Popen(
            [sys.executable, "-m", "jaxcifar.main", *arguments],
            cwd=REPOSITORY,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def run_main(start_main):
    """Runs `python -m jaxcifar.main` to its end; returns exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        process = start_main(*arguments)
        out, err = process.communicate(timeout=900)
        return process.returncode, out, err

    return run
