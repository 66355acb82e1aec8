"""A 3x3 convolution with 2x2 max-pooling as one operation, where the C++ kernels have it.

The features between the two, the largest of a network that pools, are never in memory: neither in
the forward pass nor, as gradients, in the backward pass.
"""

from collections.abc import Sequence
from typing import Any

import jax

from jaxcifar.kernels import convolution, native
from jaxcifar.kernels.backend import is_cpu
from jaxcifar.kernels.max_pool import max_pool_2x2

# As kFewestChannels in cpp/winograd.h, whose method is slower with fewer.
_FEWEST_CHANNELS = 16


def conv_general_dilated(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """Returns the maxima [N, H // 2, W // 2, out] of a convolution; linen's `Conv` calls it.

    Args:
      x: images [N, H, W, in].
      kernel: kernel [3, 3, in, out].
      strides: strides of the convolution, 1 and 1.
      padding: padding of the convolution, which keeps the size: 1 on each side.
      options: see `lax.conv_general_dilated`.
    """
    if is_cpu() and native.supports(x) and min(kernel.shape[2:]) >= _FEWEST_CHANNELS:
        return _convolve_and_pool(x, kernel)
    return max_pool_2x2(convolution.for_backend()(x, kernel, strides, padding, **options))


@jax.custom_vjp
def _convolve_and_pool(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return native.convolve_and_pool(x, kernel)[0]


def _forward(x: jax.Array, kernel: jax.Array):
    y, corners = native.convolve_and_pool(x, kernel)
    return y, (x, kernel, corners)


def _backward(
    saved: tuple[jax.Array, jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel, corners = saved
    return native.convolve_and_pool_gradients(x, kernel, dy, corners)


_convolve_and_pool.defvjp(_forward, _backward)
