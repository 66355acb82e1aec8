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
from jaxcifar.models import register
from jaxcifar.models.layers import (
    Conv,
    Norm,
    check_choice,
    check_images,
    classify,
    conv_layer,
    max_pool,
    norm_layer,
)


class DenseLayer(nn.Module):
    """The k new features that a layer adds to those before it.

    Attributes:
      growth_rate: k.
      dropout_rate: share of the new features that are zeroed in training.
      train: whether it is training.
      conv, norm: make the layers.
    """

    growth_rate: int
    dropout_rate: float
    train: bool
    conv: Conv
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm(name="norm1")(x))
        y = self.conv(4 * self.growth_rate, 1, name="conv1")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(self.growth_rate, 3, name="conv2")(y)
        return nn.Dropout(self.dropout_rate, deterministic=not self.train)(y)


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
      dropout_rate: after each layer (the paper has 0.2 on CIFAR without augmentation).
      recompute: compute each layer again in the backward pass instead of storing what is inside it
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
        conv = conv_layer(self.dtype)
        norm = norm_layer(train, self.dtype, self.axis_name)
        layer = nn.remat(DenseLayer) if self.recompute else DenseLayer
        block_layers = self.block_layers or ((self.depth - 4) // 6,) * 3
        # Each transition halves the map, the ImageNet stem twice more.
        pixels = 2 ** (len(block_layers) - 1)
        check_images(images, smallest=pixels if self.stem == "cifar" else 4 * pixels)
        if self.stem == "cifar":
            x = conv(2 * self.growth_rate, 3, name="conv")(images)
        else:
            x = conv(2 * self.growth_rate, 7, 2, name="conv")(images)
            x = max_pool(nn.relu(norm(name="norm_stem")(x)))
        for block, layers in enumerate(block_layers, 1):
            for index in range(1, layers + 1):
                y = layer(
                    self.growth_rate,
                    self.dropout_rate,
                    train,
                    conv,
                    norm,
                    name=f"block{block}_layer{index}",
                )(x)
                x = jnp.concatenate([x, y], axis=-1)
            if block < len(block_layers):
                x = nn.relu(norm(name=f"transition{block}_norm")(x))
                x = conv(int(x.shape[-1] * self.compression), 1, name=f"transition{block}_conv")(x)
                x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(norm(name="norm")(x))
        return classify(x, self.num_classes, self.dtype)
