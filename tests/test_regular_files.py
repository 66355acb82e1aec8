"""Pipes, sockets and devices in the place of files."""

import os
import socket

import pytest

from jaxcifar.errors import InputError
from jaxcifar.regular_files import check_regular


def test_files_directories_and_what_is_missing_pass(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "to_itself").symlink_to("to_itself")
    for name in ("file", "link", "to_itself", "missing", "file/below", "nul\0", "."):
        check_regular(tmp_path / name)


def test_what_may_block_is_refused_by_kind(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name, kind in (
            *(("fifo", "pipe"), ("link", "pipe"), ("socket", "socket")),
            *(("/dev/zero", "device"), ("/dev/null", "device")),
        ):
            with pytest.raises(InputError, match=f"^{name} is a {kind}; it must be a regular file"):
                check_regular(name)
