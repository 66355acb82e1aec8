"""The ImageNet ResNets of He et al. 2015, "Deep Residual Learning for Image Recognition", table 1.

| layers | 18         | 34         | 50          | 101          | 152          | width |
|--------|------------|------------|-------------|--------------|--------------|-------|
| block  | basic      | basic      | bottleneck  | bottleneck   | bottleneck   |       |
| stage1 | 2          | 3          | 3           | 3            | 3            | 64    |
| stage2 | 2          | 4          | 4           | 4            | 8            | 128   |
| stage3 | 2          | 6          | 6           | 23           | 36           | 256   |
| stage4 | 2          | 3          | 3           | 3            | 3            | 512   |

Every stage except the first begins with a stride of 2. For small images the stem is a 3x3
convolution of stride 1 without pooling, which gives a 32x32 image feature maps of 32, 16, 8 and 4
pixels.
"""

import jax
from flax import linen as nn

from jaxcifar.kernels.relu import relu
from jaxcifar.models.blocks import BasicBlock, Bottleneck, ResidualNetwork, drop_rates
from jaxcifar.models.layers import check_choice, check_images, classify, max_pool
from jaxcifar.models.registry import register


@register(
    {
        "resnet18": {"stage_blocks": (2, 2, 2, 2), "bottleneck": False},
        "resnet34": {"stage_blocks": (3, 4, 6, 3), "bottleneck": False},
        "resnet50": {"stage_blocks": (3, 4, 6, 3), "bottleneck": True},
        "resnet101": {"stage_blocks": (3, 4, 23, 3), "bottleneck": True},
        "resnet152": {"stage_blocks": (3, 8, 36, 3), "bottleneck": True},
    },
    source="He et al. 2015, table 1",
    head="head",
)
class ResNet(ResidualNetwork, kw_only=True):
    """A ResNet of four stages with projection shortcuts.

    Attributes:
      stage_blocks: number of blocks in each stage.
      bottleneck: whether the blocks are bottlenecks.
      stem: "cifar" is a 3x3 convolution; "imagenet" is a 7x7 convolution of stride 2 and
        max-pooling, which together reduce height and width to a quarter.

    Raises:
      InputError: if a field has an invalid value.
    """

    stage_blocks: tuple[int, ...]
    bottleneck: bool
    stem: str = "cifar"

    def __post_init__(self):
        super().__post_init__()
        check_choice("stem", self.stem, ("cifar", "imagenet"))

    @property
    def smallest_image(self) -> int:
        """The least height and width of an image."""
        return 8 if self.stem == "cifar" else 32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns float32 logits [B, num_classes] of float images [B, H, W, C]."""
        stem_conv, conv = self.convs()
        norm = self.norm_layer(train)
        block_type = Bottleneck if self.bottleneck else BasicBlock
        rates = iter(drop_rates(self.stochastic_depth, sum(self.stage_blocks)))
        check_images(images, self.smallest_image)
        if self.stem == "cifar":
            x = relu(norm(name="norm")(stem_conv(64, 3, name="conv")(images)))
        else:
            x = relu(norm(name="norm")(stem_conv(64, 7, 2, name="conv")(images)))
            x = max_pool(x)
        for stage, blocks in enumerate(self.stage_blocks):
            for block in range(blocks):
                x = block_type(
                    width=64 * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    shortcut="B",
                    drop_rate=next(rates),
                    conv=conv,
                    norm=norm,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
        return classify(x, self.num_classes, self.dtype, self.dropout_rate, train)
