"""Picks the examples of each batch that are worth training on, with a small network.

The small network trains alongside the large one, on whole batches; the large one trains on the
examples whose loss in the small one is greatest: Jiang et al. 2019, "Accelerating Deep Learning by
Focusing on the Biggest Losers"; Coleman et al. 2020, "Selection via Proxy". As the small one costs
little, a step takes hardly longer than one on the examples that are kept.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import lax

from jaxcifar.data.split import Batch
from jaxcifar.metrics.classification import example_losses


@struct.dataclass
class SelectorState:
    """What training updates of the small network, see `steps.TrainState`."""

    params: Any
    batch_stats: Any
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True, eq=False)
class Selector:
    """The small network, and how it is trained.

    Attributes:
      model: the small network.
      optimizer: see `optimizers.create_optimizer`.
      keep: share of each device's examples that is kept.
      axis_name: device axis over which gradients and batch statistics are averaged.
    """

    model: nn.Module
    optimizer: optax.GradientTransformationExtraArgs
    keep: float
    axis_name: str

    def create_state(self, seed: int | jax.Array, images: jax.Array) -> SelectorState:
        """Returns the state at step 0, from a seed and normalised images [N, H, W, C]."""
        key = jax.random.fold_in(jax.random.key(seed), 1)
        variables = self.model.init(key, images, train=False)
        params = variables["params"]
        return SelectorState(params, variables.get("batch_stats", {}), self.optimizer.init(params))

    def __call__(
        self,
        state: SelectorState,
        examples: Batch,
        *,
        learning_rate: jax.Array,
        step: jax.Array,
        key: jax.Array,
    ) -> tuple[Batch, SelectorState]:
        """Returns the examples that are kept, and the state after an update on all of them.

        Args:
          state: the same on all devices.
          examples: one device's share, augmented: image float [B, H, W, C], label int32 [B], mask
            bool [B] and, where targets are not one-hot, target float32 [B, classes].
          learning_rate: learning rate of the update.
          step: number of batches seen before.
          key: dropout key.
        """

        def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            logits, updates = self.model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                examples["image"],
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            losses = example_losses(logits, examples["label"], examples.get("target"))
            # Padding examples come last.
            ranked = jnp.where(examples["mask"], losses, -jnp.inf)
            total = jnp.sum(losses, where=examples["mask"])
            return total, (ranked, updates.get("batch_stats", {}))

        grads, (ranked, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
        count = lax.psum(jnp.sum(examples["mask"]), self.axis_name)
        grads = jax.tree.map(lambda grad: grad / jnp.maximum(count, 1), grads)
        grads, batch_stats = lax.psum(grads, self.axis_name), lax.pmean(batch_stats, self.axis_name)
        updates, opt_state = self.optimizer.update(
            grads, state.opt_state, state.params, learning_rate=learning_rate, step=step
        )
        params = optax.apply_updates(state.params, updates)
        _, kept = lax.top_k(ranked, max(1, round(self.keep * len(ranked))))
        kept = jnp.sort(kept)
        return (
            {name: array[kept] for name, array in examples.items()},
            SelectorState(params, batch_stats, opt_state),
        )
