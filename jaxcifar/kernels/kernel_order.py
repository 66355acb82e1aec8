"""The order of convolution kernels in memory: [H, W, in, out] in Flax, [out, H, W, in] in cuDNN."""

from typing import Any

import jax
import jax.numpy as jnp


def outputs_first(tree: Any) -> Any:
    """Returns a tree with the output axis of its kernels, the arrays of four axes, moved first."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0) if x.ndim == 4 else x, tree)


def outputs_last(tree: Any) -> Any:
    """Undoes `outputs_first`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1) if x.ndim == 4 else x, tree)
