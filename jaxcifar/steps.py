"""What happens to one batch: pure functions, written for one device of many.

`train_step` and `eval_step` see a device's share of the batch and average or sum over the device
axis themselves; `parallel` maps them.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import lax
from ml_collections import ConfigDict

from jaxcifar import models
from jaxcifar.config import Durations
from jaxcifar.data import augment
from jaxcifar.data.datasets import DatasetInfo
from jaxcifar.metrics import Sums, batch_sums
from jaxcifar.models import ternary
from jaxcifar.optimizers import create_optimizer
from jaxcifar.parallel import AXIS
from jaxcifar.schedules import create_schedule

Batch = dict[str, jax.Array]


@struct.dataclass
class TrainState:
    """All that a run changes: no functions, no random keys, no position beyond the step.

    Attributes:
      step: int32, the number of updates made.
      params: float32.
      batch_stats: running means and variances of the BatchNorm layers, float32.
      opt_state: the optimizer's.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Program:
    """What a config computes.

    Attributes:
      create_state: () -> TrainState at step 0.
      train_step: (state, batch) -> (state, sums), see `train_step`.
      eval_step: (state, batch) -> sums, see `eval_step`.
      weight_levels: state -> the shares of ternary weights at each level, see `weight_levels`; or
        None, for a network without.
      learning_rate: step -> learning rate.
    """

    create_state: Callable[[], TrainState]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Sums]]
    eval_step: Callable[[TrainState, Batch], Sums]
    weight_levels: Callable[[TrainState], dict[str, jax.Array]] | None
    learning_rate: optax.Schedule


def create_program(config: ConfigDict, info: DatasetInfo, durations: Durations) -> Program:
    """Builds the model, the optimizer and the steps that a validated config describes."""
    model = models.from_config(config, info.num_classes, AXIS)
    learning_rate = create_schedule(config, durations)
    optimizer = create_optimizer(config.optimizer, learning_rate)
    preprocess = partial(augment.normalize, mean=info.mean, std=info.std)
    return Program(
        create_state=partial(
            create_state, model, optimizer, info.image_shape, seed=config.train.seed
        ),
        train_step=partial(
            train_step,
            model=model,
            optimizer=optimizer,
            preprocess=preprocess,
            seed=config.train.seed,
            axis_name=AXIS,
        ),
        eval_step=partial(eval_step, model=model, preprocess=preprocess, axis_name=AXIS),
        weight_levels=(
            partial(weight_levels, model=model, image_shape=info.image_shape)
            if config.model.ternary != "none"
            else None
        ),
        learning_rate=learning_rate,
    )


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    *,
    seed: int,
) -> TrainState:
    """Returns the state at step 0, its parameters drawn from `seed`."""

    @jax.jit
    def create() -> TrainState:
        images = jnp.zeros((1, *image_shape))
        variables = model.init(jax.random.key(seed), images, train=False)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(variables["params"]),
        )

    return create()


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    preprocess: Callable[[jax.Array], jax.Array],
    seed: int,
    axis_name: str,
) -> tuple[TrainState, Sums]:
    """Makes one update from one device's share of a batch.

    Args:
      state: the same on all devices.
      batch: image uint8 [B, H, W, C], label int32 [B], mask bool [B].
      model, optimizer: of the state.
      preprocess: uint8 images -> float images.
      seed: of the dropout, which also depends on the step and the device.
      axis_name: device axis, over which gradients and batch statistics are averaged.

    Returns:
      The next state, the same on all devices, and the metric sums over the whole batch, of the
      predictions made before the update.
    """
    images = preprocess(batch["image"])
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    key = jax.random.fold_in(key, lax.axis_index(axis_name))

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, Sums]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = model.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        sums = batch_sums(logits, batch["label"], batch["mask"])
        return sums["loss"] / sums["count"], (updates.get("batch_stats", {}), sums)

    grads, (batch_stats, sums) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, batch_stats = lax.pmean((grads, batch_stats), axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    return state, lax.psum(sums, axis_name)


def eval_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    preprocess: Callable[[jax.Array], jax.Array],
    axis_name: str,
) -> Sums:
    """Returns the metric sums over the real examples of a whole batch; see `train_step`."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = model.apply(variables, preprocess(batch["image"]), train=False)
    return lax.psum(batch_sums(logits, batch["label"], batch["mask"]), axis_name)


def weight_levels(
    state: TrainState, *, model: nn.Module, image_shape: tuple[int, int, int]
) -> dict[str, jax.Array]:
    """Returns the shares of a network's ternary weights that are `negative`, `zero`, `positive`."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    images = jnp.zeros((1, *image_shape))
    _, found = model.apply(variables, images, train=False, mutable=[ternary.LEVELS])
    counts = dict.fromkeys(("negative", "zero", "positive"), 0)
    for path, count in jax.tree_util.tree_leaves_with_path(found[ternary.LEVELS]):
        level = next(entry.key for entry in path if getattr(entry, "key", None) in counts)
        counts[level] += count
    total = sum(counts.values())
    return {level: count / total for level, count in counts.items()}
