"""One optax chain from the config, and the scale of a float16 loss."""

from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from ml_collections import ConfigDict

from jaxcifar.kernels.backend import is_cpu
from jaxcifar.kernels.kernel_order import outputs_first


def create_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns what turns gradients into the direction of an update, to be scaled by -learning rate.

    The rate stays outside, as it follows from the step, which counts updates that were skipped too.

    - sgd, as He et al. 2015 and PyTorch have it: g = gradient + weight_decay * p;
      v = momentum * v + g; the direction is v, or g + momentum * v in Nesterov's form.
    - sgdw, with decoupled decay (Loshchilov and Hutter 2019, "Decoupled Weight Decay
      Regularization", algorithm 1): v = momentum * v + gradient; v + weight_decay * p.
    - adamw (the same, algorithm 2): m / (sqrt(v) + epsilon) + weight_decay * p.

    In all, a gradient whose norm over all parameters exceeds `clip_global_norm` is first scaled to
    it (Pascanu et al. 2013, "On the difficulty of training recurrent neural networks").

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
    """An optimizer of gradients that are clipped first."""
    # The state is the optimizer's own, so that a run can begin or cease to clip.
    clip = optax.clip_by_global_norm(norm)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        gradients, _ = clip.update(gradients, clip.init(params))
        return optimizer.update(gradients, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def _is_kernel(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


_LEAST_SCALE = 1.0
_LARGE = 2**16  # numbers in an array


@struct.dataclass
class LossScale:
    """What a float16 loss is multiplied by, so that small gradients do not become zero.

    Micikevicius et al. 2018, "Mixed Precision Training", section 3.2. It is halved when a gradient
    is not finite, in an update that is skipped, and doubled after 2,000 finite ones in a row, as
    PyTorch's GradScaler does.

    Attributes:
      scale: float32.
      finite_steps: int32, since it last changed.
    """

    scale: jax.Array
    finite_steps: jax.Array

    @classmethod
    def create(cls) -> "LossScale":
        """Returns PyTorch's first scale, 65,536."""
        return cls(jnp.float32(2.0**16), jnp.int32(0))

    def can_shrink(self) -> jax.Array:
        """Returns whether gradients that are not finite may be for too large a scale, a bool."""
        return self.scale > _LEAST_SCALE

    def update(self, finite: jax.Array) -> "LossScale":
        """Returns the next scale, after an update whose gradients were all finite or not."""
        grows = finite & (self.finite_steps + 1 == 2000)
        factor = jnp.where(finite, jnp.where(grows, 2.0, 1.0), 0.5)
        return LossScale(
            scale=jnp.maximum(self.scale * factor, _LEAST_SCALE),
            finite_steps=jnp.where(finite & ~grows, self.finite_steps + 1, 0),
        )


def all_finite(tree: Any) -> jax.Array:
    """Returns whether every number of a tree is finite, as a bool scalar."""
    if not is_cpu():
        # One kernel reads all arrays, in the order in which they lie there. Without the barrier XLA
        # splits it up again, into the kernels that write the arrays, which then have to copy them.
        leaves = jax.tree.leaves(outputs_first(tree))
        joined = jnp.concatenate([jnp.isfinite(leaf).ravel() for leaf in leaves])
        return lax.optimization_barrier(joined).all()
    leaves = jax.tree.leaves(tree)
    arrays = [leaf for leaf in leaves if leaf.size >= _LARGE]
    # Joined, as hundreds of small arrays one by one take longer to compile than all the rest.
    arrays += _joined([leaf for leaf in leaves if leaf.size < _LARGE])
    return jnp.stack([jnp.isfinite(array).all() for array in arrays]).all()


def _joined(arrays: list[jax.Array]) -> list[jax.Array]:
    """Returns the arrays, joined where they differ in one dimension: the last but one, or the only.

    None is reshaped, as XLA:CPU would make it again in its other shape.
    """
    alike = defaultdict(list)
    for array in arrays:
        alike[array.dtype, array.shape[:-2], array.shape[-1:] * (array.ndim > 1)].append(array)
    return [
        jnp.concatenate([jnp.atleast_1d(array) for array in group], max(group[0].ndim - 2, 0))
        for group in alike.values()
    ]
