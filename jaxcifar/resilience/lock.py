"""Ensures a single writer per run with a file lock that is released whenever the process exits."""

import fcntl
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxcifar.errors import InputError, InUseError, StoppedError
from jaxcifar.regular_files import check_regular
from jaxcifar.resilience import files


class MovedError(StoppedError):
    """The workdir of a running training, or the lock in it, was moved, removed or replaced."""


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
        self._path = workdir / "lock"
        self._directories: list[tuple[int, int]] = []

    def __enter__(self) -> "WriterLock":
        if self._workdir.exists():
            self.acquire()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._close()

    def acquire(self) -> None:
        """Creates the workdir if it is missing, and takes the lock unless it is already held.

        Raises:
          InUseError: if another process holds the lock; the message has its id and host.
          InputError: if the workdir or the file of the lock cannot be written to.
        """
        if self._file:
            return
        check_regular(self._path)
        try:
            files.make_directory(self._workdir)
            if not self._active:
                return
            self._file = self._path.open("ab", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
        except BlockingIOError:
            self._close()
            time.sleep(0.1)  # a new owner may not have written its name yet
            raise InUseError(
                f"{self._workdir} is being written to by {self._path.read_text().strip()}. Wait "
                "for it to finish, stop it, or choose another --workdir."
            ) from None
        except OSError as error:
            self._close()
            if self._path.exists():
                raise InputError(
                    f"{self._path}: cannot be written to: {error.strerror}. Make it writable, or "
                    "remove it if no other process trains there."
                ) from error
            raise InputError(f"{self._workdir}: cannot be written to: {error.strerror}") from error
        workdir = self._workdir.resolve()
        self._directories = [_identity(path) for path in (workdir, *workdir.parents)]

    def check(self) -> None:
        """Checks that the workdir is still the directory in which the lock was taken.

        Does nothing without the lock.

        Raises:
          MovedError: if it is not; the message says where that is. Empty directories that a save
            has made in its place are removed.
        """
        if self._file and not self._is_at(self._path, os.fstat(self._file.fileno())):
            self._remove_empty()
            raise MovedError(
                f"error: {self._whereabouts()}\nTraining stopped, because {self._path} is no "
                "longer the lock that this process holds."
            )

    def _close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    @staticmethod
    def _is_at(path: Path, held: os.stat_result) -> bool:
        """Whether a path leads to the file that is held."""
        with suppress(OSError):
            return _identity(path) == (held.st_dev, held.st_ino)
        return False

    def _whereabouts(self) -> str:
        """What has become of the workdir, as far as the system tells."""
        home = self._directories[0]
        with suppress(OSError):  # not every system has /proc
            place = Path(os.readlink(f"/proc/self/fd/{self._file.fileno()}")).parent
            if _identity(place) == home and place != self._workdir.resolve():
                return (
                    f"{self._workdir} was moved to {place} while it was written to. Resume with "
                    f"--workdir={place}, or move it back and rerun the same command."
                )
        with suppress(OSError):
            if _identity(self._workdir) == home:
                return (
                    f"{self._path} was removed or replaced, so another process could write to "
                    "the same run. Rerun the same command to resume."
                )
        return f"{self._workdir} was removed, or moved, while it was written to."

    def _remove_empty(self) -> None:
        """Removes empty directories in the place of the workdir and of its checkpoints."""
        for path in (self._workdir / "checkpoints", self._workdir, *self._workdir.parents):
            try:
                if _identity(path) in self._directories:
                    return
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:  # not empty, so not made by a save
                return


def _identity(path: Path) -> tuple[int, int]:
    """Returns the device and inode of a file or directory."""
    found = path.stat()
    return found.st_dev, found.st_ino
