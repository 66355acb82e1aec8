"""Handles standard output that leads nowhere: a pipe whose reader has ended, as `head` does.

Python ignores SIGPIPE, so that writing to such a pipe raises BrokenPipeError instead of ending the
process. Entry points run within `quiet_if_closed`, which ends the process as SIGPIPE would have.
"""

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What a shell reports of a program that SIGPIPE has ended.
EXIT_CODE = 128 + signal.SIGPIPE


@contextmanager
def quiet_if_closed() -> Iterator[None]:
    """Ends the process with `EXIT_CODE` and no message where standard output has no reader.

    A non-zero exit code of the body is kept. Standard streams that were closed when the process
    started are replaced by the null device: files that are opened later would take their numbers,
    and receive what C++ code prints.
    """
    _open_missing()
    try:
        yield
    except BrokenPipeError:
        if not mute_closed():
            raise  # of another pipe
        sys.exit(EXIT_CODE)
    except SystemExit as end:
        failure = _flush()
        end.code = failure if isinstance(failure, str) else end.code or failure
        raise
    if failure := _flush():
        sys.exit(failure)


def mute_closed() -> bool:
    """Discards all later output to standard output and error where these have no reader.

    Returns:
      Whether standard output has none.
    """
    closed = [fd for fd in (1, 2) if is_closed(fd)]
    for fd in closed:
        mute(fd)
    return 1 in closed


def is_closed(fd: int) -> bool:
    """Returns whether a file descriptor is a pipe without a reader, or a terminal that is gone."""
    poll = select.poll()
    poll.register(fd, 0)
    # Not POLLNVAL, with which some systems answer for every terminal.
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def mute(fd: int) -> None:
    """Makes a file descriptor lead to the null device, in child processes as well."""
    null = os.open(os.devnull, os.O_RDWR)
    if null == fd:
        os.set_inheritable(fd, True)
        return
    os.dup2(null, fd)
    os.close(null)


def _flush() -> int | str | None:
    """Writes what is buffered; returns the exit code or the message of a failure.

    At exit Python would do so, and print a traceback.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        mute_closed()
        return EXIT_CODE
    except OSError as error:
        mute(1)
        return f"error: standard output: {error.strerror}"
    return None


def _open_missing() -> None:
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(fd)
        except OSError:
            mute(fd)
        setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))
