"""Batch normalisation, as one operation or as two: standardising, then scale and bias.

The two-part form lets many layers share one standardisation. Ioffe and Szegedy 2015, "Batch
Normalization". Statistics are computed in float32 or wider, whatever the type of the features.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxcifar.kernels import native
from jaxcifar.kernels.backend import is_cpu

EPSILON = 1e-5
DECAY = 0.9  # of the running statistics, per batch


class Statistics(NamedTuple):
    """Mean and biased variance of each channel, [C]."""

    mean: jax.Array
    variance: jax.Array


class Affine(NamedTuple):
    """The learned scale and bias of each channel, [C], applied to standardised features."""

    scale: jax.Array
    bias: jax.Array


class Standardized(NamedTuple):
    """Features with mean 0 and variance 1, and the statistics that they had before.

    Attributes:
      values: features [B, H, W, C].
      statistics: mean and variance of each channel before they were standardised; no gradient
        flows through them.
    """

    values: jax.Array
    statistics: Statistics


def batch_statistics(x: jax.Array, axis_name: str | None) -> Statistics:
    """Returns the statistics of features [B, H, W, C], both computed in one pass over them.

    Args:
      x: features [B, H, W, C].
      axis_name: device axis over which statistics are averaged, or None.
    """
    moments = _moments(x)
    mean, mean_square = moments if axis_name is None else lax.pmean(moments, axis_name)
    variance = mean_square - jnp.square(mean)
    return Statistics(mean, jnp.where(variance < 0, 0, variance))  # rounding can make it negative


def updated(running: Statistics, batch: Statistics, decay: float = DECAY) -> Statistics:
    """Returns the running statistics after a batch, of which they keep the share `decay`."""
    return Statistics(
        *(decay * old + (1 - decay) * new for old, new in zip(running, batch, strict=True))
    )


def normalize(
    x: jax.Array,
    statistics: Statistics,
    affine: Affine,
    dtype: jnp.dtype,
    epsilon: float = EPSILON,
) -> jax.Array:
    """Returns the normalised features [B, H, W, C] in `dtype`.

    Computed as one multiplication and one addition per value, so that the gradient needs two sums
    over the batch instead of four.
    """
    factor = affine.scale * lax.rsqrt(statistics.variance + epsilon)
    return _multiply_add(x, factor, affine.bias - statistics.mean * factor, dtype)


def standardize(x: jax.Array, axis_name: str | None) -> Standardized:
    """Returns features with mean 0 and variance 1 in their own dtype, and their statistics.

    Args:
      x: features [B, H, W, C].
      axis_name: device axis over which statistics are averaged, or None.
    """
    statistics = batch_statistics(x, axis_name)
    factor = lax.rsqrt(statistics.variance + EPSILON)
    return Standardized(((x - statistics.mean) * factor).astype(x.dtype), statistics)


def standardize_gradient(x: Standardized, gradient: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the gradient with respect to the argument of `standardize`.

    Args:
      x: result of `standardize`.
      gradient: gradient with respect to the standardised values.
      axis_name: the `axis_name` that was given to `standardize`.
    """
    size = x.values.size // x.values.shape[-1]
    shift, slope = (total / size for total in _channel_sums(gradient, x.values))
    if axis_name is not None:
        shift, slope = lax.pmean((shift, slope), axis_name)
    factor = lax.rsqrt(x.statistics.variance + EPSILON)
    # End in a difference of arrays: XLA:CPU would repeat a product with a vector in every reader.
    removed = x.values * (factor * slope) + factor * shift
    return (factor * gradient - removed).astype(gradient.dtype)


