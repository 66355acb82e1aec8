"""Two fake devices, and the data and processes that several tests need."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.command_server import CommandLines, Done
from tests.helpers import REPOSITORY, RUN, USERS_XLA_FLAGS

# Before JAX starts. More threads than cores, or the fake devices' collectives can hang.
_TWO_DEVICES = "--xla_force_host_platform_device_count=2"
os.environ["XLA_FLAGS"] = f"{USERS_XLA_FLAGS} {_TWO_DEVICES}".strip()
os.environ.setdefault("NPROC", "16")
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests and the processes they start compile the same programs again and again.
_CACHE = tempfile.TemporaryDirectory(prefix="jaxcifar_test_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


@pytest.fixture(scope="session")
def cifar_archives() -> Path:
    """A directory with the files of the official binary archives, or a skipped test."""
    path = os.environ.get("JAXCIFAR_TEST_DATA")
    if not path:
        pytest.skip("set JAXCIFAR_TEST_DATA to a directory with the unpacked binary CIFAR archives")
    return Path(path)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Has the package compute as on a GPU, wherever it does it in another way there."""
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")


@pytest.fixture(scope="module")
def tiny():
    """Adds the model "tiny" to those that a config can name."""
    from jaxcifar import models  # not before JAX may start
    from tests.tiny import Tiny

    models.register({"tiny": {}}, source="")(Tiny)
    yield
    del models.registered["tiny"]


@pytest.fixture(scope="session")
def start_main():
    """Starts `python -m jaxcifar.main` in a process of its own, on one device.

    Positional arguments are the command line's, keywords are environment variables.
    """

    def start(*arguments: str, **variables: str) -> subprocess.Popen:
        env = {**os.environ, "XLA_FLAGS": USERS_XLA_FLAGS, **variables}
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
def command_lines():
    """Runs command lines to their ends, on one device and without a network."""
    nowhere = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere)
    with CommandLines(XLA_FLAGS=USERS_XLA_FLAGS, **proxies) as server:
        yield server


@pytest.fixture(scope="session")
def run_command(command_lines):
    """Runs a module or a script to its end, in the repository's root."""

    def run(target: str | Path, *arguments: object) -> Done:
        return command_lines.run(str(target), *arguments, cwd=REPOSITORY, timeout=900)

    return run


@pytest.fixture(scope="session")
def run_main(run_command):
    """Runs `python -m jaxcifar.main` to its end; returns exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int | None, str, str]:
        return run_command("jaxcifar.main", *arguments)[:3]

    return run


@pytest.fixture(scope="session")
def whole_run(run_main, tmp_path_factory):
    """The workdir of `RUN`, which nothing has broken; a test that writes to it copies it."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    code, _, err = run_main(*RUN, f"--workdir={workdir}")
    assert code == 0, err
    return workdir
