"""The CIFAR ResNets of He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2.

| output | 32x32  | 16x16 | 8x8 |   stage: the map's size for a 32x32 image
| layers | 1 + 2n | 2n    | 2n  |   3x3 convolutions, then mean pooling and a linear layer: 6n + 2
| width  | 16     | 32    | 64  |
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcifar.errors import InputError
from jaxcifar.models import register
from jaxcifar.models.blocks import BasicBlock
from jaxcifar.models.layers import classify, conv_layer, norm_layer

# The depths of the paper's table 6, and two small ones for trials.
_DEPTHS = (8, 14, 20, 32, 44, 56, 110, 1202)


@register({f"resnet{depth}": {"depth": depth} for depth in _DEPTHS})
class ResNetCifar(nn.Module):
    """A CIFAR ResNet of 6n + 2 layers.

    Attributes:
      depth: 6n + 2 for n blocks a stage.
      num_classes: size of the output.
      shortcut: "A" or "B", see `blocks.shortcut`. The paper uses A on CIFAR.
      dtype: of the computation; parameters, batch statistics and logits are float32.
      axis_name: device axis over which batch statistics are averaged, or None for each its own.

    Raises:
      InputError: if the depth is not 6n + 2 with n above 0, or the shortcut neither A nor B.
    """

    depth: int
    num_classes: int
    shortcut: str = "A"
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.depth < 8 or (self.depth - 2) % 6:
            raise InputError(
                f"a CIFAR ResNet of depth {self.depth}: allowed is 6n + 2, as 20, 32, 44, 56, 110"
            )
        if self.shortcut not in ("A", "B"):
            raise InputError(f"a CIFAR ResNet with shortcut {self.shortcut!r}: allowed is A or B")

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns float32 logits [B, num_classes] of float images [B, H, W, C]."""
        conv = conv_layer(self.dtype)
        norm = norm_layer(train, self.dtype, self.axis_name)
        x = nn.relu(norm(name="norm")(conv(16, 3, name="conv")(images)))
        for stage, width in enumerate((16, 32, 64)):
            for block in range((self.depth - 2) // 6):
                x = BasicBlock(
                    width,
                    stride=2 if stage > 0 and block == 0 else 1,
                    shortcut=self.shortcut,
                    conv=conv,
                    norm=norm,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x)
        return classify(x, self.num_classes, self.dtype)
