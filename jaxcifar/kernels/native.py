"""The C++ convolutions in cpp/, two to six times as fast on a CPU as XLA's own.

They are compiled for this machine on first use, which takes about five seconds, and kept in the
user's cache directory. Without a C++ compiler (GCC or Clang, as `c++` or $CXX), in half precision,
or with JAXCIFAR_CPU_SETTINGS=0, XLA's convolutions are used instead.
"""

import ctypes
import hashlib
import importlib.metadata
import os
import re
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
_CONVOLVE, _KERNEL_GRADIENT = "jaxcifar_convolve", "jaxcifar_kernel_gradient"


def supports(x: jax.Array) -> bool:
    """Returns whether the compiled convolutions are available for arrays of this type."""
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
      kernel: kernel [rows, columns, in, out], of the same type.
      strides: strides down and right.
      padding: rows of zeros before and after the image, then columns.
    """
    size = (
        (length + before + after - taps) // stride + 1
        for length, taps, stride, (before, after) in zip(
            x.shape[1:3], kernel.shape[:2], strides, padding, strict=True
        )
    )
    return _call(_CONVOLVE, (len(x), *size, kernel.shape[3]), x, kernel, strides, padding)


def kernel_gradient(
    x: jax.Array,
    dy: jax.Array,
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
    size: tuple[int, int],
) -> jax.Array:
    """Returns the gradient [rows, columns, in, out] with respect to the kernel.

    Args:
      x: images [N, H, W, in].
      dy: gradient with respect to the outputs [N, H', W', out].
      strides: strides of the convolution.
      padding: padding of the convolution.
      size: rows and columns of the kernel.
    """
    return _call(_KERNEL_GRADIENT, (*size, x.shape[3], dy.shape[3]), x, dy, strides, padding)


def _call(
    target: str,
    shape: tuple[int, ...],
    x: jax.Array,
    other: jax.Array,
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    result = jax.ShapeDtypeStruct(shape, x.dtype)
    call = jax.ffi.ffi_call(target, result, vmap_method="sequential")
    return call(x, other, window=np.array([*strides, padding[0][0], padding[1][0]], np.int64))


@cache
def compiler() -> str | None:
    """Returns the version of the compiler that built the convolutions, or None without them.

    The first call builds and loads them. If that fails, it prints a warning.
    """
    if not environment.cpu_settings_allowed(os.environ):
        return None
    command = os.environ.get("CXX") or "c++"
    try:
        version = _run([command, "--version"]).splitlines()[0]
        library = ctypes.CDLL(str(_build(command, version)))
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"warning: could not build the C++ convolutions: {_reason(error)}\n"
            "Training on the CPU is slower without them. Install GCC or Clang, or set CXX to one "
            "of them; JAXCIFAR_CPU_SETTINGS=0 silences this warning.",
            file=sys.stderr,
        )
        return None
    for target in (_CONVOLVE, _KERNEL_GRADIENT):
        handler = jax.ffi.pycapsule(getattr(library, target))
        jax.ffi.register_ffi_target(target, handler, platform="cpu")
    return version


def _build(compiler: str, version: str) -> Path:
    """Returns the compiled library, which is built unless the cache has it."""
    command = [compiler, *_OPTIONS, f"-I{jax.ffi.include_dir()}"]
    inputs = [*command, version, importlib.metadata.version("jaxlib")]
    inputs += [path.read_text() for path in _SOURCES]
    name = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:16]
    path = environment.cache_directory(os.environ, "native") / f"{name}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as directory:
            built = Path(directory) / path.name
            _run([*command, str(_MAIN), "-o", str(built)])
            built.replace(path)
    return path


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _reason(error: OSError | subprocess.CalledProcessError) -> str:
    """The first error in the compiler's output, or else its first line, or else the exception."""
    lines = (getattr(error, "stderr", None) or str(error)).splitlines()
    return next((line for line in lines if re.search(r"\berror\b", line)), lines[0])
