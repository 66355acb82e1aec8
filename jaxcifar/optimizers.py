"""One optax chain from the config."""

from typing import Any

import jax
import optax
from ml_collections import ConfigDict


def create_optimizer(
    config: ConfigDict, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
    """Returns SGD with momentum and coupled weight decay, as He et al. 2015 and PyTorch have it.

    g = gradient + weight_decay * p;  v = momentum * v + g;  p = p - learning_rate * v,
    with g + momentum * v in place of v in the last line for Nesterov's form.

    Args:
      config: the `optimizer` section.
      learning_rate: a function of the step.
    """
    return optax.chain(
        optax.add_decayed_weights(
            config.weight_decay, mask=_is_kernel if config.weight_decay_on == "kernels" else None
        ),
        optax.sgd(learning_rate, momentum=config.momentum, nesterov=config.nesterov),
    )


def _is_kernel(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
