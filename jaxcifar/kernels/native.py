"""The C++ convolutions in cpp/, two to six times as fast on a CPU as XLA's own, and channel sums.

They are compiled for this machine on first use, which takes about ten seconds, and kept in the
user's cache directory with a hash, by which a damaged file is noticed and built again. Without a
C++ compiler (GCC or Clang, as `c++` or $CXX), in float16, or with JAXCIFAR_CPU_SETTINGS=0, XLA's
own operations are used instead. The results do not depend on the number of threads.

Images may be bfloat16, which halves the memory that is moved. They are converted to float32 in the
cache, and products and sums are those of float32.
"""

import ctypes
import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
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
CONVOLVE_AND_POOL = "jaxcifar_convolve_and_pool"
_UNPOOL_AND_CONVOLVE = "jaxcifar_unpool_and_convolve"
_UNPOOLED_KERNEL_GRADIENT = "jaxcifar_unpooled_kernel_gradient"
_CHANNEL_SUMS = "jaxcifar_channel_sums"
_CONVOLVE_PACKED = "jaxcifar_convolve_packed"
_TARGETS = (
    _CONVOLVE,
    _KERNEL_GRADIENT,
    CONVOLVE_AND_POOL,
    _UNPOOL_AND_CONVOLVE,
    _UNPOOLED_KERNEL_GRADIENT,
    _CHANNEL_SUMS,
    _CONVOLVE_PACKED,
)
_BUILD_PREFIX = "build-"
_LOCK_SECONDS = 120.0


_is_off: ContextVar[bool] = ContextVar("is_off", default=False)


def supports(x: jax.Array) -> bool:
    """Returns whether the compiled convolutions are available for arrays of this type."""
    if _is_off.get():
        return False
    return x.dtype in (jnp.float32, jnp.float64, jnp.bfloat16) and compiler() is not None


def _wide(x: jax.Array) -> jax.Array:
    """Kernels and weights as the compiled code reads them: bfloat16 becomes float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@contextmanager
def switched_off() -> Iterator[None]:
    """Within it, what is traced anew uses XLA's own operations, and so can run elsewhere."""
    token = _is_off.set(True)
    try:
        yield
    finally:
        _is_off.reset(token)


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
    size = _output_size(x, kernel.shape, strides, padding)
    result = jax.ShapeDtypeStruct((len(x), *size, kernel.shape[3]), x.dtype)
    return _call(_CONVOLVE, result, x, _wide(kernel), strides, padding)


