"""Records the signals that end a run, so that training stops after the current step and saves.

These are SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal was closed), unless the process was
started with SIGHUP ignored, as by nohup. A closed standard output counts as SIGPIPE.
"""

import os
import select
import signal
import stat
import sys
import threading
from typing import Any, NoReturn

from jaxcifar.resilience.closed_output import mute

# Those of which Python is told; SIGPIPE is found by watching standard output.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_CAUSES: dict[int, str] = {signal.SIGHUP: " (closed terminal)", signal.SIGPIPE: " (closed output)"}


class Signals:
    """Records the first signal; another Ctrl-C terminates the process immediately.

    Once the reader of standard output or standard error is gone, their output is discarded. A
    context manager, which does nothing outside the main thread.

    Attributes:
      received: number of the signal; 0 until there is one.
    """

    def __init__(self):
        self.received = 0

    def __enter__(self) -> "Signals":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            # Python runs a handler between two bytecodes, which can take a minute while a program
            # is being compiled. The wake-up pipe receives its byte immediately.
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._before = {number: signal.signal(number, _ignore) for number in unignored()}
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            os.close(self._writer)
            self._thread.join()
            os.close(self._reader)

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        for fd in (1, 2):
            poll.register(fd, 0)  # reports no more than the end of its reader
        while True:
            for fd, event in poll.poll():
                if fd != self._reader:
                    poll.unregister(fd)
                    if not event & select.POLLNVAL:
                        self._lose_output(fd)
                elif byte := os.read(self._reader, 1):
                    self._record(byte[0])
                else:
                    return

    def _record(self, number: int) -> None:
        if self.received and number == signal.SIGINT:
            end_at_once(
                "terminated immediately; progress since the last checkpoint is lost",
                code=128 + signal.SIGINT,
            )
        self.received = self.received or number

    def _lose_output(self, fd: int) -> None:
        # Without its terminal a run continues if it ignores SIGHUP.
        is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        mute(fd)
        if is_pipe and fd == 1:
            self._record(signal.SIGPIPE)


def unignored() -> list[signal.Signals]:
    """Returns `SIGNALS` without SIGHUP if this process ignores it, as nohup makes it do."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]


def describe(number: int) -> str:
    """Returns the name of a signal, and what usually causes it unless that is the user."""
    return signal.Signals(number).name + _CAUSES.get(number, "")


def end_at_once(message: str, code: int) -> NoReturn:
    """Exits the process from any thread, without waiting for the others.

    Args:
      message: text for standard error.
      code: exit code.
    """
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h")  # show the cursor, which the progress bar hides
    os.write(2, f"\n{message}\n".encode())
    os._exit(code)


def _ignore(*_: Any) -> None:
    pass
