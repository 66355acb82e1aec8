"""Feeds batches to the compiled train step, one or many steps per call."""

from collections.abc import Callable, Iterator, Sequence
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
Step = Callable[[TrainState, Batch], StepResult]


class Call(NamedTuple):
    """One call of the compiled function, covering one or more steps.

    Attributes:
      num_steps: number of steps.
      run: replicated state -> (state, sums, layers), with the sums of each step, see `by_step`, and
        the layers of the last.
    """

    num_steps: int
    run: Callable[[TrainState], StepResult]


class Stacked(NamedTuple):
    """Runs that one program trains, each with a row of every array of the state.

    Attributes:
      seeds: the seed of each.
      numbers: the arguments of their steps, a tree of arrays with a row per run.
      build_step: arguments of one run -> its step, see `Program`, and its seed.
    """

    seeds: Sequence[int]
    numbers: Any
    build_step: Callable[[Any], tuple[Step, int | jax.Array]]


def train_calls(
    config: ConfigDict,
    program: Program,
    split: Split | FolderSplit,
    *,
    first_step: int,
    num_steps: int,
    next_due: Callable[[int], int],
    stacked: Stacked | None = None,
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
      stacked: the runs that are trained at once, on a split in device memory; None for a single
        one. Their state, sums and layers have an axis for the runs, behind that of the devices.
    """
    if split.on_device:
        return _calls_from_device(config, program, split, first_step, num_steps, next_due, stacked)
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
    stacked: Stacked | None,
) -> Iterator[Call]:
    """Many steps per call, on a split in device memory; only positions cross from the host."""
    batch_size = config.train.batch_size
    max_steps = steps_per_call(config)
    if stacked:
        build_step, numbers = stacked.build_step, devices.replicate(stacked.numbers)
    else:
        build_step, numbers = (lambda _: (program.train_step, config.train.seed)), {}
    run_steps = compile_steps(build_step, config, max_steps, stacked=stacked is not None)
    resident = devices.replicate(device_pipeline.as_resident(split))
    seeds = stacked.seeds if stacked else [config.train.seed]
    orders = [device_pipeline.Order(seed, split.size, batch_size, max_steps) for seed in seeds]
    step, placed = first_step, None
    while step < num_steps:
        found = [order.at(step) for order in orders]
        order, changed, position = found[0]
        if changed:
            rows = jnp.stack([order for order, *_ in found]) if stacked else order
            placed = devices.replicate(rows)
        steps = 1 if step == first_step else min(max_steps, next_due(step) - step)
        yield _call(steps, run_steps, numbers, resident, placed, position, steps)
        step += steps


def steps_per_call(config: ConfigDict) -> int:
    """Returns the most steps that a call on a split in device memory covers."""
    # On a CPU a call costs little compared with its step.
    return config.train.steps_per_call or (1 if backend.is_cpu() else 100)


def _call(num_steps: int, run: Callable[..., StepResult], *arguments: Any) -> Call:
    return Call(num_steps, lambda state: run(state, *arguments))


def compile_steps(
    build_step: Callable[[Any], tuple[Step, int | jax.Array]],
    config: ConfigDict,
    max_steps: int,
    *,
    stacked: bool = False,
) -> Callable[..., StepResult]:
    """Maps a loop that makes batches and takes a step on each over the devices.

    A single step is a loop of one iteration, since a program without the loop would round some
    results otherwise: the bits of a run do not depend on how its steps are divided into calls.

    Args:
      build_step: numbers that are arguments of the step -> the step, see `Program`, and the seed.
      config: see `config.default`.
      max_steps: most steps per call.
      stacked: whether there are several runs, with a row each in the state, numbers and order.

    Returns:
      (state, numbers, resident, order, position, num_steps) -> (state, sums, layers), with each sum
      as [max_steps, ...].
    """
    batch_size = config.train.batch_size
    share = batch_size // jax.device_count()

    def one_step(
        state: TrainState, numbers: Any, resident: Resident, order: jax.Array, position: Position
    ) -> StepResult:
        train_step, seed = build_step(numbers)
        batch = device_pipeline.train_batch(
            resident,
            order,
            position,
            lax.axis_index(devices.AXIS),
            share=share,
            config=config.augment,
            seed=seed,
        )
        return train_step(state, batch)

    # A GPU's loop would copy the state's kernels in each iteration if they were in another order.
    reorders = backend.prefers_outputs_first()
    pack, unpack = (outputs_first, outputs_last) if reorders else (lambda x: x, lambda x: x)
    if stacked:
        one_step = for_each_run(one_step)
        pack, unpack = jax.vmap(pack), jax.vmap(unpack)
    many_steps = partial(_many_steps, one_step, pack, unpack, batch_size, max_steps)
    return devices.map_train_step(many_steps, (0, 0, 0, 0, None, None))


def for_each_run(one_step: Callable[..., StepResult]) -> Callable[..., StepResult]:
    """Returns a step of several runs, see `compile_steps`, made of the step of one."""
    if not backend.is_cpu():
        return jax.vmap(one_step, (0, 0, None, 0, None))

    # A CPU is busy with one run already. One after the other needs less memory, and its caches.
    def in_turn(
        state: TrainState, numbers: Any, resident: Resident, order: jax.Array, position: Position
    ) -> StepResult:
        return lax.map(
            lambda row: one_step(row[0], row[1], resident, row[2], position),
            (state, numbers, order),
        )

    return in_turn


def _many_steps(
    one_step: Callable[..., StepResult],
    pack: Callable[[TrainState], TrainState],
    unpack: Callable[[TrainState], TrainState],
    batch_size: int,
    max_steps: int,
    state: TrainState,
    numbers: Any,
    resident: Resident,
    order: jax.Array,
    position: Position,
    num_steps: jax.Array,
) -> StepResult:
    """Takes `num_steps` steps in a loop; the sums come as one row per step."""
    _, sums, layers = jax.eval_shape(one_step, state, numbers, resident, order, position)
    names = tuple(sums)
    table = jnp.zeros((max_steps, len(names), *sums["loss"].shape))
    layers = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), layers)

    def body(index: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        state, table, _ = carry
        here = position._replace(first=position.first + index * batch_size)
        state, sums, layers = one_step(unpack(state), numbers, resident, order, here)
        row = jnp.stack([sums[name] for name in names])
        table = lax.dynamic_update_index_in_dim(table, row, index, 0)
        return pack(state), table, layers

    state, table, layers = lax.fori_loop(0, num_steps, body, (pack(state), table, layers))
    columns = jnp.moveaxis(table, 1, 0)
    return unpack(state), dict(zip(names, columns, strict=True)), layers
