"""Metrics as masked sums, which add up exactly over batches, devices and processes."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

Sums = dict[str, jax.Array]


def batch_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
    """Returns the sums over one batch's real examples, as float32 scalars.

    Args:
      logits: float [B, classes].
      labels: int [B].
      mask: bool [B], False where an example only pads the batch.

    Returns:
      `count`, the number of examples; `loss`, their summed cross-entropy in nats; `correct`, how
      many have the label's logit as their largest.
    """
    mask = mask.astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return {
        "count": jnp.sum(mask),
        "loss": jnp.sum(loss * mask),
        "correct": jnp.sum((jnp.argmax(logits, axis=-1) == labels) * mask),
    }


def add(total: Mapping[str, float], sums: Mapping[str, jax.Array]) -> dict[str, float]:
    """Adds one step's sums to a running total on the host, in double precision.

    `total` may be empty. Adding one step at a time makes the result independent of where a run was
    interrupted.
    """
    return {name: total.get(name, 0.0) + float(value) for name, value in sums.items()}


def summarize(total: Mapping[str, float]) -> dict[str, float]:
    """Returns the mean `loss` in nats and the `accuracy` from 0 to 1 of a total of sums."""
    return {
        "loss": total["loss"] / total["count"],
        "accuracy": total["correct"] / total["count"],
    }
