"""The DenseNets of Huang et al. 2016, "Densely Connected Convolutional Networks".

Bottleneck and compression, the paper's DenseNet-BC: a layer is BatchNorm, ReLU, 1x1 convolution to
4k channels, BatchNorm, ReLU, 3x3 convolution to k channels, whose output joins its input (sections
3 and 4.3). Between the blocks a transition halves channels and pixels.

| CIFAR, section 4.1     | layers a block | k  |   3 blocks of (L - 4) / 6 layers, maps of 32, 16, 8
| densenet_bc_100_12     | 16             | 12 |
| densenet_bc_250_24     | 41             | 24 |
| densenet_bc_190_40     | 31             | 40 |

| ImageNet, table 1      | layers of each block | k  |
| densenet121            | 6, 12, 24, 16        | 32 |
| densenet169            | 6, 12, 32, 32        | 32 |
| densenet201            | 6, 12, 48, 32        | 32 |
| densenet264            | 6, 12, 64, 48        | 32 |
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcifar.errors import InputError
from jaxcifar.kernels import dense_block
from jaxcifar.kernels.batch_norm import Statistics
from jaxcifar.kernels.dense_block import DenseLayer
from jaxcifar.models import register
from jaxcifar.models.layers import (
    check_choice,
    check_images,
    classify,
    conv_layer,
    max_pool,
    norm_layer,
    relu,
)


def _imagenet(*block_layers: int) -> dict:
    return {"block_layers": block_layers, "growth_rate": 32}


@register(
    {
        "densenet_bc_100_12": {"depth": 100, "growth_rate": 12},
        "densenet_bc_250_24": {"depth": 250, "growth_rate": 24},
        "densenet_bc_190_40": {"depth": 190, "growth_rate": 40},
        "densenet121": _imagenet(6, 12, 24, 16),
        "densenet169": _imagenet(6, 12, 32, 32),
        "densenet201": _imagenet(6, 12, 48, 32),
        "densenet264": _imagenet(6, 12, 64, 48),
    },
    source="Huang et al. 2016",
)
class DenseNet(nn.Module):
    """A DenseNet-BC.

    Attributes:
      depth: 6n + 4 for three blocks of n layers, or 0 where `block_layers` says.
      block_layers: number of layers of each dense block, or () where `depth` says.
      growth_rate: k, the channels that a layer adds; the stem has 2k.
      num_classes: size of the output.
      stem: "cifar" is a 3x3 convolution; "imagenet" a 7x7 one of stride 2, BatchNorm, ReLU and
        max-pooling.
      compression: share of the channels that a transition keeps.
      dropout_rate: after each layer, as in torchvision (the paper has 0.2 on CIFAR without
        augmentation, after every convolution but the first).
      recompute: compute the inside of each layer again in the backward pass instead of storing it
        (Pleiss et al. 2017, "Memory-Efficient Implementation of DenseNets").
      dtype: of the computation; parameters, batch statistics and logits are float32.
      axis_name: device axis over which batch statistics are averaged, or None for each its own.

    Raises:
      InputError: if the depth is not 6n + 4 with n above 0, or the stem neither, or both depth and
        block_layers are given.
    """

    growth_rate: int
    num_classes: int
    depth: int = 0
    block_layers: tuple[int, ...] = ()
    stem: str = "cifar"
    compression: float = 0.5
    dropout_rate: float = 0.0
    recompute: bool = False
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def __post_init__(self):
        super().__post_init__()
        check_choice("a DenseNet with stem", self.stem, ("cifar", "imagenet"))
        if self.block_layers and self.depth:
            raise InputError(
                f"a DenseNet of depth {self.depth} with block_layers {self.block_layers}: the one "
                "stands for the other"
            )
        if not self.block_layers and (self.depth < 10 or (self.depth - 4) % 6):
            raise InputError(
                f"a DenseNet-BC of depth {self.depth}: allowed is 6n + 4, as 40, 100, 190, 250"
            )

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns float32 logits [B, num_classes] of float images [B, H, W, C]."""
        conv, norm = conv_layer(self.dtype), norm_layer(train, self.dtype, self.axis_name)
        block_layers = self.block_layers or ((self.depth - 4) // 6,) * 3
        # Each transition halves the map, the ImageNet stem twice more.
        pixels = 2 ** (len(block_layers) - 1)
        check_images(images, smallest=pixels if self.stem == "cifar" else 4 * pixels)
        if self.stem == "cifar":
            x = conv(2 * self.growth_rate, 3, name="conv")(images)
        else:
            x = conv(2 * self.growth_rate, 7, 2, name="conv")(images)
            x = max_pool(relu(norm(name="norm_stem")(x)))
        for block, layers in enumerate(block_layers, 1):
            x, statistics = self._block(x, f"block{block}", layers, train)
            if block < len(block_layers):
                x = relu(norm(name=f"transition{block}_norm")(x, statistics))
                x = conv(int(x.shape[-1] * self.compression), 1, name=f"transition{block}_conv")(x)
                x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = relu(norm(name="norm")(x, statistics))
        return classify(x, self.num_classes, self.dtype)

    def _block(
        self, x: jax.Array, name: str, num_layers: int, train: bool
    ) -> tuple[jax.Array, Statistics | None]:
        """The features after a dense block and, in training, their statistics."""
        k, width = self.growth_rate, x.shape[-1]
        widths = [width + index * k for index in range(num_layers)]
        layers = [
            DenseLayer(width, k, name=f"{name}_layer{index}")
            for index, width in enumerate(widths, 1)
        ]
        variables = [layer() for layer in layers]
        if not train:
            return dense_block.evaluate(x, variables), None
        block = dense_block.Block(k, self.dropout_rate, self.recompute, self.axis_name)
        key = self.make_rng("dropout") if self.dropout_rate else jax.random.key(0)
        weights = [weights for weights, _ in variables]
        x, statistics, within = dense_block.train(block, x, weights, key)
        for layer, width, measured in zip(layers, widths, within, strict=True):
            layer.update(jax.tree.map(lambda part, width=width: part[:width], statistics), measured)
        return x, statistics
