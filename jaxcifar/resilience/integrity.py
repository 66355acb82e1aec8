"""Directories whose every bit can be checked: beside the files lies `manifest.json`.

It has the size and the SHA-256 of every other file, what else the writer wants to say, and the
SHA-256 of itself. Written last, it also says that the others are complete.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


class DamageError(Exception):
    """A directory is not what its manifest says; the message is a file's path and the reason."""

    def __init__(self, kind: str, file: str, reason: str):
        """`kind` is one word for the reason."""
        super().__init__(f"{file}: {reason}")
        self.kind, self.file = kind, file


def seal(directory: Path, content: dict[str, Any]) -> None:
    """Writes the manifest of a directory, and returns once all of it is on the disk.

    Args:
      directory: with its files, to which nothing is added later.
      content: what the manifest says beside that, as JSON takes it; without `files` and `sha256`.
    """
    files = {name: _size_and_hash(directory / name, sync=True) for name in _files(directory)}
    with (directory / MANIFEST).open("xb") as file:
        file.write(_render({**content, "files": files}))
        file.flush()
        os.fsync(file.fileno())
    for parent, _, _ in os.walk(directory):
        sync(Path(parent))


def verify(directory: Path) -> dict[str, Any]:
    """Returns what a directory's manifest says, once every file has been read and found right.

    Raises:
      DamageError: if a file is missing, added or changed, or the manifest is.
    """
    content = read(directory)
    expected, found = content["files"], _files(directory)
    for name in sorted(expected.keys() | set(found)):
        if name not in found:
            raise DamageError("missing", name, "it is missing")
        if name not in expected:
            raise DamageError("extra", name, "the manifest does not know it")
        try:
            size_and_hash = _size_and_hash(directory / name)
        except OSError as error:
            raise DamageError("unreadable", name, str(error.strerror)) from error
        for kind, was, now in zip(("size", "hash"), expected[name], size_and_hash, strict=True):
            if was != now:
                raise DamageError(kind, name, f"its {kind} is not the manifest's")
    return content


def read(directory: Path) -> dict[str, Any]:
    """Returns what a directory's manifest says, which is checked itself, but not the files.

    Raises:
      DamageError: if the manifest is missing or changed.
    """
    try:
        data = (directory / MANIFEST).read_bytes()
    except OSError as error:
        raise DamageError("unreadable", MANIFEST, str(error.strerror)) from error
    try:
        content = json.loads(data)
        del content["sha256"]
        whole = _render(content) == data
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise DamageError("hash", MANIFEST, "it is not as it was written")
    return content


def sync(directory: Path) -> None:
    """Returns once the names in a directory are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(directory: Path) -> list[str]:
    paths = (path for path in sorted(directory.rglob("*")) if not path.is_dir())
    return [name for path in paths if (name := path.relative_to(directory).as_posix()) != MANIFEST]


def _size_and_hash(path: Path, sync: bool = False) -> list[int | str]:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return [file.tell(), digest]


def _render(content: dict[str, Any]) -> bytes:
    """The bytes of a manifest: one writing of each content, so that any other shows."""
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1).encode()
