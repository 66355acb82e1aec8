"""Atomic replacement of files and directories."""

import errno
import json
import os

import pytest

from jaxcifar.resilience import files
from jaxcifar.resilience.files import make_directory, replacing, write_json


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_part(tmp_path, error):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(error):
        with replacing(path) as part:
            part.write_text("half")
            raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_directories_are_replaced_without_what_a_kill_has_left(tmp_path):
    path = tmp_path / "7"
    (tmp_path / "7.part" / "state").mkdir(parents=True)
    with replacing(path) as part:
        part.mkdir()
        (part / "b").touch()
    assert [file.name for file in path.iterdir()] == ["b"] and list(tmp_path.iterdir()) == [path]


def test_json_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_json_has_strings_for_numbers_that_are_not_finite(tmp_path):
    path = tmp_path / "a.json"
    infinity = float("inf")
    write_json(path, {"loss": float("nan"), "bounds": [(-infinity, 0.5), (1, infinity)]})
    found = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert found == {"loss": "NaN", "bounds": [["-Infinity", 0.5], [1, "Infinity"]]}
    assert float(found["bounds"][0][0]) == -infinity


def failing_sync(path):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("fails", ["write", "sync"])
def test_an_error_names_the_file_that_was_to_be_replaced(tmp_path, monkeypatch, fails):
    path = tmp_path / "a.json"
    write_json(path, 1)
    if fails == "sync":
        monkeypatch.setattr(files, "sync", failing_sync)
    else:  # the system names no file where a write fails
        monkeypatch.setattr("pathlib.Path.write_text", lambda *_: failing_sync(path))
    with pytest.raises(OSError, match="Input/output error") as error:
        write_json(path, 2)
    assert error.value.filename == str(path) and json.loads(path.read_bytes()) == 1


def test_what_is_replaced_is_synced_before_and_after_it_is_renamed(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync", lambda path: synced.append((path, sorted(os.listdir()))))
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "a.json", 1)
    assert synced == [(tmp_path / "a.json.part", ["a.json.part"]), (tmp_path, ["a.json"])]


def test_new_directories_are_synced_into_those_above_them(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync", synced.append)
    for _ in range(2):
        make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_directory(tmp_path / "file" / "c")
