"""A network for tests of what is around one: it compiles in a fraction of a real one's time."""

import jax
from flax import linen as nn

from jaxcifar.models.blocks import ResidualNetwork
from jaxcifar.models.layers import classify, relu


class Tiny(ResidualNetwork, kw_only=True):
    """Two convolutions, one of which may be ternary, batch statistics and a linear layer."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        first, conv, norm = self.makers(train)
        x = relu(norm(name="norm")(first(8, 3, 2, name="conv1")(images)))
        return classify(conv(16, 1, name="conv2")(x), self.num_classes, self.dtype)
