"""Convolution for CPUs: the compiled kernel from `native`, or XLA's if that is not available.

XLA:CPU is fast for one layout only: images [N, H, W, C] and kernels [H, W, in, out]. The gradients
that JAX derives are convolutions with their dimensions in another order. Outside a loop XLA
transposes them; inside a loop it takes a path that is a hundred times slower. Here the gradients
are written as transpositions and a convolution in the layout that is fast everywhere.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcifar.kernels import native
from jaxcifar.kernels.backend import is_cpu

Padding = tuple[tuple[int, int], tuple[int, int]]
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def for_backend() -> Callable[..., jax.Array]:
    """Returns the convolution to use: the one of this module on a CPU, `lax`'s own elsewhere."""
    return conv_general_dilated if is_cpu() else lax.conv_general_dilated


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution [B, H, W, out], of stride 1 and zero-padded to keep the size.

    Args:
      x: features [B, H, W, in].
      kernel: kernel [K, K, in, out] with K odd; it is cast to the type of x.
    """
    half = len(kernel) // 2
    return for_backend()(
        x,
        kernel.astype(x.dtype),
        (1, 1),
        ((half, half), (half, half)),
        dimension_numbers=DIMENSIONS,
    )


def conv_general_dilated(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any
) -> jax.Array:
    """Returns the convolution [N, H / strides, W / strides, out]; linen's `Conv` calls it.

    Args:
      x: images [N, H, W, in].
      kernel: kernel [H, W, in, out], neither dilated nor grouped.
      strides: strides down and right.
      padding: rows of zeros before and after the image, then columns.
    """
    return _conv(x, kernel, tuple(strides), tuple(map(tuple, padding)))


def linear(
    x: jax.Array, kernel: jax.Array, dimension_numbers: Any, *settings: Any, **options: Any
) -> jax.Array:
    """Returns the product [B, out]; linen's `Dense` calls it as its `dot_general`.

    On a CPU it is the compiled convolution, since the rounding of a long sum in XLA's product
    depends on the number of threads.

    Args:
      x: features [B, in].
      kernel: kernel [in, out].
      dimension_numbers, settings, options: see `lax.dot_general`.
    """
    if is_cpu() and x.ndim == 2 and native.supports(x):
        return _conv(x[:, None, None], kernel[None, None], (1, 1), ((0, 0), (0, 0)))[:, 0, 0]
    return lax.dot_general(x, kernel, dimension_numbers, *settings, **options)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    if native.supports(x):
        return native.convolve(x, kernel, strides, padding)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)


def _forward(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding):
    return _conv(x, kernel, strides, padding), (x, kernel)


def _backward(
    strides: tuple[int, int], padding: Padding, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    dx = _input_gradient(x.shape[1:3], kernel, dy, strides, padding)
    if native.supports(x):
        return dx, native.kernel_gradient(x, dy, strides, padding, kernel.shape[:2])
    return dx, _kernel_gradient(x, kernel.shape[:2], dy, strides, padding)


_conv.defvjp(_forward, _backward)


def _input_gradient(
    size: tuple[int, int],
    kernel: jax.Array,
    dy: jax.Array,
    strides: tuple[int, int],
    padding: Padding,
) -> jax.Array:
    """The gradient [N, H, W, in], interleaved from one convolution per offset within a stride.

    With a stride of 2 each tap of the kernel meets only every other pixel of x, so the convolutions
    split the taps between them. A single convolution of dy with zeros between its pixels would
    spend most of its multiplications on the zeros.
    """
    taps_by_offset = [
        [_taps_at(offset, stride, length, taps, outputs, before) for offset in range(stride)]
        for stride, length, taps, outputs, (before, _) in zip(
            strides, size, kernel.shape[:2], dy.shape[1:3], padding, strict=True
        )
    ]
    kernel = kernel.swapaxes(2, 3)
    pixels = [-(-length // stride) for length, stride in zip(size, strides, strict=True)]
    no_taps = jnp.zeros((len(dy), *pixels, kernel.shape[3]), dy.dtype)

    def at_offset(row: _Taps | None, column: _Taps | None) -> jax.Array:
        if row is None or column is None:
            return no_taps
        taps = kernel[row.taps][:, column.taps]
        return _conv(dy, taps, (1, 1), (row.padding, column.padding))

    rows, columns = taps_by_offset
    dx = jnp.stack([jnp.stack([at_offset(row, c) for c in columns], 3) for row in rows], 2)
    dx = dx.reshape(len(dy), pixels[0] * strides[0], pixels[1] * strides[1], -1)
    return dx[:, : size[0], : size[1]]


class _Taps(NamedTuple):
    taps: slice
    padding: tuple[int, int]


def _taps_at(
    offset: int, stride: int, size: int, taps: int, outputs: int, before: int
) -> _Taps | None:
    """The taps, last first, that meet the pixels offset, offset + stride, ..., and dy's padding.

    Args (all along one axis):
      offset: first of the pixels, below the stride.
      stride: stride of the convolution.
      size: size of x.
      taps: size of the kernel.
      outputs: size of dy.
      before: number of zeros before x.
    """
    first = (offset + before) % stride
    used = range(first, taps, stride)
    if not used:
        return None
    # Pixel offset + stride * m and tap k meet in output m + (offset + before - k) / stride.
    lowest, highest = ((offset + before - tap) // stride for tap in (used[-1], used[0]))
    pixels = -(-size // stride)
    reversed_taps = slice(used[-1], first - 1 if first else None, -stride)
    return _Taps(reversed_taps, (-lowest, pixels - 1 + highest - (outputs - 1)))


def _kernel_gradient(
    x: jax.Array,
    size: tuple[int, int],
    dy: jax.Array,
    strides: tuple[int, int],
    padding: Padding,
) -> jax.Array:
    """The gradient [H, W, in, out], by XLA: x's channels act as the images, dy as the kernel."""
    # Negative padding cuts off rows at the end of x that the strides never reach.
    used = [
        (before, stride * (outputs - 1) + taps - length - before)
        for length, outputs, taps, stride, (before, _) in zip(
            x.shape[1:3], dy.shape[1:3], size, strides, padding, strict=True
        )
    ]
    gradient = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        used,
        rhs_dilation=strides,
        dimension_numbers=DIMENSIONS,
    )
    return gradient.transpose(1, 2, 0, 3)
