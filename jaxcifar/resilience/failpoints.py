"""Where a test can kill the process: nowhere, unless the environment names a point.

JAXCIFAR_KILL_AT=point kills it there with SIGKILL; point:3 when it comes there for the third time;
point:3:0.01 then, but a hundredth of a second later, while it goes on.
"""

import os
import signal
import threading
import time
from collections.abc import Callable

_POINT, _COUNT, _SECONDS = (os.environ.get("JAXCIFAR_KILL_AT", "") + ":::").split(":")[:3]
_times_left = int(_COUNT or 1)


def kill_at(point: str, before: Callable[[], object] | None = None) -> None:
    """Kills the process if this is the point to do so; else does nothing.

    Args:
      point: its name.
      before: what to do before, and only then, to be killed halfway through something.
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
