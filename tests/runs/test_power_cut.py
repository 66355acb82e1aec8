"""Whole runs whose machine loses its power at random moments."""

import os
import random
import shutil
import subprocess
import sys
import time

import pytest

from tests.helpers import REPOSITORY, RUN, USERS_XLA_FLAGS
from tests.resilience.power_cut import cut
from tests.runs.test_faults import assert_same, outcome


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_through_power_cuts_ends_as_an_unbroken_one(whole_run, tmp_path, seed):
    draw = random.Random(seed)
    root, synced = tmp_path / "disk-0", tmp_path / "synced"
    root.mkdir()
    for number in range(1, 9):
        workdir = root / "runs" / "a"
        with (tmp_path / "err").open("w") as err:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.resilience.power_cut", synced, root),
                    *(*RUN, f"--workdir={workdir}"),
                ],
                cwd=REPOSITORY,
                env={**os.environ, "XLA_FLAGS": USERS_XLA_FLAGS},
                stdout=subprocess.DEVNULL,
                stderr=err,
            )
        while process.poll() is None and not (
            (workdir / "metrics.csv").exists() or draw.random() < 0.001
        ):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 2))
        process.kill()
        code = process.wait()
        assert code in (0, -9), (tmp_path / "err").read_text()
        if synced.exists():
            after = tmp_path / f"disk-{number}"
            cut(synced, root, after, draw)
            shutil.rmtree(synced)
            root = after
    done = subprocess.run(
        [sys.executable, "-m", "jaxcifar.main", *RUN, f"--workdir={root / 'runs' / 'a'}"],
        cwd=REPOSITORY,
        env={**os.environ, "XLA_FLAGS": USERS_XLA_FLAGS},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert_same(root / "runs" / "a", outcome(whole_run))
