"""The lock on a workdir, and what is said where the workdir goes away under its owner."""

import os
import shutil
from pathlib import Path

import pytest

from jaxcifar.errors import InputError
from jaxcifar.resilience.lock import MovedError, WriterLock


@pytest.fixture
def held(tmp_path):
    """A lock that is held on `tmp_path/runs/a`."""
    with WriterLock(tmp_path / "runs" / "a") as lock:
        lock.acquire()
        lock.check()
        yield lock


def test_a_lock_that_is_not_held_is_not_checked(tmp_path):
    WriterLock(tmp_path / "none").check()
    with WriterLock(tmp_path / "other", active=False) as lock:
        lock.acquire()
        shutil.rmtree(tmp_path / "other")
        lock.check()


def test_a_second_owner_is_told_who_the_first_is(held, tmp_path):
    with pytest.raises(InputError, match=r"being written to by process \d+ on .*"):
        with WriterLock(tmp_path / "runs" / "a"):
            pass
    held.check()


@pytest.mark.parametrize("target", ["b", "runs/b"])
def test_a_workdir_that_was_moved_is_named_with_its_new_place(held, tmp_path, target):
    (tmp_path / "runs" / "a").rename(tmp_path / target)
    with pytest.raises(MovedError, match=f"runs/a was moved to {tmp_path / target} "):
        held.check()


def test_a_parent_that_was_moved_is_noticed(held, tmp_path):
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    with pytest.raises(MovedError, match=f"was moved to {tmp_path}/elsewhere/a "):
        held.check()


def test_another_run_in_the_place_of_the_workdir_is_left_alone(held, tmp_path):
    (tmp_path / "runs" / "a").rename(tmp_path / "b")
    (tmp_path / "runs" / "a").mkdir()
    (tmp_path / "runs" / "a" / "lock").write_text("process 1 on here\n")
    with pytest.raises(MovedError, match="was moved to"):
        held.check()
    assert (tmp_path / "runs" / "a" / "lock").read_text() == "process 1 on here\n"


def test_a_workdir_that_was_removed_is_said(held, tmp_path):
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(MovedError, match="runs/a was removed, or moved, while"):
        held.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lock_file_that_was_removed_is_said(held, tmp_path, replaced):
    path = tmp_path / "runs" / "a" / "lock"
    path.rename(tmp_path / "lock")
    if replaced:
        path.touch()
    with pytest.raises(MovedError, match="a/lock was removed or replaced, so another process"):
        held.check()
    assert path.parent.is_dir()


def test_empty_directories_in_the_place_of_the_workdir_are_removed(held, tmp_path):
    (tmp_path / "runs").rename(tmp_path / "b")
    (tmp_path / "runs" / "a" / "checkpoints").mkdir(parents=True)
    with pytest.raises(MovedError):
        held.check()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]

    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "note").touch()
    with pytest.raises(MovedError):
        held.check()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["note"]


def refused(workdir):
    with pytest.raises(InputError) as caught:
        with WriterLock(workdir) as lock:
            lock.acquire()
    return str(caught.value)


def test_a_lock_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "lock").touch()

    def no_permission(path, mode, **_):
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
