import importlib.util
import os
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY


@pytest.mark.skipif(
    not any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)),
    reason="JAX's CUDA plugin, which compiles for a GPU, is not installed",
)
def test_a_step_of_a_small_network_copies_nothing_and_has_the_kernels_it_needs():
    done = subprocess.run(
        [
            sys.executable,
            REPOSITORY / "scripts" / "benchmark" / "gpu_kernels.py",
            "--models",
            "resnet8@128",
            "--vmap",
            "1",
            "2",
            "8",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    one, two, eight = (line.strip("| ").split(" | ") for line in done.stdout.splitlines()[-3:])
    assert [row[:2] for row in (one, two, eight)] == [["resnet8@128", n] for n in "128"]
    kernels, convolutions, copies, memory = map(int, one[2:])
    # Of 7 convolutions, all but the first have a gradient of their input.
    assert (convolutions, copies) == (7 + 7 + 6, 0)
    assert 100 < kernels < 150 and 10 < memory < 100
    # Several runs at once have as many kernels, each with more to do.
    assert int(two[3]) == int(eight[3]) == convolutions
    assert int(eight[2]) <= int(two[2]) < 1.3 * kernels
