"""SIGTERM and Ctrl-C: they are noted, and the training loop ends at its next step."""

import os
import signal
import sys
import threading
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Notes the first signal that asks the process to stop; Ctrl-C after one ends it at once.

    A context manager, which does nothing outside the main thread.

    Attributes:
      received: the signal's number; 0 before there is one.
    """

    def __init__(self):
        self.received = 0

    def __enter__(self) -> "Signals":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            # Python calls a handler between two of its instructions, which may be a minute away
            # while a program is compiled; the byte in the pipe comes at once.
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
                    "stopped at once; what came after the last checkpoint is lost",
                    code=128 + signal.SIGINT,
                )
            self.received = self.received or byte[0]


def end_at_once(message: str, code: int) -> NoReturn:
    """Ends the process from any thread, whatever the others do."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h")  # the cursor, hidden by the bar
    os.write(2, f"\n{message}\n".encode())
    os._exit(code)


def _ignore(*_: Any) -> None:
    pass
