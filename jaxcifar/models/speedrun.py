"""The networks of Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3.

| layers of speedrun94              | output for a 32x32 image |
| 2x2 whitening convolution, GELU   | 31x31, 24 channels       |
| block 1                           | 15x15, 64                |
| block 2                           | 7x7, 256                 |
| block 3                           | 3x3, 256                 |
| maximum over all pixels           | 256                      |
| linear layer, times 1/9           | number of classes        |

A block is a 3x3 convolution, 2x2 max-pooling, BatchNorm and GELU, then one more 3x3 convolution,
BatchNorm and GELU. The networks for 95 and 96 % are wider (the paper's section 5), and that for
96 % has a third convolution per block, which closes a residual branch. speedrun_selector is a small
one for `train.selector`.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcifar.errors import InputError
from jaxcifar.kernels import convolution, pooled_convolution
from jaxcifar.kernels.batch_norm import BatchNorm
from jaxcifar.kernels.gelu import gelu
from jaxcifar.models.layers import check_images, uniform_fan_in
from jaxcifar.models.registry import register

# Images that the whitening convolution is made from (section 3.1).
WHITENING_IMAGES = 5000

_HEAD_SCALE = 1 / 9
_WHITENING_EPSILON = 5e-4


class WhiteningConv(nn.Module):
    """A frozen 2x2 convolution that whitens patches of the training images, and a trained bias.

    Jordan 2024, section 3.1, after Page 2019, "How to Train Your ResNet". Its 8C filters are the
    eigenvectors of the patches' second moments, each divided by the root of its eigenvalue + 5e-4,
    and the same negated. They follow from the images that the network is initialised with, and
    belong to the batch statistics, as they are not trained.

    Attributes:
      dtype: type of the computation.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns features [B, H - 1, W - 1, 8C] of normalised images [B, H, W, C]."""
        kernel = self.variable("batch_stats", "kernel", whitening_kernel, images).value
        bias = self.param("bias", nn.initializers.zeros, kernel.shape[-1:])
        return _valid_conv(images.astype(self.dtype), kernel) + bias.astype(self.dtype)


def whitening_kernel(images: jax.Array) -> jax.Array:
    """Returns the kernel [2, 2, C, 8C] that whitens 2x2 patches of images [B, H, W, C].

    See `WhiteningConv`. The filters are in descending order of eigenvalues.
    """
    height, width, channels = images.shape[1:]
    patches = jnp.concatenate(
        [
            images[:, row : height - 1 + row, column : width - 1 + column]
            for row in range(2)
            for column in range(2)
        ],
        axis=-1,
    ).reshape(-1, 4 * channels)
    values, vectors = jnp.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / jnp.sqrt(values + _WHITENING_EPSILON))[:, ::-1]
    return jnp.concatenate([filters, -filters], axis=1).reshape(2, 2, channels, -1)


def identity_init(
    key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Draws a 3x3 kernel [3, 3, in, out] whose first filters pass the input on unchanged.

    Jordan 2024, section 3.2: filter i of the first `in` ones is 1 at the centre of channel i and 0
    elsewhere, as torch.nn.init.dirac_ makes it; the others are uniform within +-1 / sqrt(9 in).
    """
    features_in, features_out = shape[2:]
    kernel = uniform_fan_in(key, shape, dtype)
    passing = jnp.arange(features_out) < features_in
    identity = jnp.zeros(shape, dtype).at[1, 1].set(jnp.eye(features_in, features_out, dtype=dtype))
    return jnp.where(passing, identity, kernel)


