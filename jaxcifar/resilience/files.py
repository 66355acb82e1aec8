"""Files and directories that are replaced atomically, so that no reader sees half of one."""

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
    attempt are removed first.
    """
    part = path.with_name(path.name + PART)
    _discard(part)
    try:
        yield part
        part.replace(path)
    except BaseException:
        _discard(part)
        raise


def remove(path: Path) -> None:
    """Removes a file, a symbolic link or a whole directory."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file atomically; the new contents are on disk when this returns.

    The numbers that JSON does not have are written as `json_numbers` returns them.
    """
    text = json.dumps(json_numbers(value), indent=2, allow_nan=False) + "\n"
    with replacing(path) as part, part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


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
