"""The CIFAR ResNets of He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2.

| output | 32x32  | 16x16 | 8x8 |   size of each stage's feature maps for a 32x32 image
| layers | 1 + 2n | 2n    | 2n  |   3x3 convolutions, then mean pooling and a linear layer: 6n + 2
| width  | 16     | 32    | 64  |

The pre-activation form is that of He et al. 2016, "Identity Mappings in Deep Residual Networks".
"""

from functools import partial

import jax
from flax import linen as nn

from jaxcifar.errors import InputError
from jaxcifar.kernels.relu import relu
from jaxcifar.models.blocks import BasicBlock, PreActivationBlock, ResidualNetwork, drop_rates
from jaxcifar.models.layers import check_choice, check_images, classify
from jaxcifar.models.registry import register

# The depths of the paper's table 6, and two smaller ones for experiments.
_DEPTHS = (8, 14, 20, 32, 44, 56, 110, 1202)


@register(
    {f"resnet{depth}": {"depth": depth} for depth in _DEPTHS},
    source="He et al. 2015, section 4.2",
    head="head",
)
class ResNetCifar(ResidualNetwork, kw_only=True):
    """A CIFAR ResNet of 6n + 2 layers.

    Attributes:
      depth: 6n + 2 for n blocks per stage.
      shortcut: "A" or "B", see `blocks.shortcut`. The paper uses A on CIFAR. "none" for its plain
        networks, which have no shortcuts.
      preactivation: whether to normalise and rectify before each convolution, and once more at the
        end.

    Raises:
      InputError: if a field has an invalid value, or pre-activation is combined with an option that
        has no published pre-activation form.
    """

    depth: int
    shortcut: str = "A"
    preactivation: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.depth < 8 or (self.depth - 2) % 6:
            raise InputError(
                f"depth = {self.depth}: must be 6n + 2 for a CIFAR ResNet, e.g. 20, 32, 44, 56, 110"
            )
        check_choice("shortcut", self.shortcut, ("A", "B", "none"))
        if self.shortcut == "none" and (self.zero_init_residual or self.stochastic_depth):
            raise InputError(
                "shortcut = 'none': needs zero_init_residual = False and stochastic_depth = 0, as "
                "a plain network has no residual branches"
            )
        if self.preactivation and (
            self.shortcut != "A" or self.norm == "none" or self.zero_init_residual
        ):
            raise InputError(
                "preactivation = True: needs shortcut = 'A', a norm other than 'none', and "
                "zero_init_residual = False"
            )

    @property
    def smallest_image(self) -> int:
        """The least height and width of an image."""
        return 4

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns float32 logits [B, num_classes] of float images [B, H, W, C]."""
        check_images(images, self.smallest_image)
        stem_conv, conv = self.convs()
        norm = self.norm_layer(train)
        blocks = (self.depth - 2) // 6
        rates = iter(drop_rates(self.stochastic_depth, 3 * blocks))
        x = relu(norm(name="norm")(stem_conv(16, 3, name="conv")(images)))
        for stage, width in enumerate((16, 32, 64)):
            for block in range(blocks):
                block_type = BasicBlock
                if self.preactivation:
                    block_type = partial(PreActivationBlock, first=stage == block == 0)
                x = block_type(
                    width=width,
                    stride=2 if stage > 0 and block == 0 else 1,
                    shortcut=self.shortcut,
                    drop_rate=next(rates),
                    conv=conv,
                    norm=norm,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
        if self.preactivation:
            x = relu(norm(name="norm_end")(x))
        return classify(x, self.num_classes, self.dtype, self.dropout_rate, train)
