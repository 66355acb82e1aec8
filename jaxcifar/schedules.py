"""Learning rate schedules: functions of the step, from optax's pieces."""

from collections.abc import Iterable

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

    steps = durations.length - warmup
    if schedule.name == "constant":
        base = optax.constant_schedule(peak)
    elif schedule.name == "step":
        base = optax.exponential_decay(peak, durations.step_every, schedule.gamma, staircase=True)
    elif schedule.name == "multistep":
        base = optax.piecewise_constant_schedule(
            peak, {milestone: schedule.gamma for milestone in durations.milestones}
        )
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
        rise = max(schedule.rise * steps - 1, 1e-9)
        up = shape(schedule.initial_learning_rate, peak, rise)
        down = shape(peak, schedule.final_learning_rate, steps - 1 - rise)
        base = _after(warmup, optax.join_schedules([up, down], [rise]))

    if warmup:
        start = schedule.warmup_learning_rate
        end = peak if schedule.warmup_shape == "linear" else start
        base = _switch(warmup, optax.linear_schedule(start, end, warmup), base)
    if durations.length < durations.num_steps:
        return lambda step: base(step % durations.length)
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


def _warm_restarts(
    peak: float, floor: float, cycle: float, factor: float, steps: int
) -> optax.Schedule:
    """Cosines one after another, each `factor` times as long as the last (SGDR, section 3)."""
    starts, lengths = [0], [round(cycle)]
    while starts[-1] + lengths[-1] < steps:
        starts.append(starts[-1] + lengths[-1])
        cycle *= factor
        lengths.append(round(cycle))
    starts, lengths = np.array(starts, np.int32), np.array(lengths, np.float32)

    def rate(step: jax.Array) -> jax.Array:
        # Looked up, as there may be very many.
        piece = jnp.searchsorted(starts[1:], step, side="right")
        share = (step - jnp.array(starts)[piece]) / jnp.array(lengths)[piece]
        return _cosine(peak, floor, 1)(share)

    return rate


def _after(start: int, schedule: optax.Schedule) -> optax.Schedule:
    return lambda step: schedule(step - start)


def _switch(start: int, before: optax.Schedule, after: optax.Schedule) -> optax.Schedule:
    return lambda step: jnp.where(step < start, before(step), after(step))
