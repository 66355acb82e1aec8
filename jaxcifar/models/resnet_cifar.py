"""The CIFAR ResNets of He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2.

| output | 32x32  | 16x16 | 8x8 |   stage: the map's size for a 32x32 image
| layers | 1 + 2n | 2n    | 2n  |   3x3 convolutions, then mean pooling and a linear layer: 6n + 2
| width  | 16     | 32    | 64  |

Their pre-activation form is that of He et al. 2016, "Identity Mappings in Deep Residual Networks".
"""

import jax
from flax import linen as nn

from jaxcifar.errors import InputError
from jaxcifar.models import register
from jaxcifar.models.blocks import BasicBlock, PreActivationBlock, ResidualNetwork, drop_rates
from jaxcifar.models.layers import check_choice, check_images, classify, relu

# The depths of the paper's table 6, and two small ones for trials.
_DEPTHS = (8, 14, 20, 32, 44, 56, 110, 1202)


@register(
    {f"resnet{depth}": {"depth": depth} for depth in _DEPTHS},
    source="He et al. 2015, section 4.2",
)
class ResNetCifar(ResidualNetwork, kw_only=True):
    """A CIFAR ResNet of 6n + 2 layers.

    Attributes:
      depth: 6n + 2 for n blocks a stage.
      shortcut: "A" or "B", see `blocks.shortcut`. The paper uses A on CIFAR.
      preactivation: normalise and rectify before each convolution, and once more at the end.

    Raises:
      InputError: if the depth is not 6n + 2 with n above 0, the shortcut neither A nor B, or
        pre-activation combined with what has no published form.
    """

    depth: int
    shortcut: str = "A"
    preactivation: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.depth < 8 or (self.depth - 2) % 6:
            raise InputError(
                f"a CIFAR ResNet of depth {self.depth}: allowed is 6n + 2, as 20, 32, 44, 56, 110"
            )
        check_choice("a CIFAR ResNet with shortcut", self.shortcut, ("A", "B"))
        if self.preactivation and (
            self.shortcut == "B" or self.norm == "none" or self.zero_init_residual
        ):
            raise InputError(
                "a CIFAR ResNet with preactivation: its branches do not end in a normalisation, so "
                "it takes shortcut A, a norm, and no zero_init_residual"
            )

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns float32 logits [B, num_classes] of float images [B, H, W, C]."""
        check_images(images, smallest=4)
        stem_conv, conv, norm = self.makers(train)
        blocks = (self.depth - 2) // 6
        rates = iter(drop_rates(self.stochastic_depth, 3 * blocks))
        x = relu(norm(name="norm")(stem_conv(16, 3, name="conv")(images)))
        for stage, width in enumerate((16, 32, 64)):
            for block in range(blocks):
                fields = {
                    "width": width,
                    "stride": 2 if stage > 0 and block == 0 else 1,
                    "shortcut": self.shortcut,
                    "drop_rate": next(rates),
                    "train": train,
                    "conv": conv,
                    "norm": norm,
                    "name": f"stage{stage + 1}_block{block + 1}",
                }
                if self.preactivation:
                    x = PreActivationBlock(**fields, first=stage == block == 0)(x)
                else:
                    x = BasicBlock(**fields)(x)
        if self.preactivation:
            x = relu(norm(name="norm_end")(x))
        return classify(x, self.num_classes, self.dtype, self.dropout_rate, train)
