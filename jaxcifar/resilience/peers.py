"""Heartbeats between the processes of a run, so that none waits indefinitely for a dead one.

A collective operation waits for all processes: if one is killed or suspended, the others hang or
are aborted by JAX. Therefore process 0 and every other process send each other their step once a
second, over a connection of their own, which the operating system closes when a process dies. A
process that finds a peer dead reports it and exits immediately, which is safe at any moment (see
`store`).

The addresses come from `processes.global_state`, which is private to JAX. `Peers` also replaces the
SIGABRT handler through libc, because JAX's own heartbeat aborts the process without a message.
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

from jax.errors import JaxRuntimeError

from jaxcifar.errors import InputError, StoppedError, describe
from jaxcifar.resilience import processes
from jaxcifar.resilience.processes import global_state
from jaxcifar.resilience.signals import end_at_once

_KEY = "jaxcifar/peers"  # key-value store entry with the port of process 0
_CONNECT_SECONDS = 60
_GRACE = 3  # seconds that a process has to exit by itself after a peer has exited


@dataclasses.dataclass
class _Other:
    """A peer process; `silent` counts seconds since its last message, `end` is why it exits."""

    name: str
    step: int = 0
    silent: int = 0
    end: str = ""


class Peers:
    """Joins the other processes of a run, if any, and monitors them; a context manager.

    Without an error, all processes must leave it together. With several processes, an error becomes
    a `StoppedError` that ends this process immediately, because JAX would otherwise wait for the
    others at exit and then abort.

    Attributes:
      process: id of this process.
      step: number of updates made; set by the training loop.
    """

    def __init__(self, distributed: bool, timeout: float):
        """Does nothing yet.

        Args:
          distributed: whether the run has other processes, see `processes.start`.
          timeout: seconds without a heartbeat after which a process is treated as dead.
        """
        self._distributed, self._timeout = distributed, timeout
        self.process, self.step = 0, 0
        self._left = False
        self._others: dict[connection.Connection, _Other] = {}

    def __enter__(self) -> "Peers":
        processes.start(self._distributed)
        self.process = global_state.process_id if self._distributed else 0
        if self._distributed and global_state.num_processes > 1:
            self._others = _connect()
            # When process 0 dies, JAX aborts the others. SIGABRT is handled by sleep(SIGABRT), six
            # seconds in which the watching thread can report what happened.
            libc = ctypes.CDLL(None)
            libc.signal(signal.SIGABRT, libc.sleep)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not self._others:
            self._left = True
            return
        if not isinstance(error, InputError | OSError | StoppedError):
            # A collective may have failed (JaxRuntimeError or ValueError) because a peer died; then
            # the watching thread ends this process.
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
            time.sleep(1)  # lets the others exit before JAX reports that this process has
        raise StoppedError(text, code, at_once=True) from error

    def _watch(self) -> None:
        """Exchanges heartbeats. Time during which this process was suspended does not count."""
        links, next_beat = list(self._others), time.monotonic()
        while not self._left:
            for link in connection.wait(links, max(0.0, next_beat - time.monotonic())):
                other = self._others[link]
                try:
                    message = json.loads(link.recv_bytes())
                    other.step, other.silent = message["step"], 0
                    other.end = other.end or message["end"]  # one more beat may follow it
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
                    self._give_up(other, f"has exited: {other.end}")
                if other.silent > self._timeout:
                    self._give_up(other, f"has not responded for {self._timeout:g} s")

    def _tell_all(self, end: str = "") -> None:
        message = json.dumps({"step": self.step, "end": end}).encode()
        for link in self._others:
            with suppress(OSError):  # a dead peer is detected by its silence
                link.send_bytes(message)

    def _give_up(self, other: _Other, problem: str) -> None:
        """Ends this process, unless it is exiting already, and tells user and peers why."""
        if self._left:
            return
        reason = f"{other.name} {problem}; its last known step is {other.step:,}"
        self._tell_all(end=reason)
        end_at_once(
            f"error: {reason}; this is process {self.process} at step {self.step:,}.\n"
            "Rerun the same command for all processes to resume from the last checkpoint.",
            code=1,
        )


def _connect() -> dict[connection.Connection, _Other]:
    """Returns the connections of process 0 to all others, or of another process to process 0.

    Raises:
      InputError: if they cannot be made within 60 seconds.
    """
    this, count = global_state.process_id, global_state.num_processes
    others: dict[connection.Connection, _Other] = {}

    def add(end: socket.socket) -> None:
        end.settimeout(None)
        link = connection.Connection(end.detach())
        link.send_bytes(f"process {this} of {count} ({platform.node()})".encode())
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
                while len(others) < count - 1:
                    add(server.accept()[0])
        else:
            port = global_state.client.blocking_key_value_get(_KEY, 1000 * _CONNECT_SECONDS)
            host = global_state.coordinator_address.rsplit(":", 1)[0].strip("[]")
            add(socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS))
    except (EOFError, OSError, JaxRuntimeError) as error:
        connected = ", ".join(other.name for other in others.values()) or "none"
        raise InputError(
            f"process {this} of {count} could not connect to "
            f"{'all other processes' if this == 0 else 'process 0'} within {_CONNECT_SECONDS} s; "
            f"connected: {connected} ({type(error).__name__}: {error})"
        ) from error
    return others
