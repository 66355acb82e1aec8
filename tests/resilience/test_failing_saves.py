"""Saves in which every write, sync, rename and new file fails in turn, or hangs."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY

ERRORS = {errno.ENOSPC: "No space left on device", errno.EIO: "Input/output error"}


@pytest.fixture(scope="module")
def happened(tmp_path_factory):
    compiler = shutil.which("cc")
    if not compiler or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler on Linux")
    base = tmp_path_factory.mktemp("saves")
    library = base / "failing_io.so"
    source = REPOSITORY / "tests" / "resilience" / "failing_io.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.resilience.failing_saves", base, ",".join(map(str, ERRORS))],
        env={**os.environ, "LD_PRELOAD": str(library)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout) | {"stderr": done.stderr}


def test_a_save_that_fails_is_said_and_harms_nothing(happened):
    for error in ERRORS:
        assert len([case for case in happened["cases"] if case[0] == error]) > 50
    for error, k, failure, step, left in happened["cases"]:
        case = f"{os.strerror(error)} at change {k}"
        # `failing_saves.restored` has found this one, old or new, intact.
        assert step in (1, 2), case
        if failure is None:  # it failed once the new one was complete, or had fewer changes
            assert step == 2, case
        elif "removed" in failure:
            assert failure == f"the older checkpoint 1 could not be removed: {ERRORS[error]}", case
            assert step == 2, case
        else:
            assert failure == f"checkpoint 2 could not be written: {ERRORS[error]}", case
        assert not [name for name in left if name.endswith("tmp")], case
    assert {case[3] for case in happened["cases"]} == {1, 2}
    assert any("removed" in (case[2] or "") for case in happened["cases"])


def test_a_save_that_fails_prints_nothing_itself(happened):
    assert happened["stderr"] == ""


def test_a_save_that_hangs_is_given_up_after_the_time_limit(happened):
    slow = happened["slow"]
    assert 0.5 <= slow["seconds"] < 5
    assert slow["failures"] == [
        "checkpoint 2 could not be written: not finished after 0.5 seconds",
        "skipping checkpoint 3: checkpoint 2 is still being written",
        None,
    ]
    assert slow["step"] == 4
