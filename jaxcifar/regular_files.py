"""Refuses pipes, sockets and devices where a file is expected: reading one may never end."""

import os
import stat
from pathlib import Path

from jaxcifar.errors import InputError

_KINDS = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}


def check_regular(path: str | Path) -> None:
    """Checks that a path can be opened as a file; follows links.

    A path that does not exist or is a directory passes: opening it fails at once.

    Raises:
      InputError: if it is a pipe, a socket or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "device")
        raise InputError(f"{path} is a {kind}; it must be a regular file")
