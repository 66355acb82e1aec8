"""The convolutions of cpp/, which a CPU does two to six times as fast as XLA's own.

They are compiled for the machine at hand when they are first needed, in some three seconds, and
kept in the user's cache directory. Where there is no C++ compiler (GCC or Clang, as `c++` or $CXX)
XLA's own are used; so they are with JAXCIFAR_CPU_SETTINGS=0, and in half precision.
"""

import ctypes
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar import environment

_SOURCES = sorted(Path(__file__).with_name("cpp").iterdir())
_MAIN = next(path for path in _SOURCES if path.suffix == ".cc")
_OPTIONS = "-std=c++17 -O3 -march=native -ffp-contract=fast -fPIC -shared".split()
_FUNCTIONS = ("jaxcifar_convolve", "jaxcifar_kernel_gradient")


def suits(x: jax.Array) -> bool:
    """Returns whether there is a convolution for arrays of this type here."""
    return x.dtype in (jnp.float32, jnp.float64) and compiler() is not None


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    """Returns the convolution [N, H', W', out].

    Args:
      x: images [N, H, W, in].
      kernel: [rows, columns, in, out], of the same type.
      strides: down and right.
      padding: before and after, of both directions.
    """
    size = (
        (length + before + after - taps) // stride + 1
        for length, taps, stride, (before, after) in zip(
            x.shape[1:3], kernel.shape[:2], strides, padding, strict=True
        )
    )
    return _call(_FUNCTIONS[0], (len(x), *size, kernel.shape[3]), x, kernel, strides, padding)


def kernel_gradient(
    x: jax.Array,
    dy: jax.Array,
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
    size: tuple[int, int],
) -> jax.Array:
    """Returns the gradient [rows, columns, in, out] by the kernel.

    Args:
      x: images [N, H, W, in].
      dy: gradient by the outputs [N, H', W', out].
      strides, padding: as of the convolution.
      size: rows and columns.
    """
    return _call(_FUNCTIONS[1], (*size, x.shape[3], dy.shape[3]), x, dy, strides, padding)


def _call(
    function: str,
    shape: tuple[int, ...],
    x: jax.Array,
    other: jax.Array,
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    call = jax.ffi.ffi_call(
        function, jax.ShapeDtypeStruct(shape, x.dtype), vmap_method="sequential"
    )
    return call(x, other, window=np.array([*strides, padding[0][0], padding[1][0]], np.int64))


@cache
def compiler() -> str | None:
    """Returns which compiler made them, or None where they are not to be had."""
    if not environment.cpu_settings_allowed(os.environ):
        return None
    command = [os.environ.get("CXX") or "c++", *_OPTIONS, f"-I{jax.ffi.include_dir()}"]
    try:
        version = _run([command[0], "--version"]).splitlines()[0]
        made_from = [*command, version, importlib.metadata.version("jaxlib")]
        made_from += [path.read_text() for path in _SOURCES]
        name = hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:16]
        path = environment.cache_directory(os.environ, "native") / f"{name}.so"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as directory:
                made = Path(directory) / path.name
                _run([*command, str(_MAIN), "-o", str(made)])
                made.replace(path)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        print(f"warning: convolutions are slower: {said.splitlines()[0]}", file=sys.stderr)
        return None
    for function in _FUNCTIONS:
        handler = jax.ffi.pycapsule(getattr(library, function))
        jax.ffi.register_ffi_target(function, handler, platform="cpu")
    return version


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
