"""A disk that loses in a power cut what was never synced; also runs a command line on one.

    python -m tests.resilience.power_cut STORE ROOT ARGUMENT...

runs `python -m jaxcifar.main ARGUMENT...`, whose syncs below ROOT are kept in STORE.
"""

import itertools
import json
import os
import random
import runpy
import stat
import sys
from pathlib import Path


class Disk:
    """Keeps what each file and directory below a root was when it was last synced, by its inode."""

    def __init__(self, store: Path, root: Path):
        """Takes what is below the root as synced."""
        self._store, self._root = store, root
        self._numbers = itertools.count()
        self._held: list[int] = []
        store.mkdir()
        for path in (root, *root.rglob("*")):
            descriptor = os.open(path, os.O_RDONLY)
            self.sync(descriptor)
            os.close(descriptor)

    def sync(self, descriptor: int) -> None:
        """Does what `os.fsync` does to this disk."""
        self._held.append(os.dup(descriptor))  # so that no other file gets its inode
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            name = f"{found.st_ino}.dir"
            with os.scandir(descriptor) as entries:
                data = json.dumps({entry.name: entry.inode() for entry in entries}).encode()
        else:
            name, data = str(found.st_ino), Path(f"/proc/self/fd/{descriptor}").read_bytes()
        part = self._store / f"part-{next(self._numbers)}"
        part.write_bytes(data)
        part.replace(self._store / name)


def cut(store: Path, root: Path, target: Path, draw: random.Random) -> None:
    """Writes to `target` what a power cut might leave of `root`, and prints nothing.

    Of a directory that is either its entries at the last sync or those of now; of a file, what was
    synced, followed by any part of what was not, or zeros in its place.

    Args:
      store: see `Disk`.
      root: directory that is not written to any more.
      target: directory to create.
      draw: decides what is left.
    """
    paths = {path.lstat().st_ino: path for path in (root, *root.rglob("*"))}

    def leave(inode: int, target: Path) -> None:
        path, entries = paths.get(inode), store / f"{inode}.dir"
        if entries.exists() or (path and path.is_dir()):
            leave_directory(path, entries, target)
        else:
            now = path.read_bytes() if path else b""
            synced = store / str(inode)
            target.write_bytes(left(synced.read_bytes() if synced.exists() else b"", now))

    def leave_directory(path: Path | None, entries: Path, target: Path) -> None:
        synced = json.loads(entries.read_text()) if entries.exists() else {}
        now = {child.name: child.lstat().st_ino for child in path.iterdir()} if path else synced
        target.mkdir()
        for name, inode in draw.choice([synced, now]).items():
            leave(inode, target / name)

    def left(synced: bytes, now: bytes) -> bytes:
        if not now.startswith(synced):  # changed in place, or removed
            return synced
        rest = now[len(synced) :]
        kept = rest[: draw.choice([0, draw.randint(0, len(rest)), len(rest)])]
        return synced + kept + bytes(draw.choice([0, len(rest) - len(kept)]))

    leave(root.stat().st_ino, target)


if __name__ == "__main__":
    from jaxcifar import environment

    environment.prepare()
    os.fsync = Disk(Path(sys.argv[1]), Path(sys.argv[2])).sync
    sys.argv = ["jaxcifar.main", *sys.argv[3:]]
    runpy.run_module("jaxcifar.main", run_name="__main__", alter_sys=True)
