"""A tiny network for tests of the code around it; it compiles far faster than a real one."""

import jax
from flax import linen as nn

from jaxcifar.kernels.relu import relu
from jaxcifar.models.blocks import ResidualNetwork
from jaxcifar.models.layers import classify


class Tiny(ResidualNetwork, kw_only=True):
    """Two convolutions, the second possibly ternary, one normalisation and a linear layer."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        stem_conv, conv = self.convs()
        norm = self.norm_layer(train)
        x = relu(norm(name="norm")(stem_conv(8, 3, 2, name="conv1")(images)))
        return classify(conv(16, 1, name="conv2")(x), self.num_classes, self.dtype)