def convolve_packed(
    x: jax.Array,
    codes: jax.Array,
    scales: jax.Array,
    shape: tuple[int, int, int, int],
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    """Returns the convolution [N, H', W', out] with a ternary kernel, see `packed_ternary`.

    Args:
      x: images [N, H, W, in].
      codes: levels of the kernel, uint8.
      scales: weights of its levels [2, out], of the type of x.
      shape: rows, columns, in and out of the kernel.
      strides, padding: as in `convolve`.
    """
    size = _output_size(x, shape, strides, padding)
    result = jax.ShapeDtypeStruct((len(x), *size, shape[3]), x.dtype)
    call = jax.ffi.ffi_call(_CONVOLVE_PACKED, result, vmap_method="sequential")
    window = np.array([*strides, padding[0][0], padding[1][0], *shape[:2]], np.int64)
    return call(x, codes, _wide(scales), window=window)


def _output_size(
    x: jax.Array,
    kernel_shape: tuple[int, ...],
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
) -> tuple[int, ...]:
    return tuple(
        (length + before + after - taps) // stride + 1
        for length, taps, stride, (before, after) in zip(
            x.shape[1:3], kernel_shape[:2], strides, padding, strict=True
        )
    )


def kernel_gradient(
    x: jax.Array,
    dy: jax.Array,
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
    size: tuple[int, int],
) -> jax.Array:
    """Returns the gradient [rows, columns, in, out] with respect to the kernel, in the type of x.

    Args:
      x: images [N, H, W, in].
      dy: gradient with respect to the outputs [N, H', W', out].
      strides: strides of the convolution.
      padding: padding of the convolution.
      size: rows and columns of the kernel.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    result = jax.ShapeDtypeStruct((*size, x.shape[3], dy.shape[3]), wide)
    return _call(_KERNEL_GRADIENT, result, x, dy, strides, padding).astype(x.dtype)


def convolve_and_pool(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the maxima [N, H // 2, W // 2, out] of a convolution, and where they were.

    The convolution is of stride 1 and zero-padded to keep the size. The second array, uint8, has
    the corner of each 2x2 window that was the maximum: 0 to 3, row by row, the first of several.

    Args:
      x: images [N, H, W, in].
      kernel: kernel [3, 3, in, out], of the same type.
    """
    size = (len(x), x.shape[1] // 2, x.shape[2] // 2, kernel.shape[3])
    results = (jax.ShapeDtypeStruct(size, x.dtype), jax.ShapeDtypeStruct(size, jnp.uint8))
    call = jax.ffi.ffi_call(CONVOLVE_AND_POOL, results, vmap_method="sequential")
    y, corners = call(x, _wide(kernel))
    return y, corners


def convolve_and_pool_gradients(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, corners: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients with respect to x and the kernel.

    Args:
      x, kernel: as in `convolve_and_pool`.
      dy: gradient with respect to the maxima.
      corners: second result of `convolve_and_pool`.
    """
    wide = _wide(kernel)
    dx, dkernel = (
        jax.ffi.ffi_call(
            target, jax.ShapeDtypeStruct(like.shape, like.dtype), vmap_method="sequential"
        )
        for target, like in ((_UNPOOL_AND_CONVOLVE, x), (_UNPOOLED_KERNEL_GRADIENT, wide))
    )
    mirrored = wide[::-1, ::-1].swapaxes(2, 3)
    return dx(dy, corners, mirrored), dkernel(x, dy, corners).astype(kernel.dtype)


def channel_sums(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums [C] of x and of x * y over all pixels, in float32 or wider.

    Args:
      x: features [..., C].
      y: features of the same shape and type.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    result = jax.ShapeDtypeStruct((2, x.shape[-1]), wide)
    sums = jax.ffi.ffi_call(_CHANNEL_SUMS, result, vmap_method="sequential")(x, y)
    return sums[0], sums[1]


def _call(
    target: str,
    result: jax.ShapeDtypeStruct,
    x: jax.Array,
    other: jax.Array,
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
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
        library = ctypes.CDLL(str(_library(command, version)))
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"warning: could not build the C++ convolutions: {_reason(error)}\n"
            "Training on the CPU is slower without them. Install GCC or Clang, or set CXX to one "
            "of them; JAXCIFAR_CPU_SETTINGS=0 silences this warning.",
            file=sys.stderr,
        )
        return None
    for target in _TARGETS:
        handler = jax.ffi.pycapsule(getattr(library, target))
        jax.ffi.register_ffi_target(target, handler, platform="cpu")
    return version


def _library(compiler: str, version: str) -> Path:
    """Returns the compiled library, which is built unless the cache has it intact."""
    command = [compiler, *_OPTIONS, f"-I{jax.ffi.include_dir()}"]
    inputs = [*command, version, importlib.metadata.version("jaxlib")]
    inputs += [path.read_text() for path in _SOURCES]
    name = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:16]
    path = environment.cache_directory(os.environ, "native") / f"{name}.so"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent) as locked:
        if locked:  # no other process builds here, so these were left by processes that died
            for leftover in path.parent.glob(f"{_BUILD_PREFIX}*"):
                shutil.rmtree(leftover, ignore_errors=True)
        if not _is_intact(path):
            _build(command, path)
    return path


def _build(command: list[str], path: Path) -> None:
    """Compiles the library in a directory of its own, and stores it with its hash."""
    with tempfile.TemporaryDirectory(prefix=_BUILD_PREFIX, dir=path.parent) as directory:
        built = Path(directory) / path.name
        # The compiler's own temporary files go there as well.
        _run([*command, str(_MAIN), "-o", str(built)], TMPDIR=directory)
        _hash_path(built).write_text(_sha256(built))
        built.replace(path)
        _hash_path(built).replace(_hash_path(path))


def _is_intact(path: Path) -> bool:
    """Returns whether a library is there and has the hash stored beside it."""
    try:
        return _hash_path(path).read_text() == _sha256(path)
    except (OSError, UnicodeDecodeError):
        return False


def _hash_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Locks a directory against other processes; yields whether that succeeded.

    It waits for a process that builds, which takes seconds, but not for one that hangs, and does
    without the lock where the file system has none.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        except OSError:
            return False


def _run(command: list[str], **variables: str) -> str:
    env = {**os.environ, **variables}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout


def _reason(error: OSError | subprocess.CalledProcessError) -> str:
    """The first error in the compiler's output, or else its first line, or else the exception."""
    lines = (getattr(error, "stderr", None) or str(error)).splitlines()
    return next((line for line in lines if re.search(r"\berror\b", line)), lines[0])
