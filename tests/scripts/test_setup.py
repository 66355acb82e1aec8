"""The choice of an interpreter by the set-up scripts."""

import os
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY

BROKEN_SHIM = "#!/bin/sh\necho 'command not found' >&2\nexit 127\n"
OLD = "#!/bin/sh\nexit 1\n"  # the check of its version fails
# The real interpreter behind a virtual environment's, which is passed over.
PYTHON = f'#!/bin/sh\nexec {os.path.realpath(sys.executable)} "$@"\n'


@pytest.fixture
def path(tmp_path):
    """Fills a folder with executables; returns an environment that searches it and /usr/bin last.

    Of the system's folders only the tools that the scripts call are visible.
    """

    def fill(**executables):
        folder = tmp_path / "bin"
        folder.mkdir()
        for tool in ("bash", "cut", "dirname", "sort", "tail"):
            (folder / tool).symlink_to(f"/usr/bin/{tool}")
        for name, text in executables.items():
            file = folder / name.replace("_", ".")
            file.write_text(text)
            file.chmod(0o755)
        return {"PATH": str(folder), "HOME": str(tmp_path), "PYENV_ROOT": str(tmp_path / "none")}

    return fill


def find(env):
    done = subprocess.run(
        ["/bin/bash", REPOSITORY / "scripts" / "find_pythons.sh"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr
    return done.stdout.splitlines()


def test_broken_shims_and_old_interpreters_are_passed_over(path):
    assert find(path(python3_13=BROKEN_SHIM, python3=OLD)) == []


def test_each_version_is_listed_once_with_its_real_path(path):
    env = path(python3=PYTHON, python3_11=PYTHON, python3_12=BROKEN_SHIM)
    version = "{}.{}".format(*sys.version_info)
    (line,) = find(env)
    assert line.startswith(f"{version} /")


def test_versions_of_pyenv_are_found(path, tmp_path):
    env = path() | {"PYENV_ROOT": str(tmp_path / "pyenv")}
    folder = tmp_path / "pyenv" / "versions" / "3.x" / "bin"
    folder.mkdir(parents=True)
    (folder / "python3").write_text(PYTHON)
    (folder / "python3").chmod(0o755)
    assert len(find(env)) == 1


@pytest.mark.parametrize("variables", [{}, {"PYTHON": "python3.12"}])
def test_setup_without_a_usable_interpreter_says_what_to_do(path, tmp_path, variables):
    env = path(python3=OLD, python3_12=BROKEN_SHIM) | {"VENV": str(tmp_path / "venv")} | variables
    done = subprocess.run(
        ["/bin/bash", REPOSITORY / "scripts" / "setup.sh"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 1 and not (tmp_path / "venv").exists()
    assert f"error: {variables.get('PYTHON', 'python3')} is missing, broken or older" in done.stderr


@pytest.mark.parametrize(
    "tf, extras, expected",
    [
        ("0", [], "."),
        ("0", ["test"], ".[test]"),
        ("1", [], ".[tf]"),
        ("1", ["test", "cuda13"], ".[tf,test,cuda13]"),
    ],
)
def test_setup_installs_the_extras_that_are_named(path, tmp_path, tf, extras, expected):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\n')
    python.chmod(0o755)
    subprocess.run(
        ["/bin/bash", REPOSITORY / "scripts" / "setup.sh", *extras],
        env=path() | {"VENV": str(tmp_path / "venv"), "TF": tf},
        check=True,
    )
    (install,) = [line for line in (tmp_path / "log").read_text().splitlines() if "install" in line]
    assert install.endswith(f"--editable {expected}")
