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
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert row[0] == "resnet8@128"
    kernels, convolutions, copies, memory = map(int, row[1:])
    # Of 7 convolutions, all but the first have a gradient of their input.
    assert (convolutions, copies) == (7 + 7 + 6, 0)
    assert 100 < kernels < 150 and 10 < memory < 100
