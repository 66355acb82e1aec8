"""Processes whose standard output has no reader, is full, or was closed before they started."""

import os
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY


def run(program, *, shell="", **options):
    """Runs the body of `quiet_if_closed` in a process; returns exit code and standard error."""
    lines = "\n".join(f"    {line}" for line in program.splitlines())
    program = (
        "import os, sys\n"
        "from jaxcifar.resilience.closed_output import quiet_if_closed\n"
        f"with quiet_if_closed():\n{lines}"
    )
    command = [sys.executable, "-c", program]
    if shell:
        command = ["bash", "-c", f'exec "$@" {shell}', "bash", *command]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=env, **options
    )
    return done.returncode, done.stderr


@pytest.fixture
def no_reader():
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(
    "program",
    ["print('x')", "print('x' * 100_000)", "print('x'); sys.exit()", "print('x'); sys.exit(0)"],
)
def test_output_without_a_reader_ends_the_process_silently_as_sigpipe_would(no_reader, program):
    assert run(program, stdout=no_reader) == (141, "")


def test_an_exit_code_that_tells_of_an_error_is_kept(no_reader):
    assert run("print('x'); sys.exit(3)", stdout=no_reader) == (3, "")
    assert run("print('x'); sys.exit('why')", stdout=no_reader) == (1, "why\n")


def test_output_and_errors_into_one_pipe_without_a_reader(no_reader):
    program = "import sys; print('x'); sys.stderr.write('y'); sys.exit()"
    assert run(program, stdout=no_reader, shell="2>&1") == (141, "")


def test_a_broken_pipe_that_is_not_standard_output_is_an_error():
    program = "reader, writer = os.pipe(); os.close(reader); os.write(writer, b'x')"
    code, err = run(program, stdout=subprocess.DEVNULL)
    assert code == 1 and "BrokenPipeError" in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_standard_output_is_named():
    with open("/dev/full", "w") as full:
        code, err = run("print('x')", stdout=full)
    assert (code, err) == (1, "error: standard output: No space left on device\n")


def test_streams_closed_before_the_start_do_not_pass_their_numbers_to_files(tmp_path):
    file = tmp_path / "file"
    program = (
        f"file = open({str(file)!r}, 'w'); print('x'); os.write(1, b'y'); assert file.fileno() > 2"
    )
    assert run(program, shell="<&- >&-") == (0, "")
    assert file.read_text() == ""
