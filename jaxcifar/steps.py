"""What happens to one batch: pure functions, written for one device of many.

`train_step` and `eval_step` see a device's share of the batch and average or sum over the device
axis themselves; `devices` maps them.
"""

import dataclasses
from collections.abc import Callable, Iterable
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
from jaxcifar.augment.basic import normalize
from jaxcifar.augment.pipeline import Augment, create_augment
from jaxcifar.augment.test_time import averaged_logits
from jaxcifar.config import Durations
from jaxcifar.data.split import Batch, DatasetInfo
from jaxcifar.data.streams import step_key
from jaxcifar.devices import AXIS
from jaxcifar.metrics import Sums, batch_sums, evaluation_sums
from jaxcifar.metrics.layer_statistics import layer_statistics
from jaxcifar.models import ternary
from jaxcifar.optim.optimizers import LossScale, all_finite, create_optimizer
from jaxcifar.optim.schedules import create_schedule, lowered

Variables = dict[str, Any]


@struct.dataclass
class TrainState:
    """All that a run changes: no functions, no random keys, no position beyond the step.

    Attributes:
      step: int32, the number of batches seen.
      params: float32.
      batch_stats: running means and variances of the BatchNorm layers, float32.
      opt_state: the optimizer's.
      ema: the moving averages of `params` and `batch_stats`, by these names; {} without.
      loss_scale: of float16; None in another precision.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Variables
    loss_scale: LossScale | None

    def variables(self) -> Variables:
        """Returns what the model is applied to."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@dataclasses.dataclass(frozen=True)