class SpeedrunBlock(nn.Module):
    """Two or three 3x3 convolutions, the first with 2x2 max-pooling (Jordan 2024, section 3).

    Attributes:
      width: output channels.
      convs: 2, or 3 with a residual branch over the last two.
      conv_init: initialiser of the kernels.
      norm: creates a normalisation without scale.
      dtype: type of the computation.
    """

    width: int
    convs: int
    conv_init: nn.initializers.Initializer
    norm: partial
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H // 2, W // 2, width] of features [B, H, W, C]."""
        conv = partial(
            nn.Conv,
            self.width,
            (3, 3),
            padding=1,
            use_bias=False,
            kernel_init=self.conv_init,
            dtype=self.dtype,
        )
        # The convolution pools too.
        x = conv(name="conv1", conv_general_dilated=pooled_convolution.conv_general_dilated)(x)
        x = gelu(self.norm(name="norm1")(x))
        conv = partial(conv, conv_general_dilated=convolution.for_backend())
        y = self.norm(name="norm2")(conv(name="conv2")(x))
        if self.convs == 3:
            y = self.norm(name="norm3")(conv(name="conv3")(gelu(y))) + x
        return gelu(y)


@register(
    {
        "speedrun94": {"widths": (64, 256, 256), "convs_per_block": 2},
        "speedrun95": {"widths": (128, 384, 384), "convs_per_block": 2},
        "speedrun96": {"widths": (128, 384, 512), "convs_per_block": 3},
        "speedrun_selector": {"widths": (32, 64, 64), "convs_per_block": 2},
    },
    source="Jordan 2024, sections 3 and 5",
    head="head",
)
class Speedrun(nn.Module, kw_only=True):
    """A speedrun network.

    BatchNorm has no scale, an epsilon of 1e-12, and running statistics that keep 0.6 of their value
    per batch.

    Attributes:
      num_classes: number of classes.
      widths: channels of each of the three blocks.
      convs_per_block: 2 or 3, see `SpeedrunBlock`.
      whitening: whether the first convolution is frozen and whitens patches, see `WhiteningConv`;
        else it is drawn and trained.
      identity_init: whether kernels start as the identity, see `identity_init`.
      dtype: type of the computation; parameters, batch statistics and logits are float32.
      axis_name: device axis over which batch statistics are averaged, or None.

    Raises:
      InputError: if a field has an invalid value.
    """

    num_classes: int
    widths: tuple[int, ...]
    convs_per_block: int
    whitening: bool = True
    identity_init: bool = True
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if len(self.widths) != 3:
            raise InputError(f"widths = {self.widths}: must be three numbers of channels")
        if self.convs_per_block not in (2, 3):
            raise InputError(f"convs_per_block = {self.convs_per_block}: must be 2 or 3")

    @property
    def init_images(self) -> int:
        """The number of training images that the network is initialised with."""
        return WHITENING_IMAGES if self.whitening else 0

    @property
    def smallest_image(self) -> int:
        """Least height and width of an image, of which a pixel is left after the pooling."""
        return 9

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns float32 logits [B, num_classes] of float images [B, H, W, C]."""
        check_images(images, self.smallest_image)
        if self.whitening:
            x = WhiteningConv(self.dtype, name="whitening")(images)
        else:
            x = self._first_conv(images)
        x = gelu(x)
        norm = partial(
            BatchNorm,
            train=train,
            dtype=self.dtype,
            axis_name=self.axis_name,
            use_scale=False,
            epsilon=1e-12,
            decay=0.6,
        )
        conv_init = identity_init if self.identity_init else uniform_fan_in
        for block, width in enumerate(self.widths, 1):
            x = SpeedrunBlock(
                width, self.convs_per_block, conv_init, norm, self.dtype, name=f"block{block}"
            )(x)
        x = x.max(axis=(1, 2))
        head = nn.Dense(
            self.num_classes,
            use_bias=False,
            kernel_init=uniform_fan_in,
            dtype=self.dtype,
            dot_general=convolution.linear,
            name="head",
        )
        return head(x).astype(jnp.float32) * _HEAD_SCALE

    def _first_conv(self, images: jax.Array) -> jax.Array:
        """The first convolution without whitening, of the same shape."""
        return nn.Conv(
            8 * images.shape[-1],
            (2, 2),
            padding=0,
            kernel_init=uniform_fan_in,
            dtype=self.dtype,
            conv_general_dilated=convolution.for_backend(),
            name="conv",
        )(images)


def _valid_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return convolution.for_backend()(
        x,
        kernel.astype(x.dtype),
        (1, 1),
        ((0, 0), (0, 0)),
        dimension_numbers=convolution.DIMENSIONS,
    )
