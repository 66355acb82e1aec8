"""Compiling the C++ convolutions; test_convolution.py checks their results."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcifar.kernels import native
from tests.helpers import REPOSITORY

PROGRAM = """
import hashlib, jax, numpy as np
from jaxcifar.kernels import batch_norm, convolution, native, pooled_convolution
print(native.compiler())
x, kernel, images = (np.random.RandomState(0).normal(size=size).astype("float32")
                     for size in ((40, 9, 9, 48), (3, 3, 48, 20), (64, 16, 16, 16)))
window = (1, 1), ((1, 1), (1, 1))
options = {"dimension_numbers": convolution.DIMENSIONS}
def conv(x, kernel):
    return convolution.conv_general_dilated(x, kernel, *window, **options)
def pooled(x, kernel):
    return pooled_convolution.conv_general_dilated(x, kernel, *window, **options)
def statistics(x):
    return batch_norm.batch_statistics(x, None)
cases = (
    (conv, x, kernel), (conv, x[:5], kernel), (conv, images, kernel[:, :, :16]),
    (pooled, images, kernel[:, :, :16]), (statistics, images),
)
found = []
for dtype in ("float32", "bfloat16"):
    for function, *arguments in cases:
        result, pull = jax.vjp(function, *(np.asarray(array, dtype) for array in arguments))
        found += jax.tree.leaves((result, pull(result)))
print([hashlib.sha256(np.asarray(array).tobytes()).hexdigest() for array in found])
print(round(float(sum(abs(array).sum() for array in found[:1]))))
"""


def run(cache, **variables):
    """Runs `PROGRAM` in a process of its own; returns the lines it printed, and its stderr."""
    env = {**os.environ, "XDG_CACHE_HOME": str(cache), **variables}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.fixture(scope="module")
def compiled(native_compiler, tmp_path_factory):
    """A cache directory with the compiled convolutions, and the output of the run that made it."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, run(cache)


def test_the_library_is_compiled_once(compiled, native_compiler):
    cache, (printed, warnings) = compiled
    assert printed[0] == native_compiler
    assert "warning" not in warnings
    (library,) = cache.rglob("*.so")
    built = library.stat().st_mtime_ns
    assert run(cache)[0] == printed
    assert library.stat().st_mtime_ns == built
    names = {path.name for path in library.parent.iterdir()}
    assert names == {library.name, library.with_suffix(".sha256").name}


def test_results_do_not_depend_on_the_number_of_threads(compiled):
    cache, (printed, _) = compiled
    for threads in "1", "3":
        assert run(cache, NPROC=threads)[0] == printed


DAMAGE = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "changed": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
}


@pytest.fixture
def counting_builds(monkeypatch, tmp_path):
    """Replaces compiling by writing a file; returns the cache and the list of commands."""
    commands = []

    def compile(command, **variables):
        commands.append(command)
        Path(command[-1]).write_bytes(b"library")
        assert Path(variables["TMPDIR"]) == Path(command[-1]).parent
        return ""

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "_run", compile)
    return tmp_path, commands


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", [".so", ".sha256"])
def test_a_damaged_library_is_built_again(counting_builds, damage, suffix):
    _, commands = counting_builds
    library = native._library("c++", "1")
    assert native._library("c++", "1") == library and len(commands) == 1
    damaged = library.with_suffix(suffix)
    damaged.write_bytes(DAMAGE[damage](damaged.read_bytes()))
    assert native._library("c++", "1") == library and len(commands) == 2
    assert library.read_bytes() == b"library"
    damaged.unlink()
    assert native._library("c++", "1") == library and len(commands) == 3


def test_what_a_killed_build_left_is_removed_at_the_next_start(counting_builds):
    library = native._library("c++", "1")
    leftover = library.parent / "build-killed"
    leftover.mkdir()
    (leftover / "cc123.s").write_text("half")
    native._library("c++", "1")
    assert sorted(path.suffix for path in library.parent.iterdir()) == [".sha256", ".so"]


def test_the_directory_of_a_build_under_way_is_left_alone(counting_builds, monkeypatch):
    library = native._library("c++", "1")
    (library.parent / "build-running").mkdir()
    monkeypatch.setattr(native, "_LOCK_SECONDS", 0.2)
    with native._locked(library.parent) as locked:
        assert locked
        native._library("c++", "1")
        assert (library.parent / "build-running").exists()


def test_without_a_compiler_xlas_convolutions_are_used(compiled, tmp_path):
    _, (printed, _) = compiled
    found, warnings = run(tmp_path, CXX="no-such-compiler")
    assert found[0] == "None"
    assert found[2] == printed[2]
    assert "no-such-compiler" in warnings
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize(
    "output, reason",
    [
        ("no disk", "no disk"),
        (
            "a.cc: In function 'f':\na.cc:1: warning: w\na.cc:2: error: e\nerror: f",
            "a.cc:2: error: e",
        ),
    ],
    ids=["other", "compile_error"],
)
def test_a_failed_build_is_reported_and_leaves_nothing_behind(output, reason, tmp_path):
    failing = tmp_path / "failing"
    failing.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo 1 && exit\ncat >&2 <<END\n{output}\nEND\nexit 1\n'
    )
    failing.chmod(failing.stat().st_mode | stat.S_IEXEC)
    found, warnings = run(tmp_path, CXX=str(failing))
    assert found[0] == "None"
    assert f"warning: could not build the C++ convolutions: {reason}\n" in warnings
    assert "Install GCC or Clang" in warnings
    assert not [path for path in (tmp_path / "jaxcifar").rglob("*") if path.is_file()]


def test_an_environment_variable_disables_the_convolutions(tmp_path):
    found, warnings = run(tmp_path, JAXCIFAR_CPU_SETTINGS="0")
    assert found[0] == "None"
    assert "warning" not in warnings
