"""The DenseNets of Huang et al. 2016, "Densely Connected Convolutional Networks".

Bottleneck and compression, the paper's DenseNet-BC: a layer is BatchNorm, ReLU, 1x1 convolution to
4k channels, BatchNorm, ReLU, 3x3 convolution to k channels, whose output is joined to its input
(sections 3 and 4.3). Between blocks a transition halves the channels and the height and width.

| CIFAR, section 4.1     | layers per block | k  |   3 blocks of (L - 4) / 6 layers
| densenet_bc_100_12     | 16               | 12 |
| densenet_bc_250_24     | 41               | 24 |
| densenet_bc_190_40     | 31               | 40 |

| ImageNet, table 1      | layers of each block | k  |
| densenet121            | 6, 12, 24, 16        | 32 |
| densenet169            | 6, 12, 32, 32        | 32 |
| densenet201            | 6, 12, 48, 32        | 32 |
| densenet264            | 6, 12, 64, 48        | 32 |
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcifar.errors import InputError
from jaxcifar.kernels import dense_block
from jaxcifar.kernels.relu import relu
from jaxcifar.models import layers
from jaxcifar.models.layers import Conv, Norm, check_choice, check_images, classify, max_pool
from jaxcifar.models.registry import register


class DenseLayer(nn.Module):
    """A layer that adds k features to those it reads (the paper's sections 3 and 4.3).

    Attributes:
      growth_rate: k, the number of channels to add.
      dropout_rate: probability that a new feature is zeroed in training.
      conv: creates the convolutions.
      norm: creates the normalisations.
    """

    growth_rate: int
    dropout_rate: float
    conv: Conv
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = relu(self.norm(name="norm1")(x))
        y = self.conv(4 * self.growth_rate, 1, name="conv1")(y)
        y = relu(self.norm(name="norm2")(y))
        y = self.conv(self.growth_rate, 3, name="conv2")(y)
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        return jnp.concatenate([x, y], axis=-1)


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
    head="head",
)
class DenseNet(nn.Module):
    """A DenseNet-BC.

    Attributes:
      growth_rate: k, the number of channels that each layer adds; the stem has 2k.
      num_classes: number of classes.
      depth: 6n + 4 for three blocks of n layers, or 0 if `block_layers` is given.
      block_layers: number of layers in each dense block, or () if `depth` is given.
      stem: "cifar" is a 3x3 convolution; "imagenet" is a 7x7 convolution of stride 2, BatchNorm,
        ReLU and max-pooling.
      compression: fraction of the channels that a transition keeps.
      dropout_rate: dropout rate after each layer, as in torchvision (on CIFAR without augmentation
        the paper applies 0.2 after every convolution except the first).
      recompute: whether the backward pass recomputes the inside of each layer instead of storing it
        (Pleiss et al. 2017, "Memory-Efficient Implementation of DenseNets").
      dtype: type of the computation; parameters, batch statistics and logits are float32.
      axis_name: device axis over which batch statistics are averaged, or None.

    Raises:
      InputError: if a field has an invalid value, or both depth and block_layers are given.
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
        check_choice("stem", self.stem, ("cifar", "imagenet"))
        if self.block_layers and self.depth:
            raise InputError(
                f"depth = {self.depth} and block_layers = {self.block_layers}: only one of them "
                "can be set"
            )
        if not self.block_layers and (self.depth < 10 or (self.depth - 4) % 6):
            raise InputError(
                f"depth = {self.depth}: must be 6n + 4 for a DenseNet-BC, e.g. 40, 100, 190, 250"
            )

    @property
    def _block_layers(self) -> tuple[int, ...]:
        return self.block_layers or ((self.depth - 4) // 6,) * 3

    @property
    def smallest_image(self) -> int:
        """The least height and width of an image."""
        # Each transition halves height and width; the ImageNet stem does so twice more.
        pixels = 2 ** (len(self._block_layers) - 1)
        return pixels if self.stem == "cifar" else 4 * pixels

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns float32 logits [B, num_classes] of float images [B, H, W, C]."""
        conv = partial(layers.conv, dtype=self.dtype)
        norm = partial(layers.norm, train=train, dtype=self.dtype, axis_name=self.axis_name)
        block_layers = self._block_layers
        check_images(images, self.smallest_image)
        if self.stem == "cifar":
            x = conv(2 * self.growth_rate, 3, name="conv")(images)
        else:
            x = conv(2 * self.growth_rate, 7, 2, name="conv")(images)
            x = max_pool(relu(norm(name="norm_stem")(x)))
        for block, num_layers in enumerate(block_layers, 1):
            dense_layers = [
                DenseLayer(
                    self.growth_rate,
                    self.dropout_rate,
                    conv,
                    norm,
                    name=f"block{block}_layer{index}",
                )
                for index in range(1, num_layers + 1)
            ]
            # The fast form is for training only, and needs the layers' variables to exist.
            if train and not self.is_initializing():
                x = self._train_block(x, dense_layers)
            else:
                for layer in dense_layers:
                    x = layer(x, train)
            if block < len(block_layers):
                x = relu(norm(name=f"transition{block}_norm")(x))
                x = conv(int(x.shape[-1] * self.compression), 1, name=f"transition{block}_conv")(x)
                x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = relu(norm(name="norm")(x))
        return classify(x, self.num_classes, self.dtype)

    def _train_block(
        self, x: jax.Array, dense_layers: Sequence[DenseLayer]
    ) -> dense_block.Standardized:
        """Applies the layers of a block in training, in a form that needs far less memory."""
        settings = dense_block.Settings(self.dropout_rate, self.recompute, self.axis_name)
        key = self.make_rng("dropout") if self.dropout_rate else jax.random.key(0)
        variables = [layer.variables for layer in dense_layers]
        x, batch_stats = dense_block.train(settings, x, variables, key)
        for layer, statistics in zip(dense_layers, batch_stats, strict=True):
            for norm, values in statistics.items():
                layer.put_variable("batch_stats", norm, values)
        return x
