"""The lock of a workdir: what is said where its file cannot be written."""

import os
from pathlib import Path

import pytest

from jaxcifar.errors import InputError
from jaxcifar.resilience.lock import WriterLock


def refused(workdir):
    with pytest.raises(InputError) as caught:
        with WriterLock(workdir) as lock:
            lock.acquire()
    return str(caught.value)


def test_a_lock_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "lock").touch()

    def no_permission(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", no_permission)
    assert f"{tmp_path}/lock: cannot be written to: Permission denied. Make it" in refused(tmp_path)
    (tmp_path / "lock").unlink()
    assert refused(tmp_path) == f"{tmp_path}: cannot be written to: Permission denied"


def test_something_else_in_the_place_of_the_lock_is_named(tmp_path):
    (tmp_path / "lock").mkdir()
    assert f"{tmp_path}/lock: cannot be written to: Is a directory" in refused(tmp_path)
    (tmp_path / "lock").rmdir()
    os.mkfifo(tmp_path / "lock")
    assert f"{tmp_path}/lock is a pipe" in refused(tmp_path)
