"""Layers shared by the networks, initialised as in the original papers."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcifar.errors import InputError
from jaxcifar.kernels import convolution
from jaxcifar.kernels.batch_norm import BatchNorm

# Uniform within +-1 / sqrt(fan-in), as in torch.nn.Linear.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

NORMS = ("batch", "group", "layer", "none")

Layer = Callable[[jax.Array], jax.Array]


def he_normal_fan_out(
    key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Draws a kernel [H, W, in, out] of variance 2 / fan-out, which keeps the gradients' scale.

    He et al. 2015, "Delving Deep into Rectifiers", equation 14. The numbers equal those of
    `nn.initializers.variance_scaling(2.0, "fan_out", "normal")` except for rounding.
    """
    height, width, _, features_out = shape
    count = math.prod(shape)
    # One row of rounded length: XLA takes at least twice as long to compile a 4-d draw.
    row = jax.random.normal(key, (count + -count % 4096,), dtype)
    return row[:count].reshape(shape) * jnp.sqrt(2 / (height * width * features_out)).astype(dtype)


class Conv(Protocol):
    """Creates a square convolution, padded by half the kernel's size on every side.

    The padding is explicit because "SAME" pads a strided convolution on the far sides only, where
    the published networks pad both.
    """

    def __call__(self, features: int, kernel_size: int, strides: int = 1, *, name: str) -> Layer:
        """Returns the layer: [B, H, W, C] to [B, H / strides, W / strides, features]."""


class Norm(Protocol):
    """Creates a normalisation."""

    def __call__(self, *, name: str, last: bool = False) -> Layer:
        """Returns the layer: [B, H, W, C] to [B, H, W, C].

        Args:
          name: name of the layer.
          last: whether the layer ends a residual branch.
        """


def conv(
    features: int,
    kernel_size: int,
    strides: int = 1,
    *,
    name: str,
    dtype: jnp.dtype,
    use_bias: bool = False,
) -> Layer:
    """Returns a convolution; a `Conv` once `dtype` and `use_bias` are bound.

    Args:
      features: output channels.
      kernel_size: height and width of the kernel.
      strides: strides in both directions.
      name: name of the layer.
      dtype: type of the computation.
      use_bias: whether to add a bias.
    """
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        (strides, strides),
        padding=kernel_size // 2,
        use_bias=use_bias,
        kernel_init=he_normal_fan_out,
        dtype=dtype,
        conv_general_dilated=convolution.for_backend(),
        name=name,
    )


def norm(
    *,
    name: str,
    last: bool = False,
    train: bool,
    dtype: jnp.dtype,
    axis_name: str | None = None,
    kind: str = "batch",
    zero_init_residual: bool = False,
) -> Layer:
    """Returns a normalisation; a `Norm` once all but `name` and `last` are bound.

    Args:
      name: name of the layer.
      last: whether the layer ends a residual branch.
      train: for batch normalisation, whether to use the batch's statistics and update the running
        ones.
      dtype: type of the result; statistics are float32.
      axis_name: device axis over which batch statistics are averaged, or None.
      kind: "batch" (Ioffe and Szegedy 2015); "group" with 16 channels per group, or "layer" over
        all channels and pixels of an example (Wu and He 2018, "Group Normalization", section 3.1
        and table 3); or "none", where instead a learned factor that starts at 0 ends each residual
        branch, because deeper networks diverge without it (De and Smith 2020, "Batch Normalization
        Biases Residual Blocks Towards the Identity Function in Deep Networks", section 4:
        SkipInit).
      zero_init_residual: whether the scales that end residual branches start at 0, so that every
        block starts as the identity (Goyal et al. 2017, "Accurate, Large Minibatch SGD", section
        5.1).
    """
    if kind == "none":
        return Factor(name=name) if last else lambda x: x
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    common = {"dtype": dtype, "scale_init": zeros if zero_init_residual and last else ones}
    if kind == "batch":
        return BatchNorm(train=train, axis_name=axis_name, name=name, **common)
    groups = {"group_size": 16, "num_groups": None} if kind == "group" else {"num_groups": 1}
    return nn.GroupNorm(epsilon=1e-5, name=name, **groups, **common)


class Factor(nn.Module):
    """Multiplies its input by a learned scalar, initially 0."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.param("scale", nn.initializers.zeros, (1,)).astype(x.dtype)


def max_pool(x: jax.Array) -> jax.Array:
    """Returns the 3x3 maximum around every other pixel: [B, H, W, C] to [B, H / 2, W / 2, C]."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def classify(
    x: jax.Array,
    num_classes: int,
    dtype: jnp.dtype,
    dropout_rate: float = 0.0,
    train: bool = False,
) -> jax.Array:
    """Returns float32 logits [B, num_classes]: global mean pooling and a linear layer.

    Args:
      x: features [B, H, W, C].
      num_classes: number of classes.
      dtype: type of the computation.
      dropout_rate: probability that a pooled feature is zeroed in training (Srivastava et al. 2014,
        "Dropout").
      train: whether to apply dropout.
    """
    x = jnp.mean(x, axis=(1, 2))
    x = nn.Dropout(dropout_rate, deterministic=not train)(x)
    head = nn.Dense(
        num_classes,
        kernel_init=uniform_fan_in,
        dtype=dtype,
        dot_general=convolution.linear,
        name="head",
    )
    return head(x).astype(jnp.float32)


def check_choice(field: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raises an InputError unless `value` of the field called `field` is one of those allowed."""
    if value not in allowed:
        raise InputError(f"{field} = {value!r}: must be one of {', '.join(map(str, allowed))}")


def check_images(images: jax.Array, smallest: int) -> None:
    """Raises an InputError unless images [B, H, W, C] are square and no smaller than `smallest`."""
    height, width = images.shape[1:3]
    if height != width or height < smallest:
        raise InputError(
            f"images of {height}x{width} pixels: this network needs square images of at least "
            f"{smallest}x{smallest}"
        )
