"""Variables and gradients of networks, for several tests."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers import COMPILED_QUICKLY

SMALL_DENSENET = {"num_classes": 10, "depth": 16, "growth_rate": 4}


def drawn(model, images):
    """Returns variables like those of `init`, whose compilation takes long for a deep network."""
    random = np.random.RandomState(0)

    def draw(path, like):
        if path[-1].key == "kernel":
            fan_out = like.size / like.shape[-2]
            return jnp.array(random.normal(0, np.sqrt(2 / fan_out), like.shape), like.dtype)
        zeros = path[-1].key in ("bias", "mean")
        return jnp.zeros(like.shape) if zeros else jnp.ones(like.shape)

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def gradients(model, variables, images):
    """Returns the gradients of a squared error in training."""

    def loss(params):
        logits, _ = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.mean(jnp.square(logits - jnp.arange(10)))

    return jax.jit(jax.grad(loss), compiler_options=COMPILED_QUICKLY)(variables["params"])
