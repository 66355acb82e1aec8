"""A convolution whose gradients are convolutions of the form that XLA is quick at on a CPU.

XLA:CPU has a fast convolution for images [N, H, W, C] and kernels [H, W, in, out]. JAX's own
gradients are convolutions with their dimensions in another order: outside of a loop XLA turns them
round, within one it takes a path that is a hundred times slower. Here they are written as
transpositions and a convolution in the order that is quick anywhere.

3x3 convolutions of many channels are made with fewer multiplications, by `winograd`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcifar.models import winograd

Padding = tuple[tuple[int, int], tuple[int, int]]
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def for_backend() -> Callable[..., jax.Array]:
    """Returns the convolution that the networks use: this one on a CPU, elsewhere lax's own."""
    return conv_general_dilated if jax.default_backend() == "cpu" else lax.conv_general_dilated


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
    strides, padding = tuple(strides), tuple(map(tuple, padding))
    if winograd.suits(x, kernel, strides, padding):
        return winograd.convolve(x, kernel)
    return _conv(x, kernel, strides, padding)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    # As it is written, so that its multiply-adds can be counted.
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)


def _forward(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding):
    return _apply(x, kernel, strides, padding), (x, kernel)


def _backward(
    strides: tuple[int, int], padding: Padding, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if kernel.shape[:2] == strides == (1, 1) and padding == ((0, 0), (0, 0)):
        return jnp.einsum("nhwo,io->nhwi", dy, kernel[0, 0]), _pointwise_kernel_gradient(x, dy)
    into_input, into_kernel = [], []
    for axis, ((before, after), stride) in enumerate(zip(padding, strides, strict=True)):
        size, taps, reached = x.shape[1 + axis], kernel.shape[axis], dy.shape[1 + axis]
        # Rows at the end that a stride leaves out have no gradient.
        unused = size + before + after - taps - stride * (reached - 1)
        into_input.append((taps - 1 - before, taps - 1 - after + unused))
        into_kernel.append((before, after - unused))
    if strides == (1, 1) or kernel.shape[:2] == (1, 1):
        flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        dx = _apply(dy, flipped, (1, 1), tuple(into_input), dilation=strides)
    else:
        dx = _strided_input_gradient(x.shape[1:3], kernel, dy, strides, padding)
    if strides == (1, 1) and x.shape[-1] > dy.shape[-1]:
        # Of output channels XLA does many at a time, so the larger number is put there.
        return dx, jnp.flip(_kernel_gradient(dy, x, into_input, (1, 1)), (0, 1)).swapaxes(2, 3)
    return dx, _kernel_gradient(x, dy, into_kernel, strides)


def _strided_input_gradient(
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
    rows = []
    for row_taps, row_padding in places[0]:
        parts = [
            _apply(dy, kernel[row_taps][:, column_taps], (1, 1), (row_padding, column_padding))
            for column_taps, column_padding in places[1]
        ]
        rows.append(jnp.stack(parts, 3))
    dx = jnp.stack(rows, 2)
    dx = dx.reshape(len(dy), dx.shape[1] * strides[0], -1, dx.shape[-1])
    return dx[:, : size[0], : size[1]]


def _taps_of_place(
    place: int, stride: int, size: int, taps: int, reached: int, before: int
) -> tuple[slice, tuple[int, int]]:
    """The taps, last first, that meet the pixels place, place + stride, ..., and dy's padding.

    Along one axis: the size of x, of the kernel (taps), of dy (reached), and the zeros before x.
    """
    first = (place + before) % stride
    used = range(first, taps, stride)
    # Pixel place + stride * m and tap k meet in output m + (place + before - k) / stride.
    lowest, highest = ((place + before - tap) // stride for tap in (used[-1], used[0]))
    outputs = -(-size // stride)
    reversed_taps = slice(used[-1], first - 1 if first else None, -stride)
    return reversed_taps, (-lowest, outputs - 1 + highest - (reached - 1))


def _kernel_gradient(
    x: jax.Array, dy: jax.Array, padding: Sequence[tuple[int, int]], dilation: tuple[int, int]
) -> jax.Array:
    """The gradient [H, W, in, out]: x's channels are the images, and dy is the kernel."""
    dkernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        padding,
        rhs_dilation=dilation,
        dimension_numbers=DIMENSIONS,
    )
    return dkernel.transpose(1, 2, 0, 3)


def _pointwise_kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient [1, 1, in, out], as a few long matrix products side by side and their sum."""
    parts = math.gcd(len(x), 8)
    x, dy = (array.reshape(parts, -1, array.shape[-1]) for array in (x, dy))
    return jnp.einsum("npi,npo->nio", x, dy).sum(0)[None, None]


def _apply(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: Padding,
    dilation: tuple[int, int] = (1, 1),
) -> jax.Array:
    """The convolution of x, with zeros between its pixels if it is dilated."""
    outputs = kernel.shape[-1]
    width = x.shape[2] + sum(padding[1]) - kernel.shape[1] + 1
    if strides == dilation == (1, 1) and 1 < kernel.shape[1] and outputs <= 16 and not width % 2:
        # Two pixels at once: twice the output channels, from windows that are one column wider.
        pair = [jnp.pad(kernel, ((0, 0), (n, 1 - n), (0, 0), (0, 0))) for n in (0, 1)]
        y = _apply(x, jnp.concatenate(pair, -1), (1, 2), padding)
        return y.reshape(*y.shape[:2], width, outputs)
    return lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation=dilation, dimension_numbers=DIMENSIONS
    )


_conv.defvjp(_forward, _backward)
