"""Builds one step for several runs that differ only in numbers, and estimates its memory."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxcifar import devices
from jaxcifar.config import Durations
from jaxcifar.config.fields import FIELDS
from jaxcifar.config.rules import get
from jaxcifar.data.device_pipeline import Order, as_resident
from jaxcifar.data.split import DatasetInfo, Split
from jaxcifar.errors import InputError
from jaxcifar.feed import Stacked, Step, compile_steps, steps_per_call
from jaxcifar.program import create_program
from jaxcifar.traced import TRACED, differing, sets_rate, with_numbers

_USABLE = 0.9  # share of the free memory; the rest is for the copies of states that are saved


def stacked(
    configs: Sequence[ConfigDict],
    info: DatasetInfo,
    durations: Durations,
    learning_rates: Sequence[optax.Schedule] | None = None,
) -> Stacked:
    """Returns the step of several runs, whose arguments are the numbers in which they differ.

    Args:
      configs: the config of each; `traced.obstacles` finds none between them.
      info: facts of their data set.
      durations: lengths and intervals of one of them in steps.
      learning_rates: step -> learning rate of each; None if they are the same.
    """
    numbers = {
        path: np.array([get(config, path) for config in configs], _type(path))
        for path in differing(configs)
        if path in TRACED
    }
    rates = None
    if learning_rates:
        steps = jnp.arange(durations.num_steps)
        rates = np.stack([jax.jit(jax.vmap(rate))(steps) for rate in learning_rates])

    def build_step(arguments: tuple[dict[str, jax.Array], Any]) -> tuple[Step, Any]:
        numbers, rates = arguments
        config = with_numbers(configs[0], numbers)
        rate = None if rates is None else lambda step: rates[step]
        program = create_program(config, info, durations, learning_rate=rate)
        return program.train_step, config.train.seed

    return Stacked([config.train.seed for config in configs], (numbers, rates), build_step)


def _type(path: str) -> Any:
    """The type of a field's numbers on the device."""
    if path == "train.seed":
        return np.uint32
    return np.int32 if isinstance(FIELDS[path].default, int) else np.float32


def number_at_once(
    wanted: int, configs: Sequence[ConfigDict], split: Split, info: DatasetInfo, plan: Durations
) -> tuple[int, str]:
    """Returns the number of runs that are trained at once, and a line about their memory.

    Args:
      wanted: number that was asked for; 0 for as many as the free memory holds.
      configs: the config of each run.
      split: the training images.
      info: facts of the data set.
      plan: lengths and intervals of the runs in steps.

    Raises:
      InputError: if the number asked for needs more memory than is free.
    """
    usable = int(_USABLE * devices.free_memory())
    count = min(wanted or len(configs), len(configs))
    needed = memory_needed(configs[:count], split, info, plan) if wanted else 0
    if needed > usable or not wanted:
        one = memory_needed(configs[:1], split, info, plan)
        more = memory_needed(configs[:2], split, info, plan) - one
        fits = max(1, 1 + (usable - one) // max(more, 1))
        if wanted:
            raise InputError(
                f"--vmap={wanted}: {count} runs at once need {needed / 2**30:.2f} GiB, and "
                f"{usable / 2**30:.2f} GiB are free; must be at most {fits}"
            )
        count = min(fits, count)
        needed = one + (count - 1) * more
    return count, f"{count} at once: {needed / 2**30:.2f} of {usable / 2**30:.2f} GiB"


def memory_needed(
    configs: Sequence[ConfigDict], split: Split, info: DatasetInfo, plan: Durations
) -> int:
    """Compiles the step of runs that are trained at once; returns its memory per device in bytes.

    Args:
      configs: the config of each.
      split, info, plan: see `number_at_once`.
    """
    program = create_program(configs[0], info, plan, (), split.images)
    differs = any(map(sets_rate, differing(configs)))
    rates = [program.learning_rate] * len(configs) if differs else None
    runs = stacked(configs, info, plan, rates)
    max_steps = steps_per_call(configs[0])
    step = compile_steps(runs.build_step, configs[0], max_steps, stacked=True)
    batch_size = configs[0].train.batch_size
    order, _, position = Order(0, split.size, batch_size, max_steps).at(0)

    def on_devices(tree: Any, *axes: int) -> Any:
        axes = (jax.local_device_count(), *axes)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), x.dtype), tree)

    count = len(configs)
    shapes = (
        on_devices(jax.eval_shape(program.create_state), count),
        on_devices(runs.numbers),
        on_devices(as_resident(split)),
        on_devices(order, count),
        position,
        np.int32(1),
    )
    return devices.compiled_memory(step, shapes)
