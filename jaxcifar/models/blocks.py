"""Fields and blocks shared by the residual networks of He et al. 2015 and 2016."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcifar.errors import InputError
from jaxcifar.kernels.relu import relu
from jaxcifar.models import layers
from jaxcifar.models.layers import Conv, Norm, check_choice
from jaxcifar.models.ternary import PACKED, PackedConv, TernaryConv

# The value of `norm` of a network whose normalisations are part of its convolutions.
FOLDED = "folded"


class ResidualNetwork(nn.Module, kw_only=True):
    """Base class with the fields that all residual networks have.

    Attributes:
      num_classes: number of classes.
      norm: "batch", "group", "layer" or "none", see `layers.norm`. Convolutions have biases only
        without normalisation.
      zero_init_residual: whether every block starts as the identity, see `layers.norm`.
      stochastic_depth: drop rate of the last block, see `drop_rates`.
      dropout_rate: dropout rate before the classifier, see `layers.classify`; 0 in the papers.
      ternary: "none", or the scheme that makes the weights of all convolutions except the first
        ternary: "twn" or "ttq", see `ternary`.
      ternary_scale: for "twn", whether each "layer" or each "filter" has its own threshold and
        scale.
      dtype: type of the computation; parameters, batch statistics and logits are float32.
      axis_name: device axis over which batch statistics are averaged, or None.

    Raises:
      InputError: if a field has an invalid value.
    """

    num_classes: int
    norm: str = "batch"
    zero_init_residual: bool = False
    stochastic_depth: float = 0.0
    dropout_rate: float = 0.0
    ternary: str = "none"
    ternary_scale: str = "layer"
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.ternary != PACKED:  # made of a trained network, see `packing`
            check_choice("norm", self.norm, layers.NORMS)
            check_choice("ternary", self.ternary, ("none", "twn", "ttq"))
        check_choice("ternary_scale", self.ternary_scale, ("layer", "filter"))
        for field in "stochastic_depth", "dropout_rate":
            if not 0 <= (value := getattr(self, field)) < 1:
                raise InputError(f"{field} = {value}: must be from 0 to below 1")

    def convs(self) -> tuple[Conv, Conv]:
        """Returns the function that creates the first convolution, and that for all others."""
        use_bias = self.norm in ("none", FOLDED)
        stem_conv = partial(layers.conv, dtype=self.dtype, use_bias=use_bias)
        if self.ternary == "none":
            return stem_conv, stem_conv
        if self.ternary == PACKED:
            return stem_conv, partial(PackedConv, use_bias=use_bias, dtype=self.dtype)
        return stem_conv, partial(
            TernaryConv,
            scheme=self.ternary,
            per_filter=self.ternary_scale == "filter",
            use_bias=use_bias,
            dtype=self.dtype,
        )

    def norm_layer(self, train: bool) -> Norm:
        """Returns the function that creates the normalisations, for training or for evaluation."""
        if self.norm == FOLDED:
            return lambda **_: lambda x: x
        return partial(
            layers.norm,
            train=train,
            dtype=self.dtype,
            axis_name=self.axis_name,
            kind=self.norm,
            zero_init_residual=self.zero_init_residual,
        )


class ResidualBlock(nn.Module):
    """Base class with the fields that all kinds of blocks have.

    Attributes:
      width: channels of the 3x3 convolutions.
      stride: stride of the block.
      shortcut: "A" or "B", see `shortcut`; "none" for a block without one.
      drop_rate: probability that training skips the residual branch, see `stochastic_depth`.
      conv: creates the convolutions.
      norm: creates the normalisations.
    """

    width: int
    stride: int
    shortcut: str
    drop_rate: float
    conv: Conv
    norm: Norm

    def add(self, x: jax.Array, branch: jax.Array, train: bool) -> jax.Array:
        """Returns the residual branch [B, H, W, C] plus the shortcut of the block's input x."""
        if self.shortcut == "none":
            return branch
        if self.drop_rate:
            key = self.make_rng("dropout") if train else None
            branch = stochastic_depth(branch, self.drop_rate, key)
        return branch + shortcut(x, branch.shape, self.stride, self.shortcut, self.conv, self.norm)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, figure 5, left)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = relu(self.norm(name="norm1")(y))
        y = self.conv(self.width, 3, name="conv2")(y)
        y = self.norm(name="norm2", last=self.shortcut != "none")(y)
        return relu(self.add(x, y, train))


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al. 2015, figure 5, right).

    The output has 4 * `width` channels. The stride is on the 3x3 convolution, as in torchvision;
    the paper has it on the first 1x1 convolution.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.conv(self.width, 1, name="conv1")(x)
        y = relu(self.norm(name="norm1")(y))
        y = self.conv(self.width, 3, self.stride, name="conv2")(y)
        y = relu(self.norm(name="norm2")(y))
        y = self.conv(4 * self.width, 1, name="conv3")(y)
        y = self.norm(name="norm3", last=True)(y)
        return relu(self.add(x, y, train))


class PreActivationBlock(ResidualBlock):
    """Normalisation and ReLU before each of two 3x3 convolutions, and a shortcut.

    He et al. 2016, "Identity Mappings in Deep Residual Networks", figure 4 (e).

    Attributes:
      first: whether the input is already normalised and rectified, as in the network's first block
        (the paper's appendix).
    """

    first: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = x if self.first else relu(self.norm(name="norm1")(x))
        y = self.conv(self.width, 3, self.stride, name="conv1")(y)
        y = relu(self.norm(name="norm2")(y))
        y = self.conv(self.width, 3, name="conv2")(y)
        return self.add(x, y, train)


def shortcut(
    x: jax.Array, shape: tuple[int, ...], stride: int, kind: str, conv: Conv, norm: Norm
) -> jax.Array:
    """Returns x [B, H, W, C] brought to the shape of the block's output.

    He et al. 2015, section 3.3.

    Args:
      x: input of a block; returned unchanged if it already has the output's shape.
      shape: shape of the block's output.
      stride: stride of the block.
      kind: "A" takes every `stride`-th pixel and pads the channels with zeros on both sides; it has
        no parameters. "B" is a strided 1x1 convolution and a normalisation.
      conv: creates the convolution of "B".
      norm: creates the normalisation of "B".
    """
    if x.shape == shape:
        return x
    if kind == "B":
        x = conv(shape[-1], 1, stride, name="conv_shortcut")(x)
        return norm(name="norm_shortcut")(x)
    extra = shape[-1] - x.shape[-1]
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))


def stochastic_depth(branch: jax.Array, drop_rate: float, key: jax.Array | None) -> jax.Array:
    """Returns a residual branch, or zeros in its place, for a whole batch at once.

    Huang et al. 2016, "Deep Networks with Stochastic Depth", equations 2 and 5.

    Args:
      branch: output [B, H, W, C] of the branch.
      drop_rate: probability of zeros.
      key: PRNG key of the draw, or None in evaluation, where the branch is weighted by its survival
        probability instead.
    """
    if key is None:
        return branch * (1 - drop_rate)
    return jnp.where(jax.random.bernoulli(key, drop_rate), 0, branch)


def drop_rates(last: float, num_blocks: int) -> list[float]:
    """Returns the drop rates of all blocks, which grow linearly from 0 at the input to `last`.

    Huang et al. 2016, "Deep Networks with Stochastic Depth", equation 4.
    """
    return [last * block / num_blocks for block in range(1, num_blocks + 1)]
