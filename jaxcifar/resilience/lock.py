"""Ensures a single writer per run with a file lock that is released whenever the process exits."""

import fcntl
import os
import platform
import time
from pathlib import Path
from typing import Any

from jaxcifar.errors import InputError
from jaxcifar.regular_files import check_regular


class WriterLock:
    """Holds a lock on `workdir/lock`, a file that names its owner and stays, unlocked, at the end.

    A context manager; entering it takes the lock if the workdir already exists.
    """

    def __init__(self, workdir: Path, active: bool = True):
        """Creates the lock without taking it.

        Args:
          workdir: directory of the run.
          active: False in all processes of a run except the first; they take no lock.
        """
        self._workdir, self._active, self._file = workdir, active, None

    def __enter__(self) -> "WriterLock":
        if self._workdir.exists():
            self.acquire()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._file:
            self._file.close()

    def acquire(self) -> None:
        """Creates the workdir if it is missing, and takes the lock unless it is already held.

        Raises:
          InputError: if another process holds the lock (the message has its id and host), or the
            workdir or the file of the lock cannot be written to.
        """
        if self._file:
            return
        path = self._workdir / "lock"
        check_regular(path)
        try:
            self._workdir.mkdir(parents=True, exist_ok=True)
            if not self._active:
                return
            self._file = path.open("a+")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)  # a new owner may not have written its name yet
            raise InputError(
                f"{self._workdir} is being written to by {path.read_text().strip()}. Wait for it "
                "to finish, stop it, or choose another --workdir."
            ) from None
        except OSError as error:
            if path.exists():
                raise InputError(
                    f"{path}: cannot be written to: {error.strerror}. Make it writable, or remove "
                    "it if no other process trains there."
                ) from error
            raise InputError(f"{self._workdir}: cannot be written to: {error.strerror}") from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()}\n")
        self._file.flush()
