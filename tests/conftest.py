"""Fixtures: two fake devices, data sets and processes that several tests share."""

import importlib.util
import os
import re
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


def _skip_without_tensorflow(error: BaseException) -> None:
    """Turns an error into a skipped test if it says that TensorFlow is not installed."""
    if isinstance(error, AssertionError):
        return
    missing = re.search(r"No module named 'tensorflow|jaxcifar\[tf\]", str(error))
    if missing and importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow, an optional dependency")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Skips a test whose fixtures need TensorFlow where it is not installed."""
    try:
        return (yield)
    except Exception as error:
        _skip_without_tensorflow(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Skips a test that needs TensorFlow where it is not installed."""
    try:
        return (yield)
    except Exception as error:
        _skip_without_tensorflow(error)
        raise


@pytest.fixture(scope="session")
def cifar_archives() -> Path:
    """Directory with the unpacked official binary archives; skips the test without it."""
    path = os.environ.get("JAXCIFAR_TEST_DATA")
    if not path:
        pytest.skip("set JAXCIFAR_TEST_DATA to a directory with the unpacked binary CIFAR archives")
    return Path(path)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Makes the package choose its GPU code paths."""
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")


@pytest.fixture(scope="module")
def tiny():
    """Registers the model "tiny"."""
    from jaxcifar import models  # not before JAX may start
    from tests.tiny import Tiny

    models.register({"tiny": {}}, source="", head="head")(Tiny)
    yield
    del models.registered["tiny"]


@pytest.fixture(scope="session")
def start_main():
    """Starts `python -m jaxcifar.main` in a new process with one device.

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
    """A server that runs command lines to completion, on one device and without a network."""
    nowhere = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere)
    with CommandLines(XLA_FLAGS=USERS_XLA_FLAGS, **proxies) as server:
        yield server


@pytest.fixture(scope="session")
def run_command(command_lines):
    """Runs a module or a script to completion, in the root of the repository."""

    def run(target: str | Path, *arguments: object) -> Done:
        return command_lines.run(str(target), *arguments, cwd=REPOSITORY, timeout=900)

    return run


@pytest.fixture(scope="session")
def run_main(run_command):
    """Runs `python -m jaxcifar.main` to completion; returns exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int | None, str, str]:
        return run_command("jaxcifar.main", *arguments)[:3]

    return run


@pytest.fixture(scope="session")
def whole_run(run_main, tmp_path_factory):
    """Workdir of an undisturbed `RUN`; a test that writes to it must copy it first."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    code, _, err = run_main(*RUN, f"--workdir={workdir}")
    assert code == 0, err
    return workdir
