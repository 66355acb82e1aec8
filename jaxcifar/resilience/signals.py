"""Handles SIGTERM and Ctrl-C: records the signal so that training stops after the current step."""

import os
import signal
import sys
import threading
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Records the first SIGTERM or Ctrl-C; another Ctrl-C terminates the process immediately.

    A context manager, which does nothing outside the main thread.

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
            self._before = {number: signal.signal(number, _ignore) for number in _SIGNALS}
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
        while byte := os.read(self._reader, 1):
            if self.received and byte[0] == signal.SIGINT:
                end_at_once(
                    "terminated immediately; progress since the last checkpoint is lost",
                    code=128 + signal.SIGINT,
                )
            self.received = self.received or byte[0]


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
