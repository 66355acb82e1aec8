"""Ternary kernels with five weights per byte, and convolution with them.

The levels -1, 0 and 1 are the digits 0, 1 and 2 of a number in base 3: 1.6 bits per weight, where
base 2 takes 2 and float32 takes 32. A byte has the weights of one output channel in five taps that
are a fifth of all taps apart, the first in the lowest digit.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcifar.kernels import native, packed_matmul
from jaxcifar.kernels.backend import is_cpu
from jaxcifar.kernels.convolution import DIMENSIONS
from jaxcifar.kernels.packed_matmul import WEIGHTS_PER_BYTE

Shape = tuple[int, int, int, int]  # rows, columns, in and out of a kernel


def pack(levels: np.ndarray) -> np.ndarray:
    """Returns the codes of a kernel's levels, uint8 [ceil(rows * columns * in / 5), out].

    Args:
      levels: -1, 0 or 1, [rows, columns, in, out].
    """
    digits = np.asarray(levels).reshape(-1, levels.shape[-1]).astype(np.int64) + 1
    if not ((digits >= 0) & (digits <= 2)).all():
        raise ValueError("levels must be -1, 0 or 1")
    padded = np.pad(digits, ((0, -len(digits) % WEIGHTS_PER_BYTE), (0, 0)), constant_values=1)
    fifths = padded.reshape(WEIGHTS_PER_BYTE, -1, padded.shape[1])
    return np.tensordot(3 ** np.arange(WEIGHTS_PER_BYTE), fifths, axes=1).astype(np.uint8)


def codes_shape(shape: Shape) -> tuple[int, int]:
    """Returns the shape of the codes of a kernel."""
    return -(-math.prod(shape[:3]) // WEIGHTS_PER_BYTE), shape[3]


def unpack(codes: jax.Array, shape: Shape) -> jax.Array:
    """Returns levels as int32 [rows, columns, in, out].

    Args:
      codes: see `pack`.
      shape: shape of the kernel.
    """
    places = 3 ** jnp.arange(WEIGHTS_PER_BYTE)[:, None, None]
    digits = codes.astype(jnp.int32) // places % 3
    return digits.reshape(-1, shape[3])[: math.prod(shape[:3])].reshape(shape) - 1


def convolve(
    x: jax.Array, codes: jax.Array, scales: jax.Array, shape: Shape, stride: int
) -> jax.Array:
    """Returns the convolution [N, H / stride, W / stride, out], padded by half the kernel's size.

    The kernel is never unpacked as a whole on a GPU. On a CPU the compiled library unpacks it for
    the time of the call.

    Args:
      x: images [N, H, W, in].
      codes: levels of the kernel, see `pack`.
      scales: [2, out], of the type of x: the weights of level 1, and minus those of level -1.
      shape: shape of the kernel.
      stride: stride down and right.
    """
    half_rows, half_columns = shape[0] // 2, shape[1] // 2
    padding = [(half_rows, half_rows), (half_columns, half_columns)]
    if is_cpu() and native.supports(x):
        return native.convolve_packed(x, codes, scales, shape, (stride, stride), padding)
    if jax.default_backend() == "gpu" and packed_matmul.is_available():
        return packed_matmul.convolve(x, codes, scales, shape, stride, padding)
    levels = unpack(codes, shape)
    kernel = jnp.where(levels > 0, scales[0], 0) - jnp.where(levels < 0, scales[1], 0)
    return lax.conv_general_dilated(
        x, kernel.astype(x.dtype), (stride, stride), padding, dimension_numbers=DIMENSIONS
    )
