"""Files with weights, as PyTorch's users have them."""

import io
import os
import pickle
import shlex
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from jaxcifar.errors import InputError
from jaxcifar.models import weights_file

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7)}


def archive(*names):
    """A zip file with an empty file of each name."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, b"")
    return data.getvalue()


def test_a_safetensors_file_is_told_by_its_content(tmp_path):
    file = tmp_path / "weights.pth"
    save_file(ARRAYS, file)
    found, notes = weights_file.read(file)
    np.testing.assert_equal(found, ARRAYS)
    assert not notes
    # Where its header has 640 bytes, the file begins as a pickle does.
    headers = (save(ARRAYS, {"x": "x" * length}) for length in range(640))
    file.write_bytes(next(data for data in headers if data.startswith(b"\x80\x02")))
    np.testing.assert_equal(weights_file.read(file)[0], ARRAYS)


def test_the_types_of_floats_are_said(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file({"a": np.ones(2), "b": np.ones(2, np.float16), "n": np.array(7)}, file)
    assert weights_file.read(file)[1] == ["its float16 and float64 arrays become float32"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the file is empty"),
        (save(ARRAYS)[:-10], "cut off or damaged safetensors file: "),
        (save(ARRAYS)[:50], "cut off or damaged safetensors file: "),
        (b"<html><body>404</body></html>", "not a readable safetensors file, nor one of PyTorch"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2), "PyTorch's old format"),
        (pickle.dumps({"a": 1}), "or another pickle"),
        (b"x" * 257 + b"ustar\x0000", "PyTorch's old format"),
        (archive("w/data.pkl", "w/version")[:-30], "cut off or damaged PyTorch file"),
        (archive("w/data.pkl", "w/constants.pkl"), "a TorchScript program; must be a state dict"),
        (archive("a.weight.npy"), "a zip archive, but not one that torch.save has written"),
    ],
)
def test_a_file_that_is_none_is_explained(tmp_path, content, message):
    file = tmp_path / "weights"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"^{file}: .*{message}"):
        weights_file.read(file)


def test_a_path_without_a_file_is_explained(tmp_path):
    with pytest.raises(InputError, match="is a directory; must be a safetensors, .pt or .pth file"):
        weights_file.read(tmp_path)
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(InputError, match="pipe.pt is a pipe; it must be a regular file"):
        weights_file.read(tmp_path / "pipe.pt")
    with pytest.raises(InputError, match="none.pt: No such file or directory"):
        weights_file.read(tmp_path / "none.pt")


def test_pytorchs_files_are_never_unpickled_here(tmp_path, monkeypatch):
    def stop(*_):
        raise AssertionError("unpickled")

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    monkeypatch.setattr(pickle, "load", stop)
    monkeypatch.setattr(pickle, "loads", stop)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    file = tmp_path / "it's a file.pt"
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("w/data.pkl", pickle.dumps(Bomb(), 2))
    with pytest.raises(InputError) as refused:
        weights_file.read(file)
    first, command = str(refused.value).splitlines()
    assert "needs PyTorch, which is not installed here" in first and "pip install torch" in first
    assert command.startswith("  python -c 'import sys, torch; ") and "weights_only=True" in command
    file.write_bytes(pickle.dumps(Bomb(), 2))
    with pytest.raises(InputError, match="which is not read.*\n  python -c .*weights_only=True"):
        weights_file.read(file)
    assert not (tmp_path / "exploded").exists()


def test_a_flipped_bit_in_a_file_of_pytorch_is_noticed(tmp_path):
    file = tmp_path / "w.pt"
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("w/data.pkl", b"names")
        zipped.writestr("w/data/0", b"numbers")
    file.write_bytes(file.read_bytes().replace(b"numbers", b"numberr"))
    with pytest.raises(InputError, match="w.pt: damaged: the checksum of w/data/0 in it is wrong"):
        weights_file.read(file)


def is_array(value):
    return isinstance(value, np.ndarray)


@pytest.mark.parametrize(
    "loaded, entries",
    [
        (ARRAYS, []),
        ({"epoch": 3, "state_dict": ARRAYS, "optimizer": {"state": {}}}, ["state_dict"]),
        ({"model": ARRAYS, "model_ema": {}, "args": {"lr": 1}}, ["model"]),
        ({"net": ARRAYS, "acc": 91.2}, ["net"]),
        ({"step": np.array(1), "model": {"state_dict": ARRAYS}}, ["model", "state_dict"]),
    ],
)
def test_a_state_dict_is_found_in_a_checkpoint(loaded, entries):
    assert weights_file.find_state_dict(loaded, is_array) == (ARRAYS, entries)


@pytest.mark.parametrize(
    "loaded, message",
    [
        ({"epoch": 3, "weights": ARRAYS}, r"no tensors: epoch \(int\), weights \(dict\)$"),
        ({"state_dict": {"a": 1}}, r"no tensors: a \(int\)$"),
        ([ARRAYS], "has a list$"),
        ({}, "has nothing$"),
    ],
)
def test_what_has_no_state_dict_is_explained(loaded, message):
    with pytest.raises(
        InputError, match=f"^no state dict; it must hold one, .* or net, .*{message}"
    ):
        weights_file.find_state_dict(loaded, is_array)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs PyTorch, which is not a dependency")


def test_files_of_pytorch_are_read(torch, tmp_path):
    file = tmp_path / "checkpoint.pth"
    kernel = torch.arange(24.0).reshape(1, 4, 3, 2)
    tensors = {
        "a": torch.nn.Parameter(torch.ones(3)),
        "b": kernel.to(memory_format=torch.channels_last),
        "c": torch.tensor([0.5, 3], dtype=torch.bfloat16),
        "n": torch.tensor(7),
    }
    torch.save({"epoch": 3, "state_dict": tensors}, file)
    found, notes = weights_file.read(file)
    assert notes == [
        "the weights are its entry state_dict",
        "its bfloat16 arrays become float32",
    ]
    assert found["n"] == 7 and found["a"].tolist() == [1, 1, 1]
    np.testing.assert_array_equal(found["b"], np.arange(24.0).reshape(1, 4, 3, 2))
    assert found["c"].astype(np.float32).tolist() == [0.5, 3]


def test_what_pytorch_cannot_load_is_explained(torch, tmp_path):
    file = tmp_path / "w.pt"
    torch.save(torch.nn.Linear(2, 2), file)
    with pytest.raises(
        InputError, match=r"Python objects \(torch.nn.*Linear\).*\n.*weights_only=F"
    ):
        weights_file.read(file)
    torch.save({"a": torch.eye(2).to_sparse()}, file)
    with pytest.raises(
        InputError, match="w.pt: a: a tensor of torch.float32, .*sparse.* cannot be"
    ):
        weights_file.read(file)
    torch.save([torch.ones(2)], file)
    with pytest.raises(InputError, match="w.pt: no state dict"):
        weights_file.read(file)
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="PyTorch's old format"):
        weights_file.read(file)


def test_files_without_checksums_are_read(torch, tmp_path):
    file = tmp_path / "w.pt"
    torch.serialization.set_crc32_options(False)
    torch.save({"a": torch.ones(2)}, file)
    torch.serialization.set_crc32_options(True)
    assert weights_file.read(file)[0]["a"].tolist() == [1, 1]


@pytest.mark.parametrize("old", [False, True])
def test_the_command_of_the_message_makes_a_safetensors_file(torch, tmp_path, old):
    file = tmp_path / "it's a file.pt"
    tensors = {"a": torch.ones(2, 3).t(), "b": torch.zeros(2, dtype=torch.bfloat16)}
    torch.save({"model": tensors}, file, _use_new_zipfile_serialization=not old)
    arguments = shlex.split(weights_file._command(file))
    arguments[0] = sys.executable
    subprocess.run(arguments, check=True)
    found, _ = weights_file.read(tmp_path / "it's a file.pt.safetensors")
    assert found["a"].tolist() == [[1, 1]] * 3 and found["b"].tolist() == [0, 0]
