"""The residual blocks of He et al. 2015, "Deep Residual Learning for Image Recognition"."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcifar.models.layers import Conv, Norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left).

    Attributes:
      width: output channels.
      stride: of the first convolution and the shortcut.
      shortcut: "A" or "B", see `shortcut`.
      conv, norm: make the layers.
    """

    width: int
    stride: int
    shortcut: str
    conv: Conv
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.conv(self.width, 3, name="conv2")(y)
        y = self.norm(name="norm2")(y)
        return nn.relu(y + shortcut(x, y.shape, self.stride, self.shortcut, self.conv, self.norm))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a projection shortcut (figure 5, right).

    The stride is on the 3x3 convolution, as in torchvision; the paper has it on the first.

    Attributes:
      width: channels of the 3x3 convolution; the output has four times as many.
      stride: of the 3x3 convolution and the shortcut.
      conv, norm: make the layers.
    """

    width: int
    stride: int
    conv: Conv
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.width, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.conv(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(4 * self.width, 1, name="conv3")(y)
        y = self.norm(name="norm3")(y)
        return nn.relu(y + shortcut(x, y.shape, self.stride, "B", self.conv, self.norm))


def shortcut(
    x: jax.Array, shape: tuple[int, ...], stride: int, kind: str, conv: Conv, norm: Norm
) -> jax.Array:
    """Returns x [B, H, W, C] in another shape, or as it is if it has that shape (section 3.3).

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
