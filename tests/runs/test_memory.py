"""A long run needs no more memory than a short one."""

import re
import sys
from pathlib import Path

import pytest


def resident(pid):
    """Returns the resident memory of a process in kB."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_evaluations_and_checkpoints_leave_nothing_in_memory(start_main, tmp_path):
    process = start_main(
        *("--config=configs/quickstart.py", f"--workdir={tmp_path}"),
        *("--config.model.name=resnet8", "--config.log.tensorboard=False"),
        *("--config.schedule.name=constant", "--config.schedule.milestones_epochs=()"),
        *("--config.train.num_epochs=0", "--config.train.num_steps=51"),
        *("--config.eval.every_steps=1", "--config.checkpoint.every_steps=1"),
    )
    after = {}
    for line in process.stdout:
        if found := re.match(r"test at step (\d+),", line):
            after[int(found[1]) - 1] = resident(process.pid)  # its save is still to come
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    print({number: f"{after[number] / 1024:.0f} MB" for number in (5, 10, 20, 30, 40, 50)})
    assert len(after) == 51 and after[50] < 1.05 * after[5]
