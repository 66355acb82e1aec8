"""Lookahead: slow weights that follow those of an optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class LookaheadState(NamedTuple):
    """State of the optimizer, and the slow weights."""

    inner: optax.OptState
    slow: Any


def lookahead(
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    every: int,
    keep: float,
    power: float,
    num_steps: int,
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer whose weights return to slow weights, which follow them.

    Zhang et al. 2019, "Lookahead Optimizer: k steps forward, 1 step back", algorithm 1: every k
    steps the slow weights move towards the optimizer's, which then restart from there. The slow
    weights keep a share of their value that may grow during the run, `keep` * (t / T) ** power
    (Jordan 2024, section 3.4, with a power of 3); the paper's is a constant 1 - alpha, a power of
    0. After the last step the slow weights are the network.

    Args:
      optimizer: optimizer of the weights.
      every: k, the number of steps between two synchronisations.
      keep: share of their value that the slow weights keep at the end of the run.
      power: power of the part of the run that is over, with which the share grows.
      num_steps: T, length of the run.
    """

    def init(params: Any) -> LookaheadState:
        return LookaheadState(optimizer.init(params), params)

    def update(
        gradients: Any,
        state: LookaheadState,
        params: Any,
        *,
        learning_rate: jax.Array,
        step: jax.Array,
    ) -> tuple[Any, LookaheadState]:
        updates, inner = optimizer.update(
            gradients, state.inner, params, learning_rate=learning_rate, step=step
        )
        done = step + 1
        kept = keep * (done / num_steps) ** power
        synchronises = done % every == 0

        def slow_of(slow: jax.Array, p: jax.Array, change: jax.Array) -> jax.Array:
            return jnp.where(synchronises, slow + (1 - kept) * (p + change - slow), slow)

        slow = jax.tree.map(slow_of, state.slow, params, updates)
        returns = synchronises | (done == num_steps)
        updates = jax.tree.map(
            lambda slow, p, change: jnp.where(returns, slow - p, change), slow, params, updates
        )
        return updates, LookaheadState(inner, slow)

    return optax.GradientTransformationExtraArgs(init, update)