class Program:
    """What a config computes.

    Attributes:
      create_state: () -> TrainState at step 0.
      train_step: (state, batch) -> (state, sums, layers), see `train_step`.
      eval_step: (variables, batch) -> sums, see `eval_step`.
      predict_step: (variables, batch) -> logits, see `predict_step`.
      weight_levels: (variables) -> the shares of ternary weights at each level, see
        `weight_levels`; or None, for a network without.
      learning_rate: step -> learning rate.
      loss_scale: whether the state has one.
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
) -> Program:
    """Builds the model, the optimizer and the steps that a validated config describes.

    Args:
      config: see `config.default`.
      info: of its data set.
      durations: of the run.
      rate_factors: (step, factor) pairs, see `schedules.lowered`.
    """
    model = models.from_config(config, info.num_classes, AXIS)
    optimizer = create_optimizer(config.optimizer)
    learning_rate = lowered(create_schedule(config, durations), rate_factors)
    predicts = {
        "model": model,
        "preprocess": partial(normalize, mean=info.mean, std=info.std),
        "flip": config.eval.test_time_flip,
        "shift": config.eval.test_time_shift,
    }
    return Program(
        create_state=partial(
            create_state,
            model,
            optimizer,
            info.image_shape,
            seed=config.train.seed,
            ema=config.train.ema_decay > 0,
            loss_scale=config.train.precision == "float16",
        ),
        train_step=partial(
            train_step,
            model=model,
            optimizer=optimizer,
            learning_rate=learning_rate,
            augment=create_augment(
                config.augment,
                mean=info.mean,
                std=info.std,
                num_classes=info.num_classes,
                label_smoothing=config.train.label_smoothing,
            ),
            accumulation_steps=config.train.accumulation_steps,
            ema_decay=config.train.ema_decay,
            skip_nonfinite=config.train.on_nonfinite == "skip",
            watch=durations.watch_every > 0,
            watch_gradients=config.log.histograms,
            seed=config.train.seed,
            axis_name=AXIS,
        ),
        eval_step=partial(eval_step, **predicts, axis_name=AXIS),
        predict_step=partial(predict_step, **predicts),
        weight_levels=(
            partial(weight_levels, model=model, image_shape=info.image_shape)
            if config.model.ternary != "none"
            else None
        ),
        learning_rate=learning_rate,
        loss_scale=config.train.precision == "float16",
    )


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    *,
    seed: int,
    ema: bool = False,
    loss_scale: bool = False,
) -> TrainState:
    """Returns the state at step 0, its parameters drawn from `seed`."""

    @jax.jit
    def create() -> TrainState:
        images = jnp.zeros((1, *image_shape))
        variables = model.init(jax.random.key(seed), images, train=False)
        variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            **variables,
            opt_state=optimizer.init(variables["params"]),
            ema=variables if ema else {},
            loss_scale=LossScale.create() if loss_scale else None,
        )

    return create()


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    augment: Augment,
    seed: int,
    axis_name: str,
    accumulation_steps: int = 1,
    ema_decay: float = 0.0,
    skip_nonfinite: bool = False,
    watch: bool = False,
    watch_gradients: bool = False,
) -> tuple[TrainState, Sums, dict[str, Any]]:
    """Makes one update from one device's share of a batch.

    Args:
      state: the same on all devices.
      batch: image uint8 [B, H, W, C], label int32 [B], mask bool [B].
      model, optimizer: of the state.
      learning_rate: a function of the step.
      augment: see `create_augment`.
      seed: of the augmentation and the dropout, which also depend on the step.
      axis_name: device axis, over which gradients and batch statistics are averaged.
      accumulation_steps: parts into which the share is divided; their gradients are added up, and
        each normalises by its own batch statistics.
      ema_decay: of the moving average; see `_moving_average`.
      skip_nonfinite: whether an update with numbers that are not finite is left out as a whole.
      watch: whether to return what the layers did.
      watch_gradients: whether to return the gradients with it.

    Returns:
      The next state, the same on all devices; the metric sums over the whole batch, of the
      predictions made before the update, and beside them `skipped`, the slots without an example,
      and `nonfinite`, float32: 1 if the loss or the updated state held a number that is not finite,
      else 0, as where a loss scale that can still be halved left the update out; and, if watched,
      `layer_statistics` and `gradients`.
    """
    device = lax.axis_index(axis_name)
    key = augment_key(seed, state.step)
    images, targets = augment(key, device, batch["image"], batch["label"], batch["mask"])
    dropout_key = jax.random.fold_in(step_key(seed, state.step, "dropout"), device)
    examples = {"image": images, "label": batch["label"], "mask": batch["mask"]}
    if targets is not None:
        examples["target"] = targets
    size = len(images) // accumulation_steps
    loss_scale = state.loss_scale.scale if state.loss_scale is not None else 1.0

    def loss_fn(
        params: Any, batch_stats: Any, part: Batch, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        logits, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            part["image"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        sums = batch_sums(logits, part["label"], part["mask"], part.get("target"))
        return loss_scale * sums["loss"] / size, (updates.get("batch_stats", {}), sums)

    grads, batch_stats, sums = _gradients(loss_fn, state, examples, dropout_key, accumulation_steps)
    grads, batch_stats = lax.pmean((grads, batch_stats), axis_name)
    sums = lax.psum(sums, axis_name)
    # The gradient of the mean over the examples that are there.
    total = len(images) * lax.axis_size(axis_name)
    sums["skipped"] = total - sums["count"]
    factor = total / jnp.maximum(sums["count"], 1) / (loss_scale * accumulation_steps)
    grads = jax.tree.map(lambda grad: grad * factor, grads)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    rate = learning_rate(state.step)
    updates = jax.tree.map(lambda update: -rate * update, updates)
    params = optax.apply_updates(state.params, updates)
    new = state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
    if state.ema:
        new = new.replace(ema=_moving_average(state.ema, new.variables(), state.step, ema_decay))
    # A gradient that is not finite makes the optimizer's state or the parameters so.
    finite = all_finite((sums["loss"], new))
    overflow = jnp.bool_(False)
    if skip_nonfinite or state.loss_scale is not None:
        new = jax.tree.map(partial(jnp.where, finite), new, state)
    if state.loss_scale is not None:
        finite_grads = all_finite(grads)
        overflow = ~finite_grads & state.loss_scale.can_shrink()
        new = new.replace(loss_scale=state.loss_scale.update(finite_grads))
    sums["nonfinite"] = (~finite & ~overflow).astype(jnp.float32)
    layers = {}
    if watch:
        layers["statistics"] = layer_statistics(state.params, grads, updates)
    if watch_gradients:
        layers["gradients"] = grads
    return new.replace(step=state.step + 1), sums, layers


def _gradients(
    loss_fn: Callable, state: TrainState, examples: Batch, key: jax.Array, parts: int
) -> tuple[Any, Any, Sums]:
    """The gradients and metric sums of a share, added up over its parts, and the last statistics.

    Args:
      loss_fn: (params, batch_stats, part, key) -> (loss, (batch_stats, sums)).
      state: of which the gradients are taken.
      examples: the share, [B, ...].
      key: divided among the parts.
      parts: each has B / parts examples.
    """
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if parts == 1:
        grads, (batch_stats, sums) = grad_fn(state.params, state.batch_stats, examples, key)
        return grads, batch_stats, sums

    def add_part(carry: tuple[Any, Any, Sums], part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        grads, batch_stats, sums = carry
        more_grads, (batch_stats, more_sums) = grad_fn(state.params, batch_stats, *part)
        grads, sums = jax.tree.map(jnp.add, (grads, sums), (more_grads, more_sums))
        return (grads, batch_stats, sums), None

    examples = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), examples)
    no_grads = jax.tree.map(jnp.zeros_like, state.params)
    no_sums = dict.fromkeys(("count", "loss", "correct"), jnp.zeros(()))
    carry, _ = lax.scan(
        add_part,
        (no_grads, state.batch_stats, no_sums),
        (examples, jax.random.split(key, parts)),
        # No loop on a CPU, where the turns are few and long.
        unroll=parts if jax.default_backend() == "cpu" else 1,
    )
    return carry


def augment_key(seed: int, step: jax.Array) -> jax.Array:
    """Returns the key that augments the batch of a step, the same on all devices."""
    return step_key(seed, step, "augment")


def _moving_average(
    ema: Variables, variables: Variables, step: jax.Array, decay: float
) -> Variables:
    """Exponential moving averages of the weights and the batch statistics.

    Polyak and Juditsky 1992; the decay is at most (1 + t) / (10 + t), so that the first steps do
    not last, as in TensorFlow's ExponentialMovingAverage.
    """
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, variables)


def eval_step(
    variables: Variables,
    batch: Batch,
    *,
    model: nn.Module,
    preprocess: Callable[[jax.Array], jax.Array],
    axis_name: str,
    flip: bool = False,
    shift: int = 0,
) -> Sums:
    """Returns the metric sums over the real examples of a whole batch.

    Args:
      variables, batch, model, preprocess, flip, shift: see `predict_step`.
      axis_name: device axis, over which sums are added.
    """
    logits = predict_step(
        variables, batch, model=model, preprocess=preprocess, flip=flip, shift=shift
    )
    return lax.psum(evaluation_sums(logits, batch["label"], batch["mask"]), axis_name)


def predict_step(
    variables: Variables,
    batch: Batch,
    *,
    model: nn.Module,
    preprocess: Callable[[jax.Array], jax.Array],
    flip: bool = False,
    shift: int = 0,
) -> jax.Array:
    """Returns the float32 logits [B, classes] of a device's share of a batch.

    Args:
      variables: `params` and `batch_stats`, the same on all devices.
      batch: see `train_step`.
      model: of the variables.
      preprocess: uint8 images -> float images.
      flip, shift: of the copies whose predictions are averaged, see `averaged_logits`.
    """
    images = preprocess(batch["image"])
    return averaged_logits(
        lambda images: model.apply(variables, images, train=False), images, flip, shift
    )


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
