"""The train, eval and predict steps: pure functions of one device's share of a batch.

Each step averages or sums over the device axis itself; `devices` maps it over the devices.
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

from jaxcifar.augment.pipeline import Augment
from jaxcifar.augment.test_time import averaged_logits
from jaxcifar.data.split import Batch
from jaxcifar.data.streams import step_key
from jaxcifar.kernels import backend
from jaxcifar.metrics import Sums, batch_sums, evaluation_sums
from jaxcifar.metrics.layer_statistics import layer_statistics
from jaxcifar.optim.finite import all_finite
from jaxcifar.optim.loss_scale import LossScale
from jaxcifar.selection import Selector, SelectorState

Variables = dict[str, Any]


@struct.dataclass
class TrainState:
    """Everything that training updates.

    Arrays only: no functions and no PRNG keys. The step is the only position in the data.

    Attributes:
      step: number of batches seen, int32.
      params: trainable parameters, float32.
      batch_stats: running means and variances of the BatchNorm layers, float32.
      opt_state: state of the optimizer.
      ema: moving averages of `params` and `batch_stats` under these names; {} if there are none.
      loss_scale: scale of a float16 loss; None in other precisions.
      selector: state of the network that picks examples; None if all are trained on.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Variables
    loss_scale: LossScale | None
    selector: SelectorState | None = None

    def variables(self) -> Variables:
        """Returns the collections that the model is applied to."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """Makes one update from one device's share of a batch; call it with a state and a batch.

    Attributes:
      model: network to train.
      optimizer: see `optimizers.create_optimizer`.
      learning_rate: function of the step.
      augment: see `augment.pipeline.create_augment`.
      seed: seed of the augmentation and the dropout, which also depend on the step.
      axis_name: device axis over which gradients and batch statistics are averaged.
      accumulation_steps: parts into which the share is divided. Their gradients are added up, and
        each part normalises by its own batch statistics.
      ema_decay: decay of the moving average, see `_moving_average`.
      skip_nonfinite: whether an update with non-finite numbers is left out as a whole.
      with_statistics: whether to return the layers' statistics.
      with_gradients: whether to return the gradients.
      selector: picks the examples that are trained on; None if all are.
    """

    model: nn.Module
    optimizer: optax.GradientTransformationExtraArgs
    learning_rate: optax.Schedule
    augment: Augment
    seed: int | jax.Array
    axis_name: str
    accumulation_steps: int = 1
    ema_decay: float | jax.Array = 0.0
    skip_nonfinite: bool = False
    with_statistics: bool = False
    with_gradients: bool = False
    selector: Selector | None = None

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Sums, dict[str, Any]]:
        """Returns the next state, the metric sums and the requested values of the layers.

        Args:
          state: the same on all devices.
          batch: image uint8 [B, H, W, C], label int32 [B], mask bool [B]; and, where images may
            be skipped, replaced bool [B], True where the slot shows another image instead.

        Returns:
          state: the next state, the same on all devices.
          sums: metric sums over the examples trained on, computed before the update;
            `skipped`, the number of padding examples and of replaced ones; and
            `nonfinite`, float32: 1 if the loss or the next state is not finite, else 0. It is also
            0 if the update was left out because of a loss scale that can still be halved; where
            there is a loss scale, `left_out` is 1 then.
          layers: `statistics` (see `layer_statistics`) and `gradients`, if requested.
        """
        examples, dropout_key = self._augmented(state.step, batch)
        examples, selector = self._selected(state, examples, dropout_key)
        grads, batch_stats, sums = self._gradients(state, examples, dropout_key)
        if "replaced" in batch:
            replaced = jnp.sum(batch["replaced"], dtype=jnp.float32)
            sums["skipped"] += lax.psum(replaced, self.axis_name)
        new, updates = self._updated(state, grads, batch_stats)
        new = new.replace(selector=selector)
        new, checks = self._without_nonfinite(state, new, grads, sums["loss"])
        sums |= checks
        layers = {}
        if self.with_statistics:
            layers["statistics"] = layer_statistics(state.params, grads, updates)
        if self.with_gradients:
            layers["gradients"] = grads
        return new.replace(step=state.step + 1), sums, layers

    def _augmented(self, step: jax.Array, batch: Batch) -> tuple[Batch, jax.Array]:
        """The device's share, augmented, and the key of its dropout."""
        device = lax.axis_index(self.axis_name)
        key = augment_key(self.seed, step)
        images, targets = self.augment(key, device, batch["image"], batch["label"], batch["mask"])
        dropout_key = jax.random.fold_in(step_key(self.seed, step, "dropout"), device)
        examples = {"image": images, "label": batch["label"], "mask": batch["mask"]}
        if targets is not None:
            examples["target"] = targets
        return examples, dropout_key

    def _selected(
        self, state: TrainState, examples: Batch, dropout_key: jax.Array
    ) -> tuple[Batch, SelectorState | None]:
        """The examples that are trained on, and the selector's state after its update."""
        if self.selector is None:
            return examples, None
        return self.selector(
            state.selector,
            examples,
            learning_rate=self.learning_rate(state.step),
            step=state.step,
            key=dropout_key,
        )

    def _gradients(
        self, state: TrainState, examples: Batch, dropout_key: jax.Array
    ) -> tuple[Any, Any, Sums]:
        """Gradients of the mean loss over the whole batch, batch statistics and metric sums."""
        size = len(examples["image"]) // self.accumulation_steps
        loss_scale = state.loss_scale.scale if state.loss_scale is not None else 1.0

        def loss_fn(
            params: Any, batch_stats: Any, part: Batch, key: jax.Array
        ) -> tuple[jax.Array, Any]:
            logits, updates = self.model.apply(
                {"params": params, "batch_stats": batch_stats},
                part["image"],
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            sums = batch_sums(logits, part["label"], part["mask"], part.get("target"))
            return loss_scale * sums["loss"] / size, (updates.get("batch_stats", {}), sums)

        grads, batch_stats, sums = _accumulated_gradients(
            loss_fn, state, examples, dropout_key, self.accumulation_steps
        )
        grads, batch_stats = lax.pmean((grads, batch_stats), self.axis_name)
        sums = lax.psum(sums, self.axis_name)
        slots = len(examples["image"]) * lax.axis_size(self.axis_name)
        sums["skipped"] = slots - sums["count"]
        # Padding examples have no loss, so the mean is over the others.
        factor = slots / jnp.maximum(sums["count"], 1) / (loss_scale * self.accumulation_steps)
        return jax.tree.map(lambda grad: grad * factor, grads), batch_stats, sums

    def _updated(self, state: TrainState, grads: Any, batch_stats: Any) -> tuple[TrainState, Any]:
        """The state after the update, and the update itself."""
        updates, opt_state = self.optimizer.update(
            grads,
            state.opt_state,
            state.params,
            learning_rate=self.learning_rate(state.step),
            step=state.step,
        )
        params = optax.apply_updates(state.params, updates)
        new = state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
        if state.ema:
            ema = _moving_average(state.ema, new.variables(), state.step, self.ema_decay)
            new = new.replace(ema=ema)
        return new, updates

    def _without_nonfinite(
        self, state: TrainState, new: TrainState, grads: Any, loss: jax.Array
    ) -> tuple[TrainState, Sums]:
        """The new state, or the old one if the new one is not finite, and the sums about that."""
        # A non-finite gradient makes the optimizer's state or the parameters non-finite.
        finite = all_finite((loss, new))
        overflow = jnp.bool_(False)
        checks = {}
        if self.skip_nonfinite or state.loss_scale is not None:
            new = jax.tree.map(partial(jnp.where, finite), new, state)
        if state.loss_scale is not None:
            finite_grads = all_finite(grads)
            overflow = ~finite_grads & state.loss_scale.can_shrink()
            new = new.replace(loss_scale=state.loss_scale.update(finite_grads))
            checks["left_out"] = overflow.astype(jnp.float32)
        return new, checks | {"nonfinite": (~finite & ~overflow).astype(jnp.float32)}


def _accumulated_gradients(
    loss_fn: Callable, state: TrainState, examples: Batch, key: jax.Array, parts: int
) -> tuple[Any, Any, Sums]:
    """Gradients and metric sums, added up over a share's parts, and the final batch statistics.

    Args:
      loss_fn: (params, batch_stats, part, key) -> (loss, (batch_stats, sums)).
      state: holds the parameters and batch statistics to start from.
      examples: the device's share, [B, ...].
      key: dropout key, split among the parts.
      parts: number of parts, each of B / parts examples.
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
        # Unrolled on a CPU, where iterations are few and long.
        unroll=parts if backend.is_cpu() else 1,
    )
    return carry


def augment_key(seed: int | jax.Array, step: jax.Array) -> jax.Array:
    """Returns the key for augmenting the batch of a step, the same on all devices."""
    return step_key(seed, step, "augment")


def _moving_average(
    ema: Variables, variables: Variables, step: jax.Array, decay: float | jax.Array
) -> Variables:
    """Exponential moving averages of the weights and the batch statistics.

    Polyak and Juditsky 1992. The decay is at most (1 + t) / (10 + t), so that the first steps are
    soon forgotten, as in TensorFlow's ExponentialMovingAverage.
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
    views: str = "corners",
) -> Sums:
    """Returns the metric sums over the real examples of a whole batch.

    Args:
      variables, batch, model, preprocess, flip, shift, views: see `predict_step`.
      axis_name: device axis over which the sums are added.
    """
    logits = predict_step(
        variables,
        batch,
        model=model,
        preprocess=preprocess,
        flip=flip,
        shift=shift,
        views=views,
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
    views: str = "corners",
) -> jax.Array:
    """Returns the float32 logits [B, classes] of a device's share of a batch.

    Args:
      variables: `params` and `batch_stats`, the same on all devices.
      batch: see `TrainStep.__call__`.
      model: network to apply.
      preprocess: uint8 images -> float images.
      flip, shift, views: test-time views whose predictions are averaged, see `averaged_logits`.
    """
    images = preprocess(batch["image"])
    return averaged_logits(
        lambda images: model.apply(variables, images, train=False), images, flip, shift, views
    )
