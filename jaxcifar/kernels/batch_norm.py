"""Batch normalisation, in one step or in two: a DenseNet standardises once for many layers.

Ioffe and Szegedy 2015, "Batch Normalization". Statistics are float32 at least, whatever the
features are.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxcifar.kernels.backend import is_cpu

_EPSILON = 1e-5
_DECAY = 0.9  # of the running statistics
_ones = nn.initializers.ones


class Statistics(NamedTuple):
    """Mean and biased variance of each channel, [C]."""

    mean: jax.Array
    variance: jax.Array


class Affine(NamedTuple):
    """What normalised features are multiplied by, and what is added to them, [C]."""

    scale: jax.Array
    bias: jax.Array


def batch_statistics(x: jax.Array, axis_name: str | None) -> Statistics:
    """Returns the statistics of features [B, H, W, C], which are read once for both.

    Args:
      x: the features.
      axis_name: device axis over which they are averaged, or None.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    moments = _channel_means(x, jnp.square(x))
    mean, mean_square = moments if axis_name is None else lax.pmean(moments, axis_name)
    variance = mean_square - jnp.square(mean)
    return Statistics(mean, jnp.where(variance < 0, 0, variance))  # rounding can take it there


def normalize(x: jax.Array, statistics: Statistics, affine: Affine, dtype: jnp.dtype) -> jax.Array:
    """Returns features [B, H, W, C], normalised, in `dtype`.

    As one multiplication and one addition a value, so that the gradient needs two sums over the
    batch and not four.
    """
    factor = affine.scale * lax.rsqrt(statistics.variance + _EPSILON)
    return _multiply_add(x, factor, affine.bias - statistics.mean * factor).astype(dtype)


def standardize(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, Statistics]:
    """Returns features [B, H, W, C] with mean 0 and variance 1, in their dtype, and how they were.

    Args:
      x: the features.
      axis_name: device axis over which statistics are averaged, or None.
    """
    statistics = batch_statistics(x, axis_name)
    factor = lax.rsqrt(statistics.variance + _EPSILON)
    return ((x - statistics.mean) * factor).astype(x.dtype), statistics


def standardize_gradient(
    standardized: jax.Array, statistics: Statistics, gradient: jax.Array, axis_name: str | None
) -> jax.Array:
    """Returns the gradient with respect to `standardize`'s argument.

    Args:
      standardized, statistics: what it returned; the statistics have no gradient of their own.
      gradient: with respect to the standardised features.
      axis_name: as there.
    """
    wide = jnp.promote_types(gradient.dtype, jnp.float32)
    shift, slope = _channel_means(gradient.astype(wide), gradient.astype(wide) * standardized)
    if axis_name is not None:
        shift, slope = lax.pmean((shift, slope), axis_name)
    factor = lax.rsqrt(statistics.variance + _EPSILON)
    # A difference of arrays comes last: a product with a vector XLA:CPU repeats in all readers.
    removed = standardized * (factor * slope) + factor * shift
    return (factor * gradient - removed).astype(gradient.dtype)


def affine_map(x: jax.Array, affine: Affine, dtype: jnp.dtype) -> jax.Array:
    """Returns standardised features [B, H, W, C], multiplied and shifted, in `dtype`."""
    return _multiply_add(x, affine.scale, affine.bias).astype(dtype)


@jax.custom_vjp
def _multiply_add(x: jax.Array, factor: jax.Array, summand: jax.Array) -> jax.Array:
    """Returns x * factor + summand of [B, H, W, C], [C] and [C]."""
    return x * factor + summand


def _multiply_add_backward(
    saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, factor = saved
    return ((dy * factor).astype(x.dtype), *_channel_sums(dy * x, dy))


_multiply_add.defvjp(
    lambda x, *affine: (_multiply_add(x, *affine), (x, affine[0])), _multiply_add_backward
)


@jax.custom_vjp
def _channel_means(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the means [C] of two arrays [B, H, W, C]."""
    size = x.size // x.shape[-1]
    return tuple(total / size for total in _channel_sums(x, y))


def _channel_means_backward(
    inputs: tuple[jax.Array, jax.Array], means: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, ...]:
    return tuple(
        jnp.broadcast_to(mean / (x.size // x.shape[-1]), x.shape)
        for x, mean in zip(inputs, means, strict=True)
    )


_channel_means.defvjp(lambda x, y: (_channel_means(x, y), (x, y)), _channel_means_backward)


def _channel_sums(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    axes = tuple(range(x.ndim - 1))
    if is_cpu():
        return x.sum(axes), y.sum(axes)
    # On a GPU a long sum is first one of parts, then one of theirs. The second of x and y are one
    # kernel as one reduction; the first are that anyhow, and XLA vectorises no joint reduction.
    size = x.size // x.shape[-1]
    parts = math.gcd(size, 2 ** round(math.log2(size) / 2))
    x, y = (array.reshape(parts, -1, array.shape[-1]).sum(1) for array in (x, y))
    zero = jnp.zeros((), x.dtype)
    return lax.reduce((x, y), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (0,))


class BatchNorm(nn.Module):
    """Normalises features by their statistics or, in evaluation, by the running ones.

    Attributes:
      train: whether it is training, which also moves the running statistics.
      dtype: of the result.
      axis_name: device axis over which statistics are averaged, or None.
      scale_init: of the scale.
    """

    train: bool
    dtype: jnp.dtype
    axis_name: str | None = None
    scale_init: nn.initializers.Initializer = _ones

    @nn.compact
    def __call__(self, x: jax.Array, statistics: Statistics | None = None) -> jax.Array:
        """Returns the normalised features [B, H, W, C].

        Args:
          x: the features.
          statistics: theirs before they were standardised, if they are.
        """
        variables = _Variables(self, x.shape[-1], self.scale_init)
        if not self.train:
            return normalize(x, variables.running, variables.affine, self.dtype)
        if statistics is not None:
            variables.update(statistics)
            return affine_map(x, variables.affine, self.dtype)
        statistics = batch_statistics(x, self.axis_name)
        variables.update(statistics)
        return normalize(x, statistics, variables.affine, self.dtype)


class BatchNormVariables(nn.Module):
    """The variables of a batch normalisation that is done elsewhere.

    Attributes:
      features: C, the number of channels.
    """

    features: int

    def setup(self):
        self._variables = _Variables(self, self.features, _ones)

    def __call__(self) -> tuple[Affine, Statistics]:
        """Returns scale and bias, and the running statistics."""
        return self._variables.affine, self._variables.running

    def update(self, statistics: Statistics) -> None:
        """Moves the running statistics towards those of a batch."""
        self._variables.update(statistics)


class _Variables:
    def __init__(self, module: nn.Module, features: int, scale_init: nn.initializers.Initializer):
        self._module = module
        self.affine = Affine(
            module.param("scale", scale_init, (features,)),
            module.param("bias", nn.initializers.zeros, (features,)),
        )
        self._mean = module.variable("batch_stats", "mean", jnp.zeros, features)
        self._variance = module.variable("batch_stats", "var", jnp.ones, features)

    @property
    def running(self) -> Statistics:
        return Statistics(self._mean.value, self._variance.value)

    def update(self, statistics: Statistics) -> None:
        if not self._module.is_initializing():
            for old, new in zip((self._mean, self._variance), statistics, strict=True):
                old.value = _DECAY * old.value + (1 - _DECAY) * new
