"""Builds the optimizer from the config, out of optax's transformations."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from ml_collections import ConfigDict

from jaxcifar.config import Durations
from jaxcifar.optim.lookahead import lookahead
from jaxcifar.optim.parameter_groups import Group, check_groups, group_tree
from jaxcifar.traced import is_on

# Coefficients of the Newton-Schulz iteration: Jordan et al. 2024, "Muon", chosen for a steep rise
# of small singular values.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def create_optimizer(
    config: ConfigDict, durations: Durations
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer, whose output is added to the parameters.

    Its update takes the keyword arguments `learning_rate` and `step`, of the present update. They
    come from outside because the step also counts updates that were skipped.

    An update is -learning_rate times a direction:

    - sgd, as in He et al. 2015 and PyTorch: g = gradient + weight_decay * p;
      v = momentum * v + g; the direction is v, or g + momentum * v with Nesterov momentum.
    - sgdw, with decoupled decay (Loshchilov and Hutter 2019, "Decoupled Weight Decay
      Regularization", algorithm 1): v = momentum * v + gradient; v + weight_decay * p.
    - adamw (the same paper, algorithm 2): m / (sqrt(v) + epsilon) + weight_decay * p.
    - muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") for the
      kernels of convolutions, as matrices [out, rows * columns * in]: the momentum, brought near to
      an orthogonal matrix. With `muon_normalize` each kernel is first scaled to the norm sqrt(out).
      All other parameters are trained by sgd, and only they decay.

    All of them first scale a gradient whose norm over all parameters exceeds `clip_global_norm`
    down to it (Pascanu et al. 2013, "On the difficulty of training recurrent neural networks").
    `groups` have their own rates and decay, see `parameter_groups`; for `lookahead_interval` see
    `lookahead`.

    Args:
      config: the `optimizer` section.
      durations: lengths of the run.

    Raises:
      InputError: in `init`, if a row of `groups` matches no parameter.
    """
    groups = partial(group_tree, config, durations)
    direction = _direction(config, groups)
    if is_on(config.clip_global_norm):
        direction = _clipped(direction, config.clip_global_norm)
    optimizer = with_learning_rate(direction, groups, partial(check_groups, config))
    if config.name == "muon" and config.muon_normalize:
        optimizer = _with_normalized_kernels(optimizer)
    if config.lookahead_interval:
        optimizer = lookahead(
            optimizer,
            every=config.lookahead_interval,
            keep=config.lookahead_keep,
            power=config.lookahead_power,
            num_steps=durations.num_steps,
        )
    return optimizer


def _direction(config: ConfigDict, groups: Callable[[Any], Any]) -> optax.GradientTransformation:
    decay = _add_decayed_weights(groups)
    trace = optax.trace(config.momentum, config.nesterov)
    if config.name == "adamw":
        return optax.chain(optax.scale_by_adam(config.beta1, config.beta2, config.epsilon), decay)
    if config.name == "sgdw":
        return optax.chain(trace, decay)
    sgd = optax.chain(decay, trace)
    if config.name == "sgd":
        return sgd
    muon = optax.contrib.scale_by_muon(
        _NEWTON_SCHULZ,
        config.muon_iterations,
        config.muon_momentum,
        nesterov=config.nesterov,
        weight_dimension_numbers=_as_matrices,
    )
    return optax.partition({True: muon, False: sgd}, partial(jax.tree.map, _is_convolution))


def with_learning_rate(
    direction: optax.GradientTransformation,
    groups: Callable[[Any], Any] | None = None,
    check: Callable[[Any], None] = lambda params: None,
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer whose updates are -learning_rate times a direction.

    Args:
      direction: transformation of gradients into directions. Its state is the optimizer's.
      groups: params -> the group of each parameter; None if all have the same rate.
      check: called with the parameters when the state is made.
    """

    def init(params: Any) -> optax.OptState:
        check(params)
        return direction.init(params)

    def update(
        gradients: Any,
        state: optax.OptState,
        params: Any = None,
        *,
        learning_rate: jax.Array,
        step: jax.Array,
    ) -> tuple[Any, optax.OptState]:
        directions, state = direction.update(gradients, state, params)
        if groups is None:
            return jax.tree.map(lambda d: -learning_rate * d, directions), state
        return jax.tree.map(
            lambda d, group: -group.rate(learning_rate, step) * d, directions, groups(directions)
        ), state

    return optax.GradientTransformationExtraArgs(init, update)


def _add_decayed_weights(groups: Callable[[Any], Any]) -> optax.GradientTransformation:
    """As `optax.add_decayed_weights`, with the weight decay of each parameter's group."""

    def decayed(update: jax.Array, p: jax.Array, group: Group) -> jax.Array:
        return update + group.weight_decay * p if is_on(group.weight_decay) else update

    def add(updates: Any, params: Any) -> Any:
        return jax.tree.map(decayed, updates, params, groups(params))

    return optax.stateless(add)


def _clipped(optimizer: optax.GradientTransformation, norm: float) -> optax.GradientTransformation:
    """Wraps an optimizer so that its gradients are clipped first."""
    # The state stays the optimizer's own, so that a run can start or stop clipping on resume.
    clip = optax.clip_by_global_norm(norm)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        gradients, _ = clip.update(gradients, clip.init(params))
        return optimizer.update(gradients, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def _with_normalized_kernels(
    optimizer: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that kernels of convolutions have the norm sqrt(out) before updates."""

    def rescaled(update: jax.Array, p: jax.Array) -> jax.Array:
        if not _is_convolution(p):
            return update
        factor = jnp.sqrt(p.shape[-1]) / jnp.linalg.norm(p.ravel())
        return update + (factor - 1) * p

    def update(gradients: Any, state: Any, params: Any, **step: jax.Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradients, state, params, **step)
        return jax.tree.map(rescaled, updates, params), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _is_convolution(p: jax.Array) -> bool:
    return p.ndim == 4


def _as_matrices(params: Any) -> Any:
    """The axes of kernels [rows, columns, in, out] that make the columns and rows of a matrix."""
    dimensions = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    return jax.tree.map(lambda _: dimensions, params)
