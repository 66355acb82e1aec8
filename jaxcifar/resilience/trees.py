"""Descriptions, comparison and hashing of trees of arrays."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxcifar.errors import InputError

_MAX_SHOWN = 15


def describe_arrays(tree: Any) -> dict[str, str]:
    """Returns the dtype and shape of each array, as float32[3, 4], by its path in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}"
        for path, x in leaves
    }


def check_same_arrays(name: str, saved: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Checks that a saved tree has the expected arrays.

    Args:
      name: name of the saved tree for the message.
      saved, expected: see `describe_arrays`.

    Raises:
      InputError: if arrays are missing, unexpected, or differ in dtype or shape.
    """
    differences = [
        f"  {path}: saved {saved.get(path, 'absent')}, expected {expected.get(path, 'absent')}"
        for path in sorted(saved.keys() | expected.keys())
        if saved.get(path) != expected.get(path)
    ]
    if differences:
        raise InputError(
            f"{name} was saved with a different model or optimizer:\n"
            + "\n".join(shorten(differences))
        )


def shorten(lines: list[str]) -> list[str]:
    """Returns the first lines of a list, followed by the number of those left out, if any."""
    left_out = len(lines) - _MAX_SHOWN
    return lines[:_MAX_SHOWN] + ([f"  and {left_out} more"] if left_out > 0 else [])


def tree_sha256(tree: Any) -> str:
    """Returns a SHA-256 over path, dtype, shape and bytes of each leaf, in hexadecimal."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
