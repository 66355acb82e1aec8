"""A convolution for a CPU: the compiled one of `native`, or XLA's where that is not to be had.

XLA:CPU is quick at one form, images [N, H, W, C] and kernels [H, W, in, out]. JAX's own gradients
are convolutions with their dimensions in another order: outside of a loop XLA turns them round,
within one it takes a path that is a hundred times slower. Here they are written as transpositions
and a convolution in the order that is quick anywhere.
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
    """Returns the convolution that the networks use: this one on a CPU, elsewhere lax's own."""
    return conv_general_dilated if is_cpu() else lax.conv_general_dilated


def conv_general_dilated(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any
) -> jax.Array:
    """Returns the convolution [N, H / strides, W / strides, out], as lax's for linen's Conv.

    Args:
      x: [N, H, W, in].
      kernel: [H, W, in, out], neither dilated nor grouped.
      strides: of both directions.
      padding: before and after, for both directions.
    """
    return _conv(x, kernel, tuple(strides), tuple(map(tuple, padding)))


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
    """The gradient [N, H, W, in], made of one convolution for each place that a stride passes.

    A tap has to do with every other pixel alone, so these convolutions share the taps out; a single
    one of dy with zeros between its pixels would multiply by the zeros as well.
    """
    places = [
        [_taps_of_place(place, stride, length, taps, reached, before) for place in range(stride)]
        for stride, length, taps, reached, (before, _) in zip(
            strides, size, kernel.shape[:2], dy.shape[1:3], padding, strict=True
        )
    ]
    kernel = kernel.swapaxes(2, 3)
    outputs = [-(-length // stride) for length, stride in zip(size, strides, strict=True)]
    nothing = jnp.zeros((len(dy), *outputs, kernel.shape[3]), dy.dtype)

    def at_place(row: _Taps | None, column: _Taps | None) -> jax.Array:
        if row is None or column is None:
            return nothing
        taps = kernel[row.taps][:, column.taps]
        return _conv(dy, taps, (1, 1), (row.padding, column.padding))

    rows, columns = places
    dx = jnp.stack([jnp.stack([at_place(row, c) for c in columns], 3) for row in rows], 2)
    dx = dx.reshape(len(dy), outputs[0] * strides[0], outputs[1] * strides[1], -1)
    return dx[:, : size[0], : size[1]]


class _Taps(NamedTuple):
    taps: slice
    padding: tuple[int, int]


def _taps_of_place(
    place: int, stride: int, size: int, taps: int, reached: int, before: int
) -> _Taps | None:
    """The taps, last first, that meet the pixels place, place + stride, ..., and dy's padding.

    Along one axis: the size of x, of the kernel (taps), of dy (reached), and the zeros before x.
    """
    first = (place + before) % stride
    used = range(first, taps, stride)
    if not used:
        return None
    # Pixel place + stride * m and tap k meet in output m + (place + before - k) / stride.
    lowest, highest = ((place + before - tap) // stride for tap in (used[-1], used[0]))
    outputs = -(-size // stride)
    reversed_taps = slice(used[-1], first - 1 if first else None, -stride)
    return _Taps(reversed_taps, (-lowest, outputs - 1 + highest - (reached - 1)))


def _kernel_gradient(
    x: jax.Array,
    size: tuple[int, int],
    dy: jax.Array,
    strides: tuple[int, int],
    padding: Padding,
) -> jax.Array:
    """The gradient [H, W, in, out], by XLA: x's channels are the images, and dy is the kernel."""
    # Rows at the end of x that a stride leaves out have no part in it.
    used = [
        (before, stride * (reached - 1) + taps - length - before)
        for length, reached, taps, stride, (before, _) in zip(
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
