"""The ImageNet ResNets of He et al. 2015, "Deep Residual Learning for Image Recognition", table 1.

| layers | 18         | 34         | 50          | 101          | 152          | width |
|--------|------------|------------|-------------|--------------|--------------|-------|
| block  | basic      | basic      | bottleneck  | bottleneck   | bottleneck   |       |
| stage1 | 2          | 3          | 3           | 3            | 3            | 64    |
| stage2 | 2          | 4          | 4           | 4            | 8            | 128   |
| stage3 | 2          | 6          | 6           | 23           | 36           | 256   |
| stage4 | 2          | 3          | 3           | 3            | 3            | 512   |

A stage begins with a stride of 2, but for the first. On small images the stem is a 3x3 convolution
of stride 1 without pooling, so that a 32x32 image has maps of 32, 16, 8 and 4 pixels.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcifar.errors import InputError
from jaxcifar.models import register
from jaxcifar.models.blocks import BasicBlock, Bottleneck
from jaxcifar.models.layers import classify, conv_layer, max_pool, norm_layer


@register(
    {
        "resnet18": {"stage_blocks": (2, 2, 2, 2), "bottleneck": False},
        "resnet34": {"stage_blocks": (3, 4, 6, 3), "bottleneck": False},
        "resnet50": {"stage_blocks": (3, 4, 6, 3), "bottleneck": True},
        "resnet101": {"stage_blocks": (3, 4, 23, 3), "bottleneck": True},
        "resnet152": {"stage_blocks": (3, 8, 36, 3), "bottleneck": True},
    }
)
class ResNet(nn.Module):
    """A ResNet of four stages with projection shortcuts.

    Attributes:
      stage_blocks: number of blocks of each stage.
      bottleneck: whether the blocks are bottlenecks.
      num_classes: size of the output.
      stem: "cifar" is a 3x3 convolution; "imagenet" a 7x7 one of stride 2 and max-pooling, which
        leave a quarter of the rows and columns to the first stage.
      dtype: of the computation; parameters, batch statistics and logits are float32.
      axis_name: device axis over which batch statistics are averaged, or None for each its own.

    Raises:
      InputError: if the stem is neither.
    """

    stage_blocks: tuple[int, ...]
    bottleneck: bool
    num_classes: int
    stem: str = "cifar"
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.stem not in ("cifar", "imagenet"):
            raise InputError(f"a ResNet with stem {self.stem!r}: allowed is cifar or imagenet")

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns float32 logits [B, num_classes] of float images [B, H, W, C]."""
        conv = conv_layer(self.dtype)
        norm = norm_layer(train, self.dtype, self.axis_name)
        if self.stem == "cifar":
            x = nn.relu(norm(name="norm")(conv(64, 3, name="conv")(images)))
        else:
            x = nn.relu(norm(name="norm")(conv(64, 7, 2, name="conv")(images)))
            x = max_pool(x)
        for stage, blocks in enumerate(self.stage_blocks):
            width = 64 * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                if self.bottleneck:
                    x = Bottleneck(width, stride, conv, norm, name=name)(x)
                else:
                    x = BasicBlock(width, stride, "B", conv, norm, name=name)(x)
        return classify(x, self.num_classes, self.dtype)
