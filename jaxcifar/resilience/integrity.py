"""Checksummed directories: `manifest.json` records the sizes and SHA-256 hashes of all files.

The manifest also holds what the caller adds to it, and a SHA-256 of its own contents. It is written
last, so its presence means that the directory is complete.
"""

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from jaxcifar.resilience.files import sync

MANIFEST = "manifest.json"


class DamageError(Exception):
    """A directory does not match its manifest. The message names the file and the reason.

    Attributes:
      kind: the reason in one word.
      file: path of the file, relative to the directory.
    """

    def __init__(self, kind: str, file: str, reason: str):
        super().__init__(f"{file}: {reason}")
        self.kind, self.file = kind, file


def seal(directory: Path, content: dict[str, Any]) -> None:
    """Writes the manifest of a directory; everything is on disk when this returns.

    Args:
      directory: directory whose files are all written.
      content: further entries for the manifest, JSON-serialisable; `files` and `sha256` are
        reserved.
    """
    files = {name: _size_and_hash(directory / name, sync=True) for name in _files(directory)}
    with (directory / MANIFEST).open("xb") as file:
        file.write(_render({**content, "files": files}))
        file.flush()
        os.fsync(file.fileno())
    for parent, _, _ in os.walk(directory):
        sync(Path(parent))


def verify(directory: Path) -> dict[str, Any]:
    """Checks every file of a directory against its manifest and returns the manifest.

    Raises:
      DamageError: if a file is missing, unexpected or changed, or the manifest itself is damaged.
    """
    content = read(directory)
    expected, found = content["files"], _files(directory)
    for name in sorted(expected.keys() | set(found)):
        if name not in found:
            raise DamageError("missing", name, "missing")
        if name not in expected:
            raise DamageError("extra", name, "not in the manifest")
        try:
            size_and_hash = _size_and_hash(directory / name)
        except OSError as error:
            raise DamageError("unreadable", name, str(error.strerror)) from error
        for kind, was, now in zip(("size", "hash"), expected[name], size_and_hash, strict=True):
            if was != now:
                raise DamageError(kind, name, f"{kind} differs from the manifest")
    return content


def read(directory: Path) -> dict[str, Any]:
    """Returns the manifest of a directory. Checks the manifest, not the files.

    Raises:
      DamageError: if the manifest is missing or was changed.
    """
    try:
        with _open(directory / MANIFEST) as file:
            data = file.read()
    except OSError as error:
        raise DamageError("unreadable", MANIFEST, str(error.strerror)) from error
    try:
        content = json.loads(data)
        del content["sha256"]
        intact = _render(content) == data
    except (ValueError, TypeError, KeyError, RecursionError):  # the last: nested too deeply
        intact = False
    if not intact:
        raise DamageError("hash", MANIFEST, "changed since it was written")
    return content


def _files(directory: Path) -> list[str]:
    paths = (path for path in sorted(directory.rglob("*")) if not path.is_dir())
    return [name for path in paths if (name := path.relative_to(directory).as_posix()) != MANIFEST]


def _size_and_hash(path: Path, sync: bool = False) -> list[int | str]:
    with _open(path) as file:
        if sync:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return [file.tell(), digest]


def _open(path: Path) -> BinaryIO:
    """Opens a file for reading; a pipe, which could block for ever, raises an OSError instead."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.open("rb")


def _render(content: dict[str, Any]) -> bytes:
    """Serialises a manifest canonically, so that any change to the file is detected."""
    digest = hashlib.sha256(json.dumps(content, allow_nan=False).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1).encode()
