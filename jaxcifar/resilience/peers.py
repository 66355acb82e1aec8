"""The processes of a run watch each other, so that none waits for ever for one that is gone.

A collective operation waits for all processes: where one is killed or stopped the others hang, or
JAX aborts them. So process 0 and each of the others tell one another their step once a second, over
a connection of their own, which the system closes with the process. Who finds one gone says so and
ends at once; that is safe at any moment, see `checkpoint`.
"""

import ctypes
import dataclasses
import json
import platform
import signal
import socket
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing import connection
from typing import Any

from jax._src.distributed import global_state  # what jax.distributed.initialize has found
from jax.errors import JaxRuntimeError

from jaxcifar import devices
from jaxcifar.errors import InputError, StoppedError, describe
from jaxcifar.resilience.signals import end_at_once

_KEY = "jaxcifar/peers"  # where process 0 says its port
_CONNECT_SECONDS = 60
_GRACE = 3  # seconds in which a process may end in its own way where another has


@dataclasses.dataclass
class _Other:
    """Another process; `silent` for so many seconds, `end` if it has said why it ends."""

    name: str
    step: int = 0
    silent: int = 0
    end: str = ""


class Peers:
    """Joins the run's other processes, if it has any, and watches them; a context manager.

    Without an error, all processes must leave it together. An error in a run of several processes
    becomes a `StoppedError` that ends this one at once, as JAX would wait for the others at its
    exit, and then abort.

    Attributes:
      process: the number of this one.
      step: the number of updates made; whoever makes them sets it.
    """

    def __init__(self, distributed: bool, timeout: float):
        """Does nothing yet.

        Args:
          distributed: whether the run has other processes, see `devices.start`.
          timeout: the seconds after which one that is silent counts as gone.
        """
        self._distributed, self._timeout = distributed, timeout
        self.process, self.step = 0, 0
        self._left = False
        self._others: dict[connection.Connection, _Other] = {}

    def __enter__(self) -> "Peers":
        devices.start(self._distributed)
        self.process = global_state.process_id if self._distributed else 0
        if self._distributed and global_state.num_processes > 1:
            self._others = _connect()
            # As soon as process 0 is gone JAX aborts the others. Their SIGABRT is handled by
            # sleep(SIGABRT), six seconds, in which the watch has the word.
            libc = ctypes.CDLL(None)
            libc.signal(signal.SIGABRT, libc.sleep)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not self._others:
            self._left = True
            return
        if not isinstance(error, InputError | OSError | StoppedError):
            # A collective may have failed (JaxRuntimeError or ValueError) as another process is
            # gone; then the watch ends this one.
            time.sleep(2 * _GRACE)
            while any(other.end or other.silent > _GRACE for other in self._others.values()):
                time.sleep(1)
        self._left = True
        code, text, line = 1, "".join(traceback.format_exception(error)).strip(), -1
        if isinstance(error, InputError | OSError):
            text, line = f"error: {describe(error)}", 0
        elif isinstance(error, StoppedError):
            code, text, line = error.code, str(error), 0
        self._tell_all(end=text.splitlines()[line].removeprefix("error: "))
        if self.process == 0:
            time.sleep(1)  # those that end as well do so before JAX complains that this one has
        raise StoppedError(text, code, at_once=True) from error

    def _watch(self) -> None:
        """Talks to the others. Time in which this process itself was stopped does not count."""
        links, next_beat = list(self._others), time.monotonic()
        while not self._left:
            for link in connection.wait(links, max(0.0, next_beat - time.monotonic())):
                other = self._others[link]
                try:
                    said = json.loads(link.recv_bytes())
                    other.step, other.silent = said["step"], 0
                    other.end = other.end or said["end"]  # a last beat may come after it
                except (EOFError, OSError):
                    links.remove(link)
                    if not other.end:
                        self._give_up(other, "was killed or has crashed")
            if time.monotonic() < next_beat:
                continue
            next_beat = time.monotonic() + 1
            self._tell_all()
            for other in self._others.values():
                other.silent += 1
                if other.end and other.silent > _GRACE:
                    self._give_up(other, f"has ended: {other.end}")
                if other.silent > self._timeout:
                    self._give_up(other, f"has not been heard of for {self._timeout:g} s")

    def _tell_all(self, end: str = "") -> None:
        message = json.dumps({"step": self.step, "end": end}).encode()
        for link in self._others:
            with suppress(OSError):  # one that is gone is noticed by its silence
                link.send_bytes(message)

    def _give_up(self, other: _Other, what: str) -> None:
        """Ends this process, unless it ends already, and says why here and to the others."""
        if self._left:
            return
        reason = f"{other.name} {what}; it was last at step {other.step:,}"
        self._tell_all(end=reason)
        end_at_once(
            f"error: {reason}, and this is process {self.process} at step {self.step:,}.\n"
            "The same command, for all processes, goes on from the last checkpoint.",
            code=1,
        )


def _connect() -> dict[connection.Connection, _Other]:
    """Returns the connections of process 0 to all others, or of another one to process 0.

    Raises:
      InputError: if that takes too long.
    """
    this, processes = global_state.process_id, global_state.num_processes
    others: dict[connection.Connection, _Other] = {}

    def add(end: socket.socket) -> None:
        end.settimeout(None)
        link = connection.Connection(end.detach())
        link.send_bytes(f"process {this} of {processes} ({platform.node()})".encode())
        if not link.poll(_CONNECT_SECONDS):
            raise TimeoutError
        others[link] = _Other(link.recv_bytes().decode())

    try:
        if this == 0:
            dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if dual else socket.AF_INET
            with socket.create_server(("", 0), family=family, dualstack_ipv6=dual) as server:
                server.settimeout(_CONNECT_SECONDS)
                global_state.client.key_value_set(_KEY, str(server.getsockname()[1]))
                while len(others) < processes - 1:
                    add(server.accept()[0])
        else:
            port = global_state.client.blocking_key_value_get(_KEY, 1000 * _CONNECT_SECONDS)
            host = global_state.coordinator_address.rsplit(":", 1)[0].strip("[]")
            add(socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS))
    except (EOFError, OSError, JaxRuntimeError) as error:
        there = ", ".join(other.name for other in others.values()) or "none"
        raise InputError(
            f"process {this} of {processes} has no connection to "
            f"{'all the others' if this == 0 else 'process 0'} within {_CONNECT_SECONDS} s; "
            f"it has: {there} ({type(error).__name__}: {error})"
        ) from error
    return others
