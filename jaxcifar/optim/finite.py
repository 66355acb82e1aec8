"""A check for NaN and infinity over a whole tree, in few kernels and little compile time."""

from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcifar.kernels import backend
from jaxcifar.kernels.kernel_order import outputs_first

_LARGE = 2**16  # arrays with this many elements or more are checked on their own


def all_finite(tree: Any) -> jax.Array:
    """Returns whether every number of a tree is finite, as a bool scalar."""
    if not backend.is_cpu():
        # One kernel reads all arrays, in the order in which they are stored. Without the barrier
        # XLA splits it into the kernels that write the arrays, which then have to copy them.
        leaves = jax.tree.leaves(outputs_first(tree))
        joined = jnp.concatenate([jnp.isfinite(leaf).ravel() for leaf in leaves])
        return lax.optimization_barrier(joined).all()
    leaves = jax.tree.leaves(tree)
    arrays = [leaf for leaf in leaves if leaf.size >= _LARGE]
    # Hundreds of small arrays take longer to compile one by one than all the rest together.
    arrays += _joined([leaf for leaf in leaves if leaf.size < _LARGE])
    return jnp.stack([jnp.isfinite(array).all() for array in arrays]).all()


def _joined(arrays: list[jax.Array]) -> list[jax.Array]:
    """Joins arrays that differ in one dimension only: the last but one, or the only one.

    No array is reshaped, because XLA:CPU would compute it a second time in its new shape.
    """
    alike = defaultdict(list)
    for array in arrays:
        alike[array.dtype, array.shape[:-2], array.shape[-1:] * (array.ndim > 1)].append(array)
    return [
        jnp.concatenate([jnp.atleast_1d(array) for array in group], max(group[0].ndim - 2, 0))
        for group in alike.values()
    ]
