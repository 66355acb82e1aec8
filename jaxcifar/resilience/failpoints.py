"""Failpoints: let tests kill the process at named places. Disabled unless JAXCIFAR_KILL_AT is set.

JAXCIFAR_KILL_AT=point kills the process with SIGKILL when it first reaches that point; point:3 when
it reaches it for the third time; point:3:0.01 a hundredth of a second after that, while the process
carries on.
"""

import os
import signal
import threading
import time
from collections.abc import Callable

_POINT, _COUNT, _SECONDS = (os.environ.get("JAXCIFAR_KILL_AT", "") + ":::").split(":")[:3]
_times_left = int(_COUNT or 1)


def kill_at(point: str, before: Callable[[], object] | None = None) -> None:
    """Kills the process if JAXCIFAR_KILL_AT selects this point; otherwise does nothing.

    Args:
      point: name of the point.
      before: called just before the kill, and only then, so that a test can interrupt an operation
        halfway.
    """
    global _times_left
    if point != _POINT:
        return
    _times_left -= 1
    if _times_left == 0:
        if before:
            before()
        if _SECONDS:
            threading.Thread(target=_kill, args=(float(_SECONDS),), daemon=True).start()
        else:
            _kill(0)


def _kill(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)
