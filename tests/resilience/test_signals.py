"""The signals that end a run. Closed outputs are tested in processes of their own."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from jaxcifar.resilience.signals import Signals, describe
from tests.helpers import REPOSITORY

# Prints once it is ready; exits with the number of the signal received within a second.
WAIT = """\
import sys, time
from jaxcifar.resilience.signals import Signals
with Signals() as signals:
    print("ready", flush=True)
    for _ in range(100):
        time.sleep(0.01)
        if signals.received:
            print("more", flush=True)
            break
    print("more", flush=True)
    print("more", file=sys.stderr, flush=True)
sys.exit(signals.received)
"""


def wait_for(found):
    for _ in range(500):
        if found():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_recorded_and_the_handler_before_comes_back(number):
    before = signal.getsignal(number)
    with Signals() as signals:
        os.kill(os.getpid(), number)
        assert wait_for(lambda: signals.received)
        assert signals.received == number
    assert signal.getsignal(number) is before


def test_sighup_stays_ignored_where_it_was_ignored_before():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)  # the later of the two
            assert wait_for(lambda: signals.received)
            assert signals.received == signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_pipe_whose_reader_ends_counts_as_sigpipe():
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    assert process.wait(60) == signal.SIGPIPE
    assert process.stderr.read() == "more\n"
    process.stderr.close()


@pytest.mark.parametrize("ignored, received", [(False, signal.SIGHUP), (True, 0)])
def test_a_closed_terminal_ends_a_run_unless_it_ignores_sighup(ignored, received):
    setup = "import fcntl, signal, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    if ignored:
        setup += "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", setup + WAIT],
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    os.close(its_end)
    assert b"ready" in os.read(terminal, 1024)
    os.close(terminal)
    assert process.wait(60) == received


def test_a_signal_is_described_by_its_name_and_cause():
    assert describe(signal.SIGTERM) == "SIGTERM"
    assert describe(signal.SIGHUP) == "SIGHUP (closed terminal)"
    assert describe(signal.SIGPIPE) == "SIGPIPE (closed output)"
