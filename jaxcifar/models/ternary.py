"""Convolutions whose weights are -1, 0 or 1, times a scale.

The parameters are latent weights: float32 kernels like those of a float network, which the
optimizer updates with the gradient of the ternary weights. The weights of a trained float network
can therefore initialise a TWN network (`jaxcifar.tools.export`); TTQ has its scales as additional
parameters.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from flax.linen.dtypes import promote_dtype

from jaxcifar.kernels import convolution, packed_ternary
from jaxcifar.models.layers import he_normal_fan_out

# The collection in which each layer records how many of its weights are at -1, 0 and 1.
LEVELS = "levels"
# The scheme of networks whose kernels are packed, which cannot be trained.
PACKED = "packed"


class TernaryConv(nn.Module):
    """A square convolution with ternary weights, padded by half the kernel's size on every side.

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel.
      strides: strides in both directions.
      scheme: "twn" or "ttq", see the functions of these names.
      per_filter: for "twn", whether each filter has its own threshold and scale.
      use_bias: whether to add a bias.
      dtype: type of the computation; weights are made ternary in float32.
    """

    features: int
    kernel_size: int
    strides: int = 1
    scheme: str = "twn"
    per_filter: bool = False
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the convolution [B, H / strides, W / strides, features] of x [B, H, W, C]."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", he_normal_fan_out, shape)
        if self.scheme == "twn":
            levels = twn_levels(kernel, self.per_filter)
            weights = twn(kernel, self.per_filter)
        else:
            levels = ttq_levels(kernel)
            # Initialised to 1, as in the authors' code: scales as small as the weights would change
            # too fast.
            positive = self.param("positive_scale", nn.initializers.ones, ())
            negative = self.param("negative_scale", nn.initializers.ones, ())
            weights = ttq(kernel, positive, negative)
        if not self.is_initializing():
            for name, level in ("negative", -1), ("zero", 0), ("positive", 1):
                self.sow(LEVELS, name, jnp.sum(levels == level))
        x, weights = promote_dtype(x, weights, dtype=self.dtype)
        y = convolution.for_backend()(
            x,
            weights,
            (self.strides, self.strides),
            [(self.kernel_size // 2,) * 2] * 2,
            dimension_numbers=convolution.DIMENSIONS,
        )
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(y.dtype)
        return y


class PackedConv(nn.Module):
    """The convolution of a `TernaryConv` after training, whose kernel takes 1.6 bits per weight.

    `packing.pack` makes its variables.

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel.
      strides: strides in both directions.
      use_bias: whether to add a bias.
      dtype: type of the computation.
    """

    features: int
    kernel_size: int
    strides: int = 1
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the convolution [B, H / strides, W / strides, features] of x [B, H, W, C]."""
        zeros = nn.initializers.zeros
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        codes = self.param("codes", zeros, packed_ternary.codes_shape(shape), jnp.uint8)
        scales = self.param("scales", zeros, (2, self.features))
        x, scales = promote_dtype(x, scales, dtype=self.dtype)
        y = packed_ternary.convolve(x, codes, scales, shape, self.strides)
        if self.use_bias:
            y += self.param("bias", zeros, (self.features,)).astype(y.dtype)
        return y


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def twn(kernel: jax.Array, per_filter: bool) -> jax.Array:
    """Returns a kernel's levels times the mean magnitude of the weights that are not at level 0.

    Li et al. 2016, "Ternary Weight Networks", equations 5 and 6 (one threshold and scale per
    layer). The gradient passes straight through to the latent weights (section 2.3).

    Args:
      kernel: latent weights, float32 [H, W, in, out].
      per_filter: whether each of the `out` filters has its own threshold and scale.
    """
    levels = twn_levels(kernel, per_filter)
    return levels * _mean(jnp.abs(kernel), levels != 0, per_filter)


twn.defvjp(
    lambda kernel, per_filter: (twn(kernel, per_filter), None),
    lambda per_filter, _, gradient: (gradient,),
)


def twn_levels(kernel: jax.Array, per_filter: bool) -> jax.Array:
    """Returns -1, 0 or 1 per weight: 0 if its magnitude is at most 0.7 times the mean magnitude."""
    axes = (0, 1, 2) if per_filter else None
    threshold = 0.7 * jnp.mean(jnp.abs(kernel), axes, keepdims=True)
    return jnp.where(jnp.abs(kernel) > threshold, jnp.sign(kernel), 0)


@jax.custom_vjp
def ttq(kernel: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
    """Returns a kernel's levels times two learned scales: `positive`, 0 or -`negative`.

    Zhu et al. 2016, "Trained Ternary Quantization", equations 6 to 8. The gradient of a latent
    weight is multiplied by the scale of its level. The gradient of `negative` includes the factor
    -1 of the derivative, which equation 7 omits.

    Args:
      kernel: latent weights, float32 [H, W, in, out].
      positive: scalar scale of level 1.
      negative: scalar scale of level -1.
    """
    levels = ttq_levels(kernel)
    return jnp.where(levels > 0, positive, 0) - jnp.where(levels < 0, negative, 0)


def _ttq_backward(residuals: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, ...]:
    levels, positive, negative = residuals
    scale = jnp.where(levels > 0, positive, jnp.where(levels < 0, negative, 1))
    return (
        gradient * scale,
        jnp.sum(gradient, where=levels > 0),
        -jnp.sum(gradient, where=levels < 0),
    )


ttq.defvjp(
    lambda kernel, positive, negative: (
        ttq(kernel, positive, negative),
        (ttq_levels(kernel), positive, negative),
    ),
    _ttq_backward,
)


def ttq_levels(kernel: jax.Array) -> jax.Array:
    """Returns -1, 0 or 1 per weight: 0 if its magnitude is at most 0.05 times the largest."""
    threshold = 0.05 * jnp.max(jnp.abs(kernel))
    return jnp.where(jnp.abs(kernel) > threshold, jnp.sign(kernel), 0)


def ternary_layers(
    model: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, int, int]
) -> set[tuple[str, ...]]:
    """Returns the paths of a network's ternary convolutions; arguments as below."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    apply = partial(model.apply, train=False, mutable=[LEVELS])
    _, found = jax.eval_shape(apply, variables, images)
    return {path[:-1] for path in traverse_util.flatten_dict(found.get(LEVELS, {}))}


def with_ternary_kernels(
    model: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Returns variables whose ternary kernels have their ternary values, without learned scales.

    Args:
      model: a network, with or without ternary weights.
      variables: its `params` and `batch_stats`.
      image_shape: height, width and channels.
    """
    params = traverse_util.flatten_dict(variables["params"])
    for layer in ternary_layers(model, variables, image_shape):
        kernel = params[*layer, "kernel"]
        if (*layer, "positive_scale") in params:
            scales = [params.pop((*layer, f"{sign}_scale")) for sign in ("positive", "negative")]
            params[*layer, "kernel"] = ttq(kernel, *scales)
        else:
            params[*layer, "kernel"] = twn(kernel, model.ternary_scale == "filter")
    return {**variables, "params": traverse_util.unflatten_dict(params)}


def _mean(x: jax.Array, where: jax.Array, per_filter: bool = False) -> jax.Array:
    """The mean of the selected elements, or 0 if there are none."""
    axes = (0, 1, 2) if per_filter else None
    total = jnp.sum(x, axes, keepdims=per_filter, where=where)
    return total / jnp.maximum(jnp.sum(where, axes, keepdims=per_filter), 1)
