"""The layers that the networks share, initialised as their papers have it."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcifar.errors import InputError
from jaxcifar.kernels import convolution
from jaxcifar.kernels.batch_norm import BatchNorm

# Uniform within 1 / sqrt(fan-in), as torch.nn.Linear.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

NORMS = ("batch", "group", "layer", "none")

Layer = Callable[[jax.Array], jax.Array]


def he_normal_fan_out(
    key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Draws a kernel [H, W, in, out] of variance 2 / fan-out, which keeps the gradients' scale.

    He et al. 2015, "Delving Deep into Rectifiers", equation 14. But for rounding the same
    numbers as those of `nn.initializers.variance_scaling(2.0, "fan_out", "normal")`.
    """
    height, width, _, features_out = shape
    count = math.prod(shape)
    # One row of round length: XLA takes twice as long or longer to compile one of four dimensions.
    row = jax.random.normal(key, (count + -count % 4096,), dtype)
    return row[:count].reshape(shape) * jnp.sqrt(2 / (height * width * features_out)).astype(dtype)


class Conv(Protocol):
    """Makes a square convolution, padded by half its size on every side.

    The padding is explicit because "SAME" pads a strided convolution on the far sides only, where
    the published networks pad both.
    """

    def __call__(self, features: int, kernel_size: int, strides: int = 1, *, name: str) -> Layer:
        """Returns the layer: [B, H, W, C] to [B, H / strides, W / strides, features]."""


class Norm(Protocol):
    """Makes a normalisation, which knows already whether it is training."""

    def __call__(self, *, name: str, last: bool = False) -> Layer:
        """Returns the layer, which keeps the shape [B, H, W, C].

        Args:
          name: of the layer.
          last: whether a residual branch ends with it.
        """


def conv_layer(dtype: jnp.dtype, use_bias: bool = False) -> Conv:
    """Returns the maker of a network's convolutions, which compute in `dtype`."""

    def make(features: int, kernel_size: int, strides: int = 1, *, name: str) -> Layer:
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

    return make


def norm_layer(
    train: bool,
    dtype: jnp.dtype,
    axis_name: str | None,
    kind: str = "batch",
    zero_init_residual: bool = False,
) -> Norm:
    """Returns the maker of a network's normalisations.

    Args:
      train: normalise by the batch's statistics, and let the running ones keep 0.9 of their value;
        for batch normalisation.
      dtype: of the result; statistics are float32.
      axis_name: device axis over which batch statistics are averaged, or None.
      kind: "batch" (Ioffe and Szegedy 2015); "group", 16 channels each, and "layer", all channels
        and pixels of an example (Wu and He 2018, "Group Normalization", section 3.1 and table 3);
        "none", where a residual branch ends in a learned factor that starts at 0 instead, without
        which the deeper networks diverge (De and Smith 2020, "Batch Normalization Biases Residual
        Blocks Towards the Identity Function in Deep Networks", section 4: SkipInit).
      zero_init_residual: let the scales that end residual branches start at 0, so that every block
        starts as the identity (Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 5.1).
    """
    makers = {
        "batch": partial(BatchNorm, train=train, axis_name=axis_name),
        "group": partial(nn.GroupNorm, num_groups=None, group_size=16, epsilon=1e-5),
        "layer": partial(nn.GroupNorm, num_groups=1, epsilon=1e-5),
    }

    def make(*, name: str, last: bool = False) -> Layer:
        if kind == "none":
            return Factor(name=name) if last else lambda x: x
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        scale_init = zeros if zero_init_residual and last else ones
        return makers[kind](dtype=dtype, scale_init=scale_init, name=name)

    return make


class Kernel(nn.Module):
    """The weights of a convolution that is done elsewhere, by `convolve`.

    Attributes:
      size: height and width.
      features_in, features_out: channels.
    """

    size: int
    features_in: int
    features_out: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """Returns the kernel [size, size, in, out]."""
        shape = (self.size, self.size, self.features_in, self.features_out)
        return self.param("kernel", he_normal_fan_out, shape)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution [B, H, W, out] of x [B, H, W, in], in its type.

    Args:
      x: features.
      kernel: [K, K, in, out], K odd.
    """
    half = len(kernel) // 2
    return convolution.for_backend()(
        x,
        kernel.astype(x.dtype),
        (1, 1),
        ((half, half), (half, half)),
        dimension_numbers=convolution.DIMENSIONS,
    )


def relu(x: jax.Array) -> jax.Array:
    """Returns x where it is above 0, else 0, with gradient 0 at 0.

    As a choice and not a maximum, which XLA on a CPU would compute again within every
    transposition that reads it, at several times the cost of the transposition.
    """
    return jnp.where(x <= 0, 0, x)


class Factor(nn.Module):
    """A learned number, at first 0, that multiplies its input."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.param("scale", nn.initializers.zeros, (1,)).astype(x.dtype)


def max_pool(x: jax.Array) -> jax.Array:
    """Returns the 3x3 maximum around every other pixel of [B, H, W, C]."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def classify(
    x: jax.Array,
    num_classes: int,
    dtype: jnp.dtype,
    dropout_rate: float = 0.0,
    train: bool = False,
) -> jax.Array:
    """Returns float32 logits [B, num_classes] of features [B, H, W, C]: mean and linear layer.

    Args:
      x: the features.
      num_classes: size of the output.
      dtype: of the computation.
      dropout_rate: share of the means that are zeroed in training (Srivastava et al. 2014,
        "Dropout").
      train: whether it is training.
    """
    x = jnp.mean(x, axis=(1, 2))
    x = nn.Dropout(dropout_rate, deterministic=not train)(x)
    head = nn.Dense(num_classes, kernel_init=uniform_fan_in, dtype=dtype, name="head")
    return head(x).astype(jnp.float32)


def check_choice(what: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raises an InputError unless `value`, called `what`, is one of those allowed."""
    if value not in allowed:
        raise InputError(f"{what} {value!r}: allowed is {' or '.join(map(str, allowed))}")


def check_images(images: jax.Array, smallest: int) -> None:
    """Raises an InputError unless images [B, H, W, C] are square and no smaller than `smallest`."""
    height, width = images.shape[1:3]
    if height != width or height < smallest:
        raise InputError(
            f"images of {height}x{width} pixels: this network takes square ones of "
            f"{smallest}x{smallest} or more"
        )
