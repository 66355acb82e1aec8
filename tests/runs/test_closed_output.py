"""Commands whose standard output has no reader: they end silently, as SIGPIPE would end them."""

import json
import shutil

import pytest

from jaxcifar.tools.command import COMMANDS
from tests.helpers import REPOSITORY, RUN, saved_steps


@pytest.fixture
def run_unread(command_lines):
    """Runs a module without a reader of its output; returns exit code and standard error."""

    def run(*arguments):
        done = command_lines.run(*arguments, cwd=REPOSITORY, reader=False)
        return done.code, done.err

    return run


def test_the_help_of_every_command_ends_silently_without_a_reader(run_unread):
    assert run_unread("jaxcifar", "--help") == (141, "")
    for name in COMMANDS:
        assert run_unread("jaxcifar", name, "--help") == (141, ""), name


@pytest.mark.parametrize(
    "arguments",
    [
        ["jaxcifar", "fields"],
        ["jaxcifar.tools.models", "--config=configs/quickstart.py"],
        ["jaxcifar.tools.sweep", "--config=configs/ablations.py", "--dry_run"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_list_ends_silently_without_a_reader(run_unread, arguments):
    assert run_unread(*arguments) == (141, "")


def test_an_evaluation_without_a_reader_still_writes_its_file(run_unread, whole_run, tmp_path):
    workdir = shutil.copytree(whole_run, tmp_path / "run")
    arguments = ("jaxcifar.main", *RUN, f"--workdir={workdir}")
    assert run_unread(*arguments, "--mode=eval") == (141, "")
    assert json.loads((workdir / "evaluation.json").read_text())["step"] == 60
    assert run_unread("jaxcifar.tools.report", str(workdir)) == (141, "")


def test_a_run_whose_output_is_closed_saves_and_stops(start_main, tmp_path):
    process = start_main(*RUN, f"--workdir={tmp_path}")
    while "step 5/" not in process.stdout.readline():
        assert process.poll() is None, process.communicate()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(300) == 141, err
    (step,) = saved_steps(tmp_path)[-1:]
    assert step >= 5
    assert f"interrupted by SIGPIPE (closed output) at step {step} of 60;" in err.splitlines()[-1]
    process.stderr.close()
