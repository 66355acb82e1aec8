"""Reads files with PyTorch weights: safetensors files, and .pt and .pth files if PyTorch is there.

A file's kind is told from its content, not from its name. Pickled data is only ever read by
PyTorch's weights-only loader, which runs no code from the file.
"""

import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jaxcifar.errors import InputError
from jaxcifar.regular_files import check_regular

Arrays = dict[str, np.ndarray]

# Where a training checkpoint keeps the state dict; the first that is there counts.
_ENTRIES = ("state_dict", "model_state_dict", "model", "net")

# Run by `_command` in a Python with PyTorch.
_CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; "
    'w = torch.load(sys.argv[1], "cpu", weights_only={weights_only}); '
    'w = w if isinstance(w, dict) else {{"model": w}}; '
    "w = next((w[k] for k in {entries} if k in w), w); "
    'w = w.state_dict() if hasattr(w, "state_dict") else w; '
    "w = {{k: v.detach().clone().contiguous() for k, v in w.items() if torch.is_tensor(v)}}; "
    "save_file(w, sys.argv[2])"
)


def read(file: Path) -> tuple[Arrays, list[str]]:
    """Returns the arrays of a file by name, and what the user should know about how they were read.

    Args:
      file: a safetensors file, or a state dict or a checkpoint with one, saved by `torch.save`.

    Raises:
      InputError: if the file is missing, empty, cut off or of another kind, needs PyTorch and that
        is not installed, or contains objects other than tensors in its state dict.
    """
    try:
        if file.is_dir():
            raise InputError(f"{file}: is a directory; must be a safetensors, .pt or .pth file")
        check_regular(file)
        with file.open("rb") as stream:
            start = stream.read(512)
    except OSError as error:
        raise InputError(
            f"{file}: {error.strerror}; must be a safetensors, .pt or .pth file"
        ) from error
    if not start:
        raise InputError(f"{file}: the file is empty")
    if start[8:9] == b"{":  # after 8 bytes of its length, the header of a safetensors file
        arrays = _read_safetensors(file)
        return arrays, _conversions(arrays)
    if start.startswith(b"PK\x03\x04"):
        _check_archive(file)
        arrays, notes = _read_torch(file)
        return arrays, notes + _conversions(arrays)
    if re.match(rb"\x80[\x02-\x05]", start) or start[257:262] == b"ustar":
        raise InputError(
            f"{file}: in PyTorch's old format of before version 1.6, or another pickle, which is "
            f"not read. Where PyTorch is installed, make a safetensors file of it:\n"
            f"  {_command(file)}"
        )
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{file}: a Git LFS pointer, not the weights; fetch them: git lfs pull")
    raise InputError(f"{file}: not a readable safetensors file, nor one of PyTorch (.pt, .pth)")


def find_state_dict(
    loaded: Any, is_tensor: Callable[[Any], bool]
) -> tuple[Mapping[str, Any], list[str]]:
    """Returns the state dict in an object that was saved, and the entries that lead to it.

    Args:
      loaded: a state dict, or a checkpoint's dictionary with one under a usual name.
      is_tensor: tells tensors from other objects.

    Raises:
      InputError: if there is none; the message lists what there is instead.
    """
    entries: list[str] = []
    found = loaded
    while isinstance(found, Mapping):
        entry = next((e for e in _ENTRIES if isinstance(found.get(e), Mapping)), None)
        if entry is None:
            break
        found = found[entry]
        entries.append(entry)
    is_dict = isinstance(found, Mapping)
    if is_dict and found and all(map(is_tensor, found.values())):
        return found, entries
    names = list(_ENTRIES)
    has = f"a {type(found).__name__}"
    if is_dict:
        others = [f"{k} ({type(v).__name__})" for k, v in found.items() if not is_tensor(v)]
        has = f"entries that are no tensors: {', '.join(others[:5])}" if others else "nothing"
        has += f", ... ({len(others)} in total)" if len(others) > 5 else ""
    raise InputError(
        f"no state dict; it must hold one, alone or as {', '.join(names[:-1])} or {names[-1]}, "
        f"but has {has}"
    )


def _read_safetensors(file: Path) -> Arrays:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cut off or damaged safetensors file: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:  # a type that NumPy lacks
        raise InputError(f"{file}: arrays of a type that cannot be read: {error}") from error


def _check_archive(file: Path) -> None:
    """Refuses a zip file that is not a saved state dict."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
            # PyTorch does not check them itself; it can be told to write 0 in all of them.
            has_checksums = any(info.CRC for info in archive.infolist())
            damaged = archive.testzip() if has_checksums else None
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: cut off or damaged PyTorch file: {error}") from error
    if damaged:
        raise InputError(f"{file}: damaged: the checksum of {damaged} in it is wrong")
    if "constants.pkl" in names:
        raise InputError(
            f"{file}: a TorchScript program; must be a state dict: "
            "torch.save(torch.jit.load(...).state_dict(), ...)"
        )
    if "data.pkl" not in names:
        raise InputError(f"{file}: a zip archive, but not one that torch.save has written")


def _read_torch(file: Path) -> tuple[Arrays, list[str]]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{file}: needs PyTorch, which is not installed here. Install it (pip install torch) "
            "or, where it is installed, make a safetensors file and give that:\n"
            f"  {_command(file)}"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch, about its own code
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise InputError(
            f"{file}: contains Python objects{f' ({found[1]})' if found else ''}, which are not "
            "loaded, because they could run any code. Save model.state_dict() alone or, if you "
            "trust the file, make a safetensors file of it:\n"
            f"  {_command(file, weights_only=False)}"
        ) from error
    except Exception as error:  # PyTorch raises many types
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{file}: cut off or damaged PyTorch file: {reason}") from error
    try:
        tensors, entries = find_state_dict(loaded, torch.is_tensor)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    notes = [f"the weights are its entry {'.'.join(entries)}"] if entries else []
    return {name: _as_array(file, name, tensor) for name, tensor in tensors.items()}, notes


def _as_array(file: Path, name: str, tensor: Any) -> np.ndarray:
    import torch

    try:
        tensor = tensor.detach()
        if tensor.dtype == torch.bfloat16:  # NumPy has no such type
            return tensor.contiguous().view(torch.int16).numpy().view(jnp.bfloat16)
        return tensor.numpy()
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{file}: {name}: a tensor of {tensor.dtype}, {tensor.layout}, cannot be read"
        ) from error


def _conversions(arrays: Arrays) -> list[str]:
    """Says which arrays will lose or gain digits as they become float32."""
    types = {str(x.dtype) for x in arrays.values() if jnp.issubdtype(x.dtype, jnp.floating)}
    others = sorted(types - {"float32"})
    return [f"its {' and '.join(others)} arrays become float32"] if others else []


def _command(file: Path, *, weights_only: bool = True) -> str:
    """The shell command that makes a safetensors file of a file saved by `torch.save`."""
    code = _CONVERT.format(weights_only=weights_only, entries=repr(_ENTRIES).replace("'", '"'))
    target = file.with_name(file.name + ".safetensors")
    return " ".join(["python -c", *map(shlex.quote, (code, str(file), str(target)))])
