"""Files and directories that are replaced atomically, so that no reader sees half of one.

What is replaced or made here is on disk afterwards: it also survives a power cut.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PART = ".part"  # suffix of what is being written; a kill leaves it behind


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields `<path>.part`, where a file or directory can be written, and renames it to `path`.

    If the block raises, the part is removed and `path` stays as it was. Leftovers of an earlier
    attempt are removed first. A file, and the entry of a directory, are on disk at the end; what is
    in a directory must have been synced before.

    Raises:
      OSError: if the part cannot be written; it names `path`.
    """
    part = path.with_name(path.name + PART)
    _discard(part)
    try:
        yield part
        if part.is_file():
            sync(part)
        part.replace(path)
        sync(path.parent)
    except BaseException as error:
        _discard(part)
        if isinstance(error, OSError) and error.filename in (None, str(part)):
            error.filename = str(path)
        raise


def remove(path: Path) -> None:
    """Removes a file, a symbolic link or a whole directory."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Replaces a text file atomically; the new contents are on disk when this returns."""
    with replacing(path) as part:
        part.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file atomically; the new contents are on disk when this returns.

    The numbers that JSON does not have are written as `json_numbers` returns them.
    """
    write_text(path, json.dumps(json_numbers(value), indent=2, allow_nan=False) + "\n")


def make_directory(path: Path) -> None:
    """Creates a directory, and those above it, if missing; they are on disk when this returns."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Flushes the contents of a file, or the entries of a directory, to disk.

    Raises:
      OSError: if that fails; it names the path.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def json_numbers(value: Any) -> Any:
    """Returns a value for JSON with "NaN", "Infinity" and "-Infinity" in place of these numbers.

    `float` reads these strings back. Unlike NaN they are equal to themselves.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: json_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_numbers(item) for item in value]
    return value


def _discard(part: Path) -> None:
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink()
