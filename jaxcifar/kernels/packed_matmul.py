"""Products with packed ternary matrices on a GPU, which are unpacked in registers (Pallas, Triton).

`packed_ternary` has the layout of the codes. Level 0 five times is the byte 121.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

try:
    from jax.experimental.pallas import triton
except ImportError:  # JAX has announced that it will be removed
    triton = None

WEIGHTS_PER_BYTE = 5
_ZEROS = 121
_ROWS, _COLUMNS, _DEPTH = 64, 64, 32  # of the blocks that one program computes at a time


def is_available() -> bool:
    """Returns whether this version of JAX can compile the programs for a GPU."""
    return triton is not None


def convolve(
    x: jax.Array,
    codes: jax.Array,
    scales: jax.Array,
    shape: tuple[int, int, int, int],
    stride: int,
    padding: Sequence[tuple[int, int]],
    *,
    interpret: bool = False,
) -> jax.Array:
    """Returns a convolution as a product; see `packed_ternary.convolve`.

    Args:
      x, codes, scales, shape, stride: as there.
      padding: rows of zeros before and after the image, then columns.
      interpret: whether to run the program step by step, as is possible on a CPU.
    """
    rows, columns, _, out = shape
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = (
        (size - taps) // stride + 1
        for size, taps in zip(padded.shape[1:3], (rows, columns), strict=True)
    )
    taps = [
        padded[:, row : row + stride * height : stride, column : column + stride * width : stride]
        for row in range(rows)
        for column in range(columns)
    ]
    taps = [tap[:, :height, :width] for tap in taps]
    patches = jnp.concatenate(taps, axis=3)
    product = multiply(patches.reshape(-1, patches.shape[3]), codes, scales, interpret=interpret)
    return product.reshape(len(x), height, width, out)


def multiply(
    x: jax.Array, codes: jax.Array, scales: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """Returns the product [M, N] with the matrix [K, N] that the codes stand for.

    Args:
      x: [M, K].
      codes: uint8 [ceil(K / 5), N].
      scales: [2, N]: the elements of level 1, and minus those of level -1.
      interpret: see `convolve`.
    """
    (m, k), (fifth, n) = x.shape, codes.shape
    depth = _round_up(fifth, _DEPTH)
    x = jnp.pad(x, ((0, _round_up(m, _ROWS) - m), (0, WEIGHTS_PER_BYTE * fifth - k)))
    x = x.reshape(len(x), WEIGHTS_PER_BYTE, fifth)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, depth - fifth))).reshape(len(x), -1)
    columns = _round_up(n, _COLUMNS)
    codes = jnp.pad(codes, ((0, depth - fifth), (0, columns - n)), constant_values=_ZEROS)
    scales = jnp.pad(scales, ((0, 0), (0, columns - n)))
    product = pl.pallas_call(
        partial(_multiply_block, depth=depth),
        out_shape=jax.ShapeDtypeStruct((len(x), columns), x.dtype),
        grid=(len(x) // _ROWS, columns // _COLUMNS),
        in_specs=[
            pl.BlockSpec((_ROWS, x.shape[1]), lambda i, j: (i, 0)),
            pl.BlockSpec((depth, _COLUMNS), lambda i, j: (0, j)),
            pl.BlockSpec((2, _COLUMNS), lambda i, j: (0, j)),
        ],
        out_specs=pl.BlockSpec((_ROWS, _COLUMNS), lambda i, j: (i, j)),
        compiler_params=None if interpret else triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
    )(x, codes, scales)
    return product[:m, :n]


def _multiply_block(x: Any, codes: Any, scales: Any, product: Any, *, depth: int) -> None:
    """Computes a block of the product; the arguments are references to blocks."""
    positive, negative = scales[0, :], scales[1, :]

    def add(step: jax.Array, total: jax.Array) -> jax.Array:
        first = step * _DEPTH
        rest = codes[pl.ds(first, _DEPTH), :].astype(jnp.int32)
        for fifth in range(WEIGHTS_PER_BYTE):
            digits, rest = rest % 3, rest // 3
            weights = jnp.where(digits == 2, positive, jnp.where(digits == 0, -negative, 0))
            block = x[:, pl.ds(fifth * depth + first, _DEPTH)]
            total += jnp.dot(
                block,
                weights.astype(block.dtype),
                precision=lax.Precision.HIGHEST if block.dtype == jnp.float32 else None,
                preferred_element_type=jnp.float32,
            )
        return total

    total = lax.fori_loop(0, depth // _DEPTH, add, jnp.zeros((_ROWS, _COLUMNS), jnp.float32))
    product[...] = total.astype(product.dtype)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
