"""The layers that the networks share, initialised as their papers have it."""

from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

# He et al. 2015, "Delving Deep into Rectifiers", equation 14: variance 2 / fan-out, which keeps the
# scale of the gradients.
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# Uniform within 1 / sqrt(fan-in), as torch.nn.Linear.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Conv(Protocol):
    """Makes a square convolution without bias, padded by half its size on every side.

    The padding is explicit because "SAME" pads a strided convolution on the far sides only, where
    the published networks pad both.
    """

    def __call__(self, features: int, kernel_size: int, strides: int = 1, *, name: str) -> nn.Conv:
        """Returns the layer: [B, H, W, C] to [B, H / strides, W / strides, features]."""


class Norm(Protocol):
    """Makes a batch normalisation, which knows already whether it is training."""

    def __call__(self, *, name: str) -> nn.BatchNorm:
        """Returns the layer, which keeps the shape [B, H, W, C]."""


def conv_layer(dtype: jnp.dtype) -> Conv:
    """Returns the maker of a network's convolutions, which compute in `dtype`."""

    def make(features: int, kernel_size: int, strides: int = 1, *, name: str) -> nn.Conv:
        return nn.Conv(
            features,
            (kernel_size, kernel_size),
            (strides, strides),
            padding=kernel_size // 2,
            use_bias=False,
            kernel_init=he_normal_fan_out,
            dtype=dtype,
            name=name,
        )

    return make


def norm_layer(train: bool, dtype: jnp.dtype, axis_name: str | None) -> Norm:
    """Returns the maker of a network's batch normalisations.

    Args:
      train: normalise by the batch's statistics, and let the running ones keep 0.9 of their value.
      dtype: of the result; statistics are float32.
      axis_name: device axis over which batch statistics are averaged, or None.
    """
    return partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        axis_name=axis_name,
    )


def max_pool(x: jax.Array) -> jax.Array:
    """Returns the 3x3 maximum around every other pixel of [B, H, W, C]."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def classify(x: jax.Array, num_classes: int, dtype: jnp.dtype) -> jax.Array:
    """Returns float32 logits [B, num_classes] of features [B, H, W, C]: mean and linear layer."""
    x = jnp.mean(x, axis=(1, 2))
    head = nn.Dense(num_classes, kernel_init=uniform_fan_in, dtype=dtype, name="head")
    return head(x).astype(jnp.float32)
