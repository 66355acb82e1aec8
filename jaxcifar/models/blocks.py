"""What the residual networks of He et al. 2015 and 2016 share: their fields and their blocks."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcifar.errors import InputError
from jaxcifar.models import layers, ternary
from jaxcifar.models.layers import Conv, Norm, check_choice, relu


class ResidualNetwork(nn.Module, kw_only=True):
    """The fields that all residual networks have.

    Attributes:
      num_classes: size of the output.
      norm: "batch", "group", "layer" or "none", see `layers.norm_layer`. Without normalisation the
        convolutions have biases.
      zero_init_residual: let every block start as the identity, see `layers.norm_layer`.
      stochastic_depth: drop rate of the last block, see `drop_rates`.
      dropout_rate: of the classifier's input, see `layers.classify`; the papers have none.
      ternary: "none", or how the weights of all convolutions but the first are made ternary: "twn"
        or "ttq", see `ternary`.
      ternary_scale: for twn, whether a "layer" or each "filter" has its threshold and scale.
      dtype: of the computation; parameters, batch statistics and logits are float32.
      axis_name: device axis over which batch statistics are averaged, or None for each its own.

    Raises:
      InputError: if one of them has another value.
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
        check_choice("a ResNet with norm", self.norm, layers.NORMS)
        check_choice("a ResNet with ternary", self.ternary, ("none", "twn", "ttq"))
        check_choice("a ResNet with ternary_scale", self.ternary_scale, ("layer", "filter"))
        for field in "stochastic_depth", "dropout_rate":
            if not 0 <= (value := getattr(self, field)) < 1:
                raise InputError(f"a ResNet with {field} {value}: allowed is from 0 to below 1")

    def makers(self, train: bool) -> tuple[Conv, Conv, Norm]:
        """Returns the makers of the first convolution, the other ones and the normalisations."""
        use_bias = self.norm == "none"
        first = layers.conv_layer(self.dtype, use_bias)
        conv = first
        if self.ternary != "none":
            per_filter = self.ternary_scale == "filter"
            conv = ternary.conv_layer(self.ternary, per_filter, self.dtype, use_bias)
        norm = layers.norm_layer(
            train, self.dtype, self.axis_name, self.norm, self.zero_init_residual
        )
        return first, conv, norm


class ResidualBlock(nn.Module):
    """What every kind of block is given.

    Attributes:
      width: channels of the 3x3 convolutions.
      stride: of the block.
      shortcut: "A" or "B", see `shortcut`.
      drop_rate: chance that training skips the residual branch, see `stochastic_depth`.
      train: whether it is training.
      conv, norm: make the layers.
    """

    width: int
    stride: int
    shortcut: str
    drop_rate: float
    train: bool
    conv: Conv
    norm: Norm

    def add(self, x: jax.Array, branch: jax.Array) -> jax.Array:
        """Returns the residual branch [B, H, W, C] plus the shortcut of the block's input x."""
        if self.drop_rate:
            key = self.make_rng("dropout") if self.train else None
            branch = stochastic_depth(branch, self.drop_rate, key)
        return branch + shortcut(x, branch.shape, self.stride, self.shortcut, self.conv, self.norm)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, figure 5, left)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = relu(self.norm(name="norm1")(y))
        y = self.conv(self.width, 3, name="conv2")(y)
        y = self.norm(name="norm2", last=True)(y)
        return relu(self.add(x, y))


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al. 2015, figure 5, right).

    The output has four times `width` channels. The stride is on the 3x3 convolution, as in
    torchvision; the paper has it on the first.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.width, 1, name="conv1")(x)
        y = relu(self.norm(name="norm1")(y))
        y = self.conv(self.width, 3, self.stride, name="conv2")(y)
        y = relu(self.norm(name="norm2")(y))
        y = self.conv(4 * self.width, 1, name="conv3")(y)
        y = self.norm(name="norm3", last=True)(y)
        return relu(self.add(x, y))


class PreActivationBlock(ResidualBlock):
    """Normalisation and ReLU before each of two 3x3 convolutions, and a shortcut.

    He et al. 2016, "Identity Mappings in Deep Residual Networks", figure 4 (e).

    Attributes:
      first: whether the input is already normalised and rectified, as the network's first block has
        it (the paper's appendix).
    """

    first: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x if self.first else relu(self.norm(name="norm1")(x))
        y = self.conv(self.width, 3, self.stride, name="conv1")(y)
        y = relu(self.norm(name="norm2")(y))
        y = self.conv(self.width, 3, name="conv2")(y)
        return self.add(x, y)


def shortcut(
    x: jax.Array, shape: tuple[int, ...], stride: int, kind: str, conv: Conv, norm: Norm
) -> jax.Array:
    """Returns x [B, H, W, C] in another shape, or as it is if it has that shape.

    He et al. 2015, section 3.3.

    Args:
      x: input of a block.
      shape: of the block's output.
      stride: of the block.
      kind: "A" takes every `stride`-th pixel and pads the channels with zeros on both sides; it has
        no parameters. "B" is a strided 1x1 convolution and a normalisation.
      conv, norm: make the layers.
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

    Huang et al. 2016, "Deep Networks with Stochastic Depth", equations 2 and 5: without a key, as
    in evaluation, the branch is weighted by its chance to be there.

    Args:
      branch: [B, H, W, C].
      drop_rate: the chance of zeros.
      key: draws.
    """
    if key is None:
        return branch * (1 - drop_rate)
    return jnp.where(jax.random.bernoulli(key, drop_rate), 0, branch)


def drop_rates(last: float, num_blocks: int) -> list[float]:
    """Returns each block's drop rate: from 0 at the input linearly to that of the last block.

    Huang et al. 2016, equation 4.
    """
    return [last * block / num_blocks for block in range(1, num_blocks + 1)]
