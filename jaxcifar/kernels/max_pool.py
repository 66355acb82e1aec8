"""2x2 max-pooling, with a gradient that is fast on a CPU.

XLA:CPU computes the gradient of its own pooling by searching each window for its maximum again,
which takes many times as long as the forward pass. Here the forward pass notes in a byte where the
maximum is, and the backward pass writes each gradient to its place. The features before the pooling
need not be kept.
"""

from functools import reduce

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcifar.kernels.backend import is_cpu


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Returns the maximum of each 2x2 window: [B, H, W, C] to [B, H // 2, W // 2, C].

    If several values of a window are the maximum, the first receives the gradient, row by row.
    """
    return _max_pool(x) if is_cpu() else nn.max_pool(x, (2, 2), strides=(2, 2))


@jax.custom_vjp
def _max_pool(x: jax.Array) -> jax.Array:
    return reduce(jnp.maximum, _corners(x))


def _forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    corners = _corners(x)
    largest, place = corners[0], jnp.zeros(corners[0].shape, jnp.uint8)
    for index, corner in enumerate(corners[1:], 1):
        place = jnp.where(corner > largest, jnp.uint8(index), place)
        largest = jnp.maximum(largest, corner)
    # An array without elements holds the shape of x.
    return largest, (place, jnp.zeros((0, *x.shape[1:3]), x.dtype))


def _backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array]:
    place, like = saved
    height, width = like.shape[1:]
    d = [jnp.where(place == index, dy, 0) for index in range(4)]
    rows = [jnp.stack(d[:2], axis=3), jnp.stack(d[2:], axis=3)]
    dx = jnp.stack(rows, axis=2).reshape(len(dy), 2 * dy.shape[1], 2 * dy.shape[2], dy.shape[3])
    return (jnp.pad(dx, ((0, 0), (0, height % 2), (0, width % 2), (0, 0))),)


_max_pool.defvjp(_forward, _backward)


def _corners(x: jax.Array) -> list[jax.Array]:
    """The four corners of all windows, row by row; the last row or column may be left over."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    return [x[:, row::2, column::2] for row in range(2) for column in range(2)]
