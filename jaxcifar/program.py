"""Builds the model, the optimizer and the steps that a config describes."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from jaxcifar import models
from jaxcifar.augment.basic import normalize
from jaxcifar.augment.pipeline import Augment, create_augment
from jaxcifar.config import Durations
from jaxcifar.data.split import Batch, DatasetInfo
from jaxcifar.devices import AXIS
from jaxcifar.metrics import Sums
from jaxcifar.models import ternary
from jaxcifar.optim.loss_scale import LossScale
from jaxcifar.optim.optimizers import create_optimizer
from jaxcifar.optim.schedules import (
    create_schedule,
    peak_learning_rate,
    with_rollback_factors,
)
from jaxcifar.selection import Selector
from jaxcifar.steps import TrainState, TrainStep, Variables, eval_step, predict_step
from jaxcifar.traced import is_on


@dataclasses.dataclass(frozen=True)
class Program:
    """The functions built from a config.

    Attributes:
      create_state: () -> TrainState at step 0.
      train_step: (state, batch) -> (state, sums, layers), see `steps.TrainStep`.
      eval_step: (variables, batch) -> sums, see `steps.eval_step`.
      predict_step: (variables, batch) -> logits, see `steps.predict_step`.
      weight_levels: (variables) -> shares of the ternary weights at each level, see
        `weight_levels`; None for a network without ternary weights.
      learning_rate: step -> learning rate.
      loss_scale: whether the state has a loss scale.
    """

    create_state: Callable[[], TrainState]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Sums, dict[str, Any]]]
    eval_step: Callable[[Variables, Batch], Sums]
    predict_step: Callable[[Variables, Batch], jax.Array]
    weight_levels: Callable[[Variables], dict[str, jax.Array]] | None
    learning_rate: optax.Schedule
    loss_scale: bool


def create_program(
    config: ConfigDict,
    info: DatasetInfo,
    durations: Durations,
    rate_factors: Iterable[tuple[int, float]] = (),
    train_images: np.ndarray | None = None,
    learning_rate: optax.Schedule | None = None,
) -> Program:
    """Builds the model, the optimizer and the steps that a validated config describes.

    Args:
      config: see `config.default`; within a step that takes numbers of the config as arguments,
        what `traced.with_numbers` returns.
      info: facts of the config's data set.
      durations: lengths and intervals of the run in steps.
      rate_factors: (step, factor) pairs, see `schedules.with_rollback_factors`.
      train_images: uint8 [N, H, W, C], the first of which initialise a network that depends on
        them; None where the initial state does not matter.
      learning_rate: step -> learning rate, in place of the config's.
    """
    train = config.train
    model = models.from_config(config, info.num_classes, AXIS)
    optimizer = create_optimizer(config.optimizer, durations)
    learning_rate = learning_rate or create_learning_rate(config, durations, rate_factors)
    selector = _selector(config, info, optimizer)
    has_loss_scale = train.precision == "float16"
    preprocess = partial(normalize, mean=info.mean, std=info.std)
    predict_kwargs = {
        "model": model,
        "preprocess": preprocess,
        "flip": config.eval.test_time_flip,
        "shift": config.eval.test_time_shift,
        "views": config.eval.test_time_views,
    }
    return Program(
        create_state=partial(
            create_state,
            model,
            optimizer,
            info.image_shape,
            examples=_examples(model, train_images, preprocess),
            seed=train.seed,
            ema=is_on(train.ema_decay),
            loss_scale=has_loss_scale,
            selector=selector,
        ),
        train_step=TrainStep(
            model=model,
            optimizer=optimizer,
            learning_rate=learning_rate,
            augment=_augment(config, info),
            seed=train.seed,
            axis_name=AXIS,
            accumulation_steps=train.accumulation_steps,
            ema_decay=train.ema_decay,
            skip_nonfinite=train.on_nonfinite == "skip",
            with_statistics=durations.layer_stats_every > 0,
            with_gradients=config.log.histograms,
            selector=selector,
        ),
        eval_step=partial(eval_step, **predict_kwargs, axis_name=AXIS),
        predict_step=partial(predict_step, **predict_kwargs),
        weight_levels=(
            partial(weight_levels, model=model, image_shape=info.image_shape)
            if config.model.ternary != "none"
            else None
        ),
        learning_rate=learning_rate,
        loss_scale=has_loss_scale,
    )


def _augment(config: ConfigDict, info: DatasetInfo) -> Augment:
    return create_augment(
        config.augment,
        mean=info.mean,
        std=info.std,
        num_classes=info.num_classes,
        label_smoothing=config.train.label_smoothing,
    )


def _examples(
    model: nn.Module,
    train_images: np.ndarray | None,
    preprocess: Callable[[jax.Array], jax.Array],
) -> jax.Array | None:
    """The normalised images that a network is initialised with; None if it needs none."""
    count = getattr(model, "init_images", 0)
    if not count or train_images is None:
        return None
    return preprocess(train_images[:count])


def _selector(
    config: ConfigDict, info: DatasetInfo, optimizer: optax.GradientTransformationExtraArgs
) -> Selector | None:
    """The small network that picks which examples to train on; None if all are."""
    train = config.train
    if train.selector == "none":
        return None
    # Its loss is not scaled, so its gradients need more range than float16 has.
    dtype = jnp.float32 if train.precision == "float16" else jnp.dtype(train.precision)
    model = models.create(
        train.selector,
        num_classes=info.num_classes,
        dtype=dtype,
        axis_name=AXIS if config.model.sync_batch_norm else None,
    )
    return Selector(model, optimizer, train.selector_keep, AXIS)


def create_learning_rate(
    config: ConfigDict, durations: Durations, rate_factors: Iterable[tuple[int, float]] = ()
) -> optax.Schedule:
    """Returns the function step -> learning rate of a config; arguments as in `create_program`."""
    peak = peak_learning_rate(config.optimizer, config.train.batch_size)
    return with_rollback_factors(create_schedule(config.schedule, peak, durations), rate_factors)


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    *,
    seed: int,
    examples: jax.Array | None = None,
    ema: bool = False,
    loss_scale: bool = False,
    selector: Selector | None = None,
) -> TrainState:
    """Returns the state at step 0.

    Args:
      model: network to train.
      optimizer: see `optimizers.create_optimizer`.
      image_shape: height, width and channels.
      seed: seed that parameters are drawn from.
      examples: normalised training images [N, H, W, C] for a network that is initialised with
        them; None for zeros.
      ema: whether there are moving averages.
      loss_scale: whether there is a loss scale.
      selector: picks the examples that are trained on; None if all are.
    """

    @jax.jit
    def create(seed: jax.Array, images: jax.Array) -> TrainState:
        variables = model.init(jax.random.key(seed), images, train=False)
        variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            **variables,
            opt_state=optimizer.init(variables["params"]),
            ema=variables if ema else {},
            loss_scale=LossScale.create() if loss_scale else None,
            selector=selector.create_state(seed, images) if selector else None,
        )

    # The seed is an argument, so that runs which differ in it share a compiled program.
    images = jnp.zeros((1, *image_shape)) if examples is None else examples
    return create(jnp.uint32(seed), images)


def weight_levels(
    variables: Variables, *, model: nn.Module, image_shape: tuple[int, int, int]
) -> dict[str, jax.Array]:
    """Returns the shares of a network's ternary weights that are `negative`, `zero`, `positive`."""
    images = jnp.zeros((1, *image_shape))
    _, found = model.apply(variables, images, train=False, mutable=[ternary.LEVELS])
    counts = dict.fromkeys(("negative", "zero", "positive"), 0)
    for path, count in jax.tree_util.tree_leaves_with_path(found[ternary.LEVELS]):
        level = next(entry.key for entry in path if getattr(entry, "key", None) in counts)
        counts[level] += count
    total = sum(counts.values())
    return {level: count / total for level, count in counts.items()}
