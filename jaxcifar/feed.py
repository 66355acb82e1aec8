"""How training batches come to the step: one call of a mapped function after another.

From tf.data a call is one step on one batch. From the device it may be many steps, of which only
the position crosses from the host.
"""

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
from jaxcifar.data.datasets import Split
from jaxcifar.data.device_pipeline import Position, Resident
from jaxcifar.kernels.kernel_order import outputs_first, outputs_last
from jaxcifar.metrics import Sums
from jaxcifar.steps import Program, TrainState


class Call(NamedTuple):
    """Some steps at once.

    Attributes:
      steps: their number.
      arguments: what `train_call` takes after the state.
    """

    steps: int
    arguments: tuple[Any, ...]


class Feed(NamedTuple):
    """What the training loop calls.

    Attributes:
      train_call: (state, *arguments) -> (state, sums, layers), mapped over the devices; with the
        sums of each step, see `by_step`, and the layers of the last.
      calls: from the first step to the last. The first is of one step, which compiles; none goes
        beyond a step after which the loop has something to do.
    """

    train_call: Callable[..., tuple[TrainState, Sums, dict[str, Any]]]
    calls: Iterator[Call]


def create_feed(
    config: ConfigDict,
    program: Program,
    split: Any,
    *,
    first_step: int,
    num_steps: int,
    next_due: Callable[[int], int],
) -> Feed:
    """Returns the feed of a training split.

    Args:
      config: see `config.default`.
      program: what it computes.
      split: the training images.
      first_step: the number of steps done before.
      num_steps: the step to end before.
      next_due: step -> the next step after which the loop has something to do.
    """
    if split.on_device:
        return _from_device(config, program, split, first_step, num_steps, next_due)
    batches = train_batches(split, config, first_step=first_step, num_steps=num_steps)
    calls = (Call(1, (batch,)) for batch in devices.prefetch(batches))
    return Feed(devices.map_train_step(program.train_step), calls)


def by_step(sums: Sums) -> list[Sums]:
    """Returns the sums of each step of a call, fetched; those of steps that it left out are 0."""
    rows = {name: np.atleast_1d(value) for name, value in sums.items()}
    return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]


def _from_device(
    config: ConfigDict,
    program: Program,
    split: Split,
    first_step: int,
    num_steps: int,
    next_due: Callable[[int], int],
) -> Feed:
    batch_size = config.train.batch_size
    # On a CPU a call costs little beside its step.
    most = config.train.steps_per_call or (1 if jax.default_backend() == "cpu" else 100)
    # A GPU's loop would copy the state's kernels each turn if they were in another order there.
    reorders = jax.default_backend() != "cpu"
    pack, unpack = (outputs_first, outputs_last) if reorders else (lambda x: x, lambda x: x)
    train_batch = partial(
        device_pipeline.train_batch,
        share=batch_size // jax.device_count(),
        config=config.augment,
        seed=config.train.seed,
    )

    def one_step(
        state: TrainState, resident: Resident, order: jax.Array, position: Position
    ) -> tuple[TrainState, Sums, dict[str, Any]]:
        batch = train_batch(resident, order, position, lax.axis_index(devices.AXIS))
        return program.train_step(state, batch)

    def many_steps(
        state: TrainState,
        resident: Resident,
        order: jax.Array,
        position: Position,
        steps: jax.Array,
    ) -> tuple[TrainState, Sums, dict[str, Any]]:
        _, sums, layers = jax.eval_shape(one_step, state, resident, order, position)
        names = tuple(sums)
        table = jnp.zeros((most, len(names)))
        layers = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), layers)

        def body(index: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            state, table, _ = carry
            here = position._replace(first=position.first + index * batch_size)
            state, sums, layers = one_step(unpack(state), resident, order, here)
            row = jnp.stack([sums[name] for name in names])
            table = lax.dynamic_update_index_in_dim(table, row, index, 0)
            return pack(state), table, layers

        state, table, layers = lax.fori_loop(0, steps, body, (pack(state), table, layers))
        return unpack(state), dict(zip(names, table.T, strict=True)), layers

    def calls() -> Iterator[Call]:
        resident = devices.replicate(device_pipeline.as_resident(split))
        orders = device_pipeline.Order(config.train.seed, split.size, batch_size, most)
        step, placed = first_step, None
        while step < num_steps:
            order, changed, position = orders.at(step)
            if changed:
                placed = devices.replicate(order)
            steps = 1 if step == first_step else min(most, next_due(step) - step)
            yield Call(steps, (resident, placed, position, *([steps] if most > 1 else [])))
            step += steps

    if most > 1:
        return Feed(devices.map_train_step(many_steps, (0, 0, 0, None, None)), calls())
    return Feed(devices.map_train_step(one_step, (0, 0, 0, None)), calls())
