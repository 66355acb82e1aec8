"""Learning rate schedules: functions of the step, from optax's pieces."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxcifar.config import Durations


def create_schedule(config: ConfigDict, durations: Durations) -> optax.Schedule:
    """Returns the function step -> learning rate that `config.schedule` describes.

    The step counts the updates made before, so that the first update uses the rate of step 0. What
    counts steps (every, milestones, restart) counts from the start of training, whether or not it
    begins with a warm-up; what is a curve (cosine, warm_restarts, one_cycle, triangular) begins
    where the warm-up ends.
    """
    schedule, warmup = config.schedule, durations.warmup_steps
    peak = config.optimizer.learning_rate
    if config.optimizer.learning_rate_batch_size:
        peak *= config.train.batch_size / config.optimizer.learning_rate_batch_size

    steps = durations.schedule_length - warmup
    if schedule.name == "constant":
        base = optax.constant_schedule(peak)
    elif schedule.name == "step":
        starts, _ = _pieces(durations.step_every, 1, durations.schedule_length)
        base = _drops(peak, schedule.gamma, starts[1:])
    elif schedule.name == "multistep":
        base = _drops(peak, schedule.gamma, durations.milestones)
    elif schedule.name == "cosine":
        base = _after(warmup, _cosine(peak, schedule.final_learning_rate, steps))
    elif schedule.name == "warm_restarts":
        base = _after(
            warmup,
            _warm_restarts(
                peak, schedule.final_learning_rate, durations.cycle, schedule.cycle_factor, steps
            ),
        )
    else:
        shape = _cosine if schedule.name == "one_cycle" else optax.linear_schedule
        # Both ends are reached, by the first and the last update, as in PyTorch's OneCycleLR.
        rise = max(schedule.rise_fraction * steps - 1, 1e-9)
        up = shape(schedule.initial_learning_rate, peak, rise)
        down = shape(peak, schedule.final_learning_rate, steps - 1 - rise)
        base = _after(warmup, optax.join_schedules([up, down], [rise]))

    if warmup:
        start = schedule.warmup_learning_rate
        end = peak if schedule.warmup_shape == "linear" else start
        base = _switch(warmup, optax.linear_schedule(start, end, warmup), base)
    if durations.schedule_length < durations.num_steps:
        starts, _ = _pieces(durations.restart, 1, durations.num_steps)
        return lambda step: base(step - jnp.array(starts)[_passed(starts[1:], step)])
    return base


def lowered(base: optax.Schedule, factors: Iterable[tuple[int, float]]) -> optax.Schedule:
    """Returns a schedule times, from each pair's step on, the pair's factor."""
    factors = tuple(factors)
    if not factors:
        return base

    def rate(step: jax.Array) -> jax.Array:
        value = base(step)
        for first, factor in factors:
            value = jnp.where(step >= first, value * factor, value)
        return value

    return rate


def _cosine(start: float, end: float, steps: float) -> optax.Schedule:
    """Half a wave from start to end (Loshchilov and Hutter 2017, "SGDR", equation 5)."""

    def rate(step: jax.Array) -> jax.Array:
        share = jnp.clip(step / steps, 0, 1)
        return end + (start - end) * (1 + jnp.cos(jnp.pi * share)) / 2

    return rate


def _drops(start: float, factor: float, steps: Sequence[int]) -> optax.Schedule:
    """A constant that is multiplied by `factor` at each of the steps."""
    return lambda step: start * jnp.float32(factor) ** _passed(steps, step)


def _warm_restarts(
    peak: float, floor: float, cycle: float, factor: float, steps: int
) -> optax.Schedule:
    """Cosines one after another, each `factor` times as long as the last (SGDR, section 3)."""
    starts, lengths = _pieces(cycle, factor, steps)

    def rate(step: jax.Array) -> jax.Array:
        piece = _passed(starts[1:], step)
        share = (step - jnp.array(starts)[piece]) / jnp.array(lengths, jnp.float32)[piece]
        return _cosine(peak, floor, 1)(share)

    return rate


def _pieces(length: float, factor: float, steps: int) -> tuple[list[int], list[int]]:
    """Divides steps into pieces, each `factor` times as long as the one before.

    Returns:
      Where they start, and their lengths, of which the last may go beyond `steps`.
    """
    end, bounds = length, [0, round(length)]
    while bounds[-1] < steps:
        length *= factor
        end += length
        bounds.append(round(end))
    return bounds[:-1], [end - start for start, end in pairwise(bounds)]


def _passed(bounds: Sequence[int], step: jax.Array) -> jax.Array:
    """How many of the rising bounds a step has reached; looked up, as there may be very many."""
    # Without a loop, which on a GPU would be launches of its own within each step.
    return jnp.searchsorted(np.array(bounds, np.int32), step, side="right", method="scan_unrolled")


def _after(start: int, schedule: optax.Schedule) -> optax.Schedule:
    return lambda step: schedule(step - start)


def _switch(start: int, before: optax.Schedule, after: optax.Schedule) -> optax.Schedule:
    return lambda step: jnp.where(step < start, before(step), after(step))
