"""Saves checkpoints while each change to the disk fails in turn; needs failing_io.c preloaded.

Arguments: a directory, and a comma-separated list of error numbers. Prints the outcomes as JSON.
"""

import ctypes
import json
import os
import shutil
import sys
import time
from pathlib import Path

import jax
import numpy as np

from jaxcifar.resilience.checkpoint import Checkpoints
from jaxcifar.resilience.progress import Progress
from jaxcifar.tools import cli


def state(value):
    return {"step": np.int32(value), "w": np.full((3, 4), value, np.float32)}


def create():
    return jax.tree.map(jax.numpy.asarray, state(0))


def restored(directory):
    """Returns the step from which a run would resume, after checking its arrays."""
    with Checkpoints(directory, create=False) as checkpoints:
        restored = checkpoints.restore(checkpoints.find("latest"), create)
    for name, array in state(restored.step).items():
        assert restored.state[name].tobytes() == array.tobytes()
    return restored.step


def main():
    cli.hide_orbax_log()
    base, errors = Path(sys.argv[1]), [int(error) for error in sys.argv[2].split(",")]
    library = ctypes.CDLL(None)
    with Checkpoints(base / "good") as checkpoints:
        checkpoints.save(1, state(1), Progress())

    cases = []
    for error in errors:
        # The number of changes varies a little: Orbax's writers run in parallel. Each is made to
        # fail, up to the last one, which removes the older checkpoint.
        k, removal_failed, unharmed = 1, False, False
        while not (removal_failed and unharmed):
            directory = base / f"{error}-{len(cases)}"
            shutil.copytree(base / "good", directory)
            os.environ["FAILING_IO"] = str(directory)
            library.fail_next(k, error, 0)
            with Checkpoints(directory) as checkpoints:
                checkpoints.save(2, state(2), Progress())
                checkpoints.wait()
                failure = checkpoints.failure()
                failure = failure and str(failure)
                changes = library.changes()
                library.fail_next(0, 0, 0)
                step = restored(directory)
                # The disk works again: the same step can be saved.
                if failure and step == 1:
                    checkpoints.save(2, state(2), Progress())
                    checkpoints.wait()
                    assert checkpoints.failure() is None
                    assert restored(directory) == 2
            cases.append((error, k, failure, step, sorted(p.name for p in directory.iterdir())))
            removal_failed = removal_failed or "removed" in (failure or "")
            unharmed = changes < k
            k = changes if unharmed else k + 1

    os.environ["FAILING_IO"] = str(base / "slow")
    shutil.copytree(base / "good", base / "slow")
    with Checkpoints(base / "slow", timeout=0.5) as checkpoints:
        library.fail_next(3, 0, 2)
        started = time.monotonic()
        checkpoints.save(2, state(2), Progress())
        checkpoints.save(3, state(3), Progress())
        seconds = time.monotonic() - started
        failures = [checkpoints.failure() for _ in range(3)]
        failures = [failure and str(failure) for failure in failures]
        while checkpoints.stalled:
            library.fail_next(0, 0, 0)
            time.sleep(0.1)
        checkpoints.save(4, state(4), Progress())
        checkpoints.wait()
    slow = {"seconds": seconds, "failures": failures, "step": restored(base / "slow")}
    print(json.dumps({"cases": cases, "slow": slow}))


if __name__ == "__main__":
    main()
