"""A convolution whose gradients are convolutions of the form that XLA is quick at on a CPU.

XLA:CPU has a fast convolution for images [N, H, W, C] and kernels [H, W, in, out]. JAX's own
gradients are convolutions with their dimensions in another order: outside of a loop XLA turns them
round, within one it takes a path that is a hundred times slower. Here they are written as
transpositions and a convolution in the order that is quick anywhere.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


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
    return _conv(x, kernel, tuple(strides), tuple(map(tuple, padding)))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_DIMENSIONS)


def _forward(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding):
    return _conv(x, kernel, strides, padding), (x, kernel)


def _backward(
    strides: tuple[int, int], padding: Padding, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    into_input, into_kernel = [], []
    for axis, ((before, after), stride) in enumerate(zip(padding, strides, strict=True)):
        size, taps, reached = x.shape[1 + axis], kernel.shape[axis], dy.shape[1 + axis]
        # Rows at the end that a stride leaves out have no gradient.
        unused = size + before + after - taps - stride * (reached - 1)
        into_input.append((taps - 1 - before, taps - 1 - after + unused))
        into_kernel.append((before, after - unused))
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    dx = lax.conv_general_dilated(
        dy, flipped, (1, 1), into_input, lhs_dilation=strides, dimension_numbers=_DIMENSIONS
    )
    # The channels are the images here, the images the channels, and the gradient is the kernel.
    dkernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        into_kernel,
        rhs_dilation=strides,
        dimension_numbers=_DIMENSIONS,
    )
    return dx, dkernel.transpose(1, 2, 0, 3)


_conv.defvjp(_forward, _backward)
