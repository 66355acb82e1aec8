"""Builds the optimizer, one optax chain, from the config."""

from typing import Any

import jax
import optax
from ml_collections import ConfigDict


def create_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the gradient transformation whose output is multiplied by -learning_rate.

    The learning rate stays outside, because it follows from the step, which also counts updates
    that were skipped.

    - sgd, as in He et al. 2015 and PyTorch: g = gradient + weight_decay * p;
      v = momentum * v + g; the output is v, or g + momentum * v with Nesterov momentum.
    - sgdw, with decoupled decay (Loshchilov and Hutter 2019, "Decoupled Weight Decay
      Regularization", algorithm 1): v = momentum * v + gradient; v + weight_decay * p.
    - adamw (the same paper, algorithm 2): m / (sqrt(v) + epsilon) + weight_decay * p.

    All of them first scale a gradient whose norm over all parameters exceeds `clip_global_norm`
    down to it (Pascanu et al. 2013, "On the difficulty of training recurrent neural networks").

    Args:
      config: the `optimizer` section.
    """
    mask = _is_kernel if config.weight_decay_mask == "kernels" else None
    decay = optax.add_decayed_weights(config.weight_decay, mask=mask)
    trace = optax.trace(config.momentum, config.nesterov)
    if config.name == "adamw":
        adam = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
        optimizer = optax.chain(adam, decay)
    else:
        optimizer = optax.chain(*((trace, decay) if config.name == "sgdw" else (decay, trace)))
    return _clipped(optimizer, config.clip_global_norm) if config.clip_global_norm else optimizer


def _clipped(optimizer: optax.GradientTransformation, norm: float) -> optax.GradientTransformation:
    """Wraps an optimizer so that its gradients are clipped first."""
    # The state stays the optimizer's own, so that a run can start or stop clipping on resume.
    clip = optax.clip_by_global_norm(norm)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        gradients, _ = clip.update(gradients, clip.init(params))
        return optimizer.update(gradients, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def _is_kernel(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
