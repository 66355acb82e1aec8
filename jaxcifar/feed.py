"""Feeds batches to the compiled train step, one or many steps per call."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from jaxcifar import devices
from jaxcifar.data import device_pipeline
from jaxcifar.data.batches import train_batches
from jaxcifar.data.device_pipeline import Position, Resident
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.split import Batch, Split
from jaxcifar.kernels import backend
from jaxcifar.kernels.kernel_order import outputs_first, outputs_last
from jaxcifar.metrics import Sums
from jaxcifar.program import Program
from jaxcifar.steps import TrainState

StepResult = tuple[TrainState, Sums, dict[str, Any]]


class Call(NamedTuple):
    """One call of the compiled function, covering one or more steps.

    Attributes:
      num_steps: number of steps.
      run: replicated state -> (state, sums, layers), with the sums of each step, see `by_step`, and
        the layers of the last.
    """

    num_steps: int
    run: Callable[[TrainState], StepResult]


def train_calls(
    config: ConfigDict,
    program: Program,
    split: Split | FolderSplit,
    *,
    first_step: int,
    num_steps: int,
    next_due: Callable[[int], int],
) -> Iterator[Call]:
    """Returns the calls that train on a split, from `first_step` to `num_steps`.

    The first covers one step, and compiles. None goes beyond the next step after which the training
    loop has something to do.

    Args:
      config: see `config.default`.
      program: functions built from the config.
      split: training images.
      first_step: number of steps already trained.
      num_steps: length of the run in steps.
      next_due: step -> the next step after which the loop has something to do.
    """
    if split.on_device:
        return _calls_from_device(config, program, split, first_step, num_steps, next_due)
    return _calls_from_host(config, program, split, first_step, num_steps)


def by_step(sums: Sums) -> list[Sums]:
    """Splits a call's fetched sums by step; those of steps that it did not take are 0."""
    rows = {name: np.atleast_1d(value) for name, value in sums.items()}
    return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]


def _calls_from_host(
    config: ConfigDict,
    program: Program,
    split: Split | FolderSplit,
    first_step: int,
    num_steps: int,
) -> Iterator[Call]:
    """One step per call, on batches that tf.data makes."""
    train_step = devices.map_train_step(program.train_step)
    batches = train_batches(split, config, first_step=first_step, num_steps=num_steps)
    for batch in devices.prefetch(batches):
        yield _call(1, train_step, batch)


def _calls_from_device(
    config: ConfigDict,
    program: Program,
    split: Split,
    first_step: int,
    num_steps: int,
    next_due: Callable[[int], int],
) -> Iterator[Call]:
    """Many steps per call, on a split in device memory; only positions cross from the host."""
    batch_size, seed = config.train.batch_size, config.train.seed
    # On a CPU a call costs little compared with its step.
    max_steps = config.train.steps_per_call or (1 if backend.is_cpu() else 100)
    train_batch = partial(
        device_pipeline.train_batch,
        share=batch_size // jax.device_count(),
        config=config.augment,
        seed=seed,
    )
    run_steps = compile_steps(program.train_step, train_batch, batch_size, max_steps)
    resident = devices.replicate(device_pipeline.as_resident(split))
    orders = device_pipeline.Order(seed, split.size, batch_size, max_steps)
    step, placed = first_step, None
    while step < num_steps:
        order, changed, position = orders.at(step)
        if changed:
            placed = devices.replicate(order)
        steps = 1 if step == first_step else min(max_steps, next_due(step) - step)
        yield _call(steps, run_steps, resident, placed, position, steps)
        step += steps


def _call(num_steps: int, run: Callable[..., StepResult], *arguments: Any) -> Call:
    return Call(num_steps, lambda state: run(state, *arguments))


def compile_steps(
    train_step: Callable[[TrainState, Batch], StepResult],
    train_batch: Callable[..., Batch],
    batch_size: int,
    max_steps: int,
) -> Callable[..., StepResult]:
    """Maps a loop that makes batches and takes a step on each over the devices.

    A single step is a loop of one iteration, since a program without the loop would round some
    results otherwise: the bits of a run do not depend on how its steps are divided into calls.

    Args:
      train_step: see `Program`.
      train_batch: (resident, order, position, device) -> the device's share of a batch.
      batch_size: number of examples per step, over all devices.
      max_steps: most steps per call.

    Returns:
      (state, resident, order, position, num_steps) -> (state, sums, layers), with each sum as
      [max_steps].
    """

    def one_step(
        state: TrainState, resident: Resident, order: jax.Array, position: Position
    ) -> StepResult:
        batch = train_batch(resident, order, position, lax.axis_index(devices.AXIS))
        return train_step(state, batch)

    many_steps = partial(_many_steps, one_step, batch_size, max_steps)
    return devices.map_train_step(many_steps, (0, 0, 0, None, None))


def _many_steps(
    one_step: Callable[..., StepResult],
    batch_size: int,
    max_steps: int,
    state: TrainState,
    resident: Resident,
    order: jax.Array,
    position: Position,
    num_steps: jax.Array,
) -> StepResult:
    """Takes `num_steps` steps in a loop; the sums come as one row per step."""
    # A GPU's loop would copy the state's kernels in each iteration if they were in another order.
    reorders = backend.prefers_outputs_first()
    pack, unpack = (outputs_first, outputs_last) if reorders else (lambda x: x, lambda x: x)
    _, sums, layers = jax.eval_shape(one_step, state, resident, order, position)
    names = tuple(sums)
    table = jnp.zeros((max_steps, len(names)))
    layers = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), layers)

    def body(index: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        state, table, _ = carry
        here = position._replace(first=position.first + index * batch_size)
        state, sums, layers = one_step(unpack(state), resident, order, here)
        row = jnp.stack([sums[name] for name in names])
        table = lax.dynamic_update_index_in_dim(table, row, index, 0)
        return pack(state), table, layers

    state, table, layers = lax.fori_loop(0, num_steps, body, (pack(state), table, layers))
    return unpack(state), dict(zip(names, table.T, strict=True)), layers
