"""One writer a run: a lock on the workdir, which ends with the process however that ends."""

import fcntl
import os
import platform
import time
from pathlib import Path
from typing import Any

from jaxcifar.errors import InputError


class WriterLock:
    """Holds `workdir/lock`, a file that says who does; the file stays, unlocked, at the end.

    A context manager, which takes the lock at once if the workdir exists.
    """

    def __init__(self, workdir: Path, active: bool = True):
        """`active` is False in all processes of a run but the first, which take no lock."""
        self._workdir, self._active, self._file = workdir, active, None

    def __enter__(self) -> "WriterLock":
        if self._workdir.exists():
            self.acquire()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._file:
            self._file.close()

    def acquire(self) -> None:
        """Makes the workdir, if it is missing, and takes the lock, unless it is held already.

        Raises:
          InputError: if another process holds it, with its id and host, or the workdir cannot be
            written to.
        """
        if self._file:
            return
        path = self._workdir / "lock"
        try:
            self._workdir.mkdir(parents=True, exist_ok=True)
            if not self._active:
                return
            self._file = path.open("a+")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)  # who has just taken it may not have said so yet
            raise InputError(
                f"{self._workdir} is being written to by {path.read_text().strip()}. Wait for its "
                "end, stop it, or choose another --workdir."
            ) from None
        except OSError as error:
            raise InputError(f"{self._workdir}: cannot be written to: {error.strerror}") from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()}\n")
        self._file.flush()
