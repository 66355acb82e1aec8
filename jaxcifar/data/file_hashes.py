"""Hashes of many files, by which a resumed run checks that a folder of images is still the same."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

# What each kind covers, from the weakest to the strongest.
KINDS = {
    "names": "the names and sizes of the files",
    "sample": "the names and sizes of the files, and 4 KiB in the middle of each",
    "contents": "the names and contents of the files",
}

_SAMPLE = 4096  # bytes
_BLOCK = 2**20  # bytes
_FILES_PER_TASK = 64
_THREADS = 8  # reading waits for the disk, and hashing releases Python's lock


def hash_files(root: str, names: Sequence[str], kind: str) -> str:
    """Returns a SHA-256 over files in their order, in hexadecimal.

    Args:
      root: folder that `names` are relative to.
      names: the files.
      kind: one of `KINDS`. For "names" only the size of each file is looked up.

    Raises:
      OSError: if a file cannot be read.
    """
    describe = _DESCRIBE[kind]

    def describe_some(first: int) -> bytes:
        some = names[first : first + _FILES_PER_TASK]
        parts = (os.fsencode(f"{n}\0") + describe(os.path.join(root, n)) + b"\n" for n in some)
        return b"".join(parts)

    digest = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(describe_some, range(0, len(names), _FILES_PER_TASK)):
            digest.update(part)
    return digest.hexdigest()


def _size(path: str) -> bytes:
    return str(os.path.getsize(path)).encode()


def _size_and_sample(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(size - _SAMPLE, 0) // 2)
        return f"{size}\0{hashlib.sha256(file.read(_SAMPLE)).hexdigest()}".encode()


def _contents(path: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest().encode()


_DESCRIBE: dict[str, Callable[[str], bytes]] = {
    "names": _size,
    "sample": _size_and_sample,
    "contents": _contents,
}
