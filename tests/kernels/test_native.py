"""Compiling the convolutions; test_convolution.py has what they compute."""

import os
import stat
import subprocess
import sys

import pytest

from jaxcifar.kernels import native
from tests.helpers import REPOSITORY

PROGRAM = """
import hashlib, numpy as np
from jaxcifar.models import convolution, native
print(native.compiler())
x, kernel, dy = (np.random.RandomState(0).normal(size=size).astype("float32")
                 for size in ((40, 9, 9, 48), (3, 3, 48, 20), (40, 9, 9, 20)))
import jax
y, pull = jax.vjp(
    lambda *xs: convolution.conv_general_dilated(*xs, (1, 1), ((1, 1), (1, 1))), x, kernel)
print([hashlib.sha256(np.asarray(array)).hexdigest() for array in (y, *pull(dy))])
print(round(float(abs(y).sum())))
"""


def run(cache, **variables):
    """What a process prints that convolves, and its warnings."""
    env = {**os.environ, "XDG_CACHE_HOME": str(cache), **variables}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A cache with the compiled convolutions, and what they gave."""
    if native.compiler() is None:
        pytest.skip("no C++ compiler")
    cache = tmp_path_factory.mktemp("cache")
    return cache, run(cache)


def test_they_are_compiled_once(compiled):
    cache, (said, warnings) = compiled
    assert said[0] == native.compiler()
    assert "warning" not in warnings
    (library,) = cache.rglob("*.so")
    made = library.stat().st_mtime_ns
    assert run(cache)[0] == said
    assert library.stat().st_mtime_ns == made
    assert [path.name for path in library.parent.iterdir()] == [library.name]


def test_the_number_of_threads_does_not_change_a_bit(compiled):
    cache, (said, _) = compiled
    for threads in "1", "3":
        assert run(cache, NPROC=threads)[0] == said


def test_without_a_compiler_xlas_are_used(compiled, tmp_path):
    _, (said, _) = compiled
    found, warnings = run(tmp_path, CXX="no-such-compiler")
    assert found[0] == "None"
    assert found[2] == said[2]
    assert "no-such-compiler" in warnings
    assert not list(tmp_path.rglob("*.so"))


def test_a_compiler_that_fails_leaves_nothing_behind(compiled, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo 1 && exit\necho no disk >&2\nexit 1\n'
    )
    broken.chmod(broken.stat().st_mode | stat.S_IEXEC)
    found, warnings = run(tmp_path, CXX=str(broken))
    assert found[0] == "None"
    assert "warning: convolutions are slower: no disk" in warnings
    assert not [path for path in (tmp_path / "jaxcifar").rglob("*") if path.is_file()]


def test_the_variable_switches_them_off(compiled, tmp_path):
    found, warnings = run(tmp_path, JAXCIFAR_CPU_SETTINGS="0")
    assert found[0] == "None"
    assert "warning" not in warnings