def affine_map(x: jax.Array, affine: Affine, dtype: jnp.dtype) -> jax.Array:
    """Returns standardised features [B, H, W, C] times the scale plus the bias, in `dtype`."""
    return _multiply_add(x, affine.scale, affine.bias, dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _multiply_add(
    x: jax.Array, factor: jax.Array, summand: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """Returns x * factor + summand in `dtype`, for x [B, H, W, C] and two vectors [C]."""
    return (x * factor + summand).astype(dtype)


def _multiply_add_forward(
    x: jax.Array, factor: jax.Array, summand: jax.Array, dtype: jnp.dtype
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _multiply_add(x, factor, summand, dtype), (x, factor)


def _multiply_add_backward(
    dtype: jnp.dtype, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, factor = saved
    total, of_products = _channel_sums(dy, x)
    return (dy * factor).astype(x.dtype), of_products, total


_multiply_add.defvjp(_multiply_add_forward, _multiply_add_backward)


@jax.custom_vjp
def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the means [C] of an array [B, H, W, C] and of its squares, in float32 or wider."""
    size = x.size // x.shape[-1]
    return tuple(total / size for total in _channel_sums(x, x))


def _moments_backward(x: jax.Array, means: tuple[jax.Array, jax.Array]) -> tuple[jax.Array]:
    mean, mean_square = (mean / (x.size // x.shape[-1]) for mean in means)
    return ((mean + 2 * x * mean_square).astype(x.dtype),)


_moments.defvjp(lambda x: (_moments(x), x), _moments_backward)


def _channel_sums(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums [C] of x and of x * y, two arrays [B, H, W, C], in float32 or wider."""
    if is_cpu() and x.dtype == y.dtype and native.supports(x):
        return native.channel_sums(x, y)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(wide)
    products = x * y.astype(wide)
    axes = tuple(range(x.ndim - 1))
    if is_cpu():
        return x.sum(axes), products.sum(axes)
    # On a GPU long sums are taken in two stages. The second stage is written as one joint reduction
    # of x and y so that it becomes one kernel. XLA already fuses the first stages of both, and it
    # would not vectorise a joint one.
    size = x.size // x.shape[-1]
    parts = math.gcd(size, 2 ** round(math.log2(size) / 2))
    x, products = (a.reshape(parts, -1, a.shape[-1]).sum(1) for a in (x, products))
    zero = jnp.zeros((), x.dtype)
    return lax.reduce((x, products), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (0,))


class BatchNorm(nn.Module):
    """Normalises features by their own statistics or, in evaluation, by the running ones.

    Attributes:
      train: whether to use the batch's statistics and update the running ones.
      dtype: type of the result.
      axis_name: device axis over which statistics are averaged, or None.
      scale_init: initialiser of the scale.
      use_scale: whether there is a learned scale; without one features are not standardised
        before.
      epsilon: added to the variance.
      decay: share that the running statistics keep per batch.
    """

    train: bool
    dtype: jnp.dtype
    axis_name: str | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    use_scale: bool = True
    epsilon: float = EPSILON
    decay: float = DECAY

    @nn.compact
    def __call__(self, x: jax.Array | Standardized) -> jax.Array:
        """Returns the normalised features [B, H, W, C].

        Args:
          x: features [B, H, W, C]; in training they may have been standardised before.
        """
        channels = (x.values if isinstance(x, Standardized) else x).shape[-1]
        affine = Affine(
            self.param("scale", self.scale_init, (channels,))
            if self.use_scale
            else jnp.ones(channels),
            self.param("bias", nn.initializers.zeros, (channels,)),
        )
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        variance = self.variable("batch_stats", "var", jnp.ones, channels)
        running = Statistics(mean.value, variance.value)
        if not self.train:
            return normalize(x, running, affine, self.dtype, self.epsilon)
        if isinstance(x, Standardized):
            statistics = x.statistics
            y = affine_map(x.values, affine, self.dtype)
        else:
            statistics = batch_statistics(x, self.axis_name)
            y = normalize(x, statistics, affine, self.dtype, self.epsilon)
        if not self.is_initializing():
            mean.value, variance.value = updated(running, statistics, self.decay)
        return y
