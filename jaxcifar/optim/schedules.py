"""Learning rate schedules: functions of the step, built from optax's pieces where they fit."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxcifar.config import Durations


def peak_learning_rate(optimizer: ConfigDict, batch_size: int) -> float:
    """Returns `optimizer.learning_rate`, scaled linearly with the batch size if asked for.

    Args:
      optimizer: the `optimizer` section of the config.
      batch_size: number of examples per step, over all devices.
    """
    reference = optimizer.learning_rate_batch_size
    return optimizer.learning_rate * (batch_size / reference if reference else 1)


def create_schedule(schedule: ConfigDict, peak: float, durations: Durations) -> optax.Schedule:
    """Returns the function step -> learning rate that the config describes.

    The step counts the updates made before, so the first update uses the rate of step 0. Intervals
    and milestones count from the start of training, with or without a warm-up; curves (linear,
    cosine, warm_restarts, one_cycle, triangular) begin where the warm-up ends.

    Args:
      schedule: the `schedule` section of the config.
      peak: see `peak_learning_rate`.
      durations: lengths and intervals of the run in steps.
    """
    warmup = durations.warmup_steps
    is_curve = schedule.name in ("linear", "cosine", "warm_restarts", "one_cycle", "triangular")
    if is_curve:
        base = _curve(schedule, peak, durations)
    elif schedule.name == "step":
        starts, _ = _pieces(durations.step_every, 1, durations.schedule_length)
        base = _drops(peak, schedule.gamma, starts[1:])
    elif schedule.name == "multistep":
        base = _drops(peak, schedule.gamma, durations.milestones)
    else:
        base = optax.constant_schedule(peak)

    if warmup:
        start = schedule.warmup_learning_rate
        end = peak if schedule.warmup_shape == "linear" else start
        ramp = optax.linear_schedule(start, end, warmup)
        base = optax.join_schedules([ramp, base if is_curve else _shifted(base, warmup)], [warmup])
    if durations.schedule_length < durations.num_steps:
        starts, _ = _pieces(durations.restart, 1, durations.num_steps)
        return lambda step: base(step - jnp.array(starts)[_num_passed(starts[1:], step)])
    return base


def with_rollback_factors(
    base: optax.Schedule, factors: Iterable[tuple[int, float]]
) -> optax.Schedule:
    """Returns a schedule multiplied by the factor of each (step, factor) pair from that step on."""
    factors = tuple(factors)
    if not factors:
        return base

    def rate(step: jax.Array) -> jax.Array:
        value = base(step)
        for first, factor in factors:
            value = jnp.where(step >= first, value * factor, value)
        return value

    return rate


def _curve(schedule: ConfigDict, peak: float, durations: Durations) -> optax.Schedule:
    """A curve from the end of the warm-up, its step 0, to the end of the schedule."""
    steps = durations.schedule_length - durations.warmup_steps
    end = schedule.final_learning_rate
    if schedule.name == "linear":
        return optax.linear_schedule(peak, end, steps)
    if schedule.name == "cosine":
        return _cosine(peak, end, steps)
    if schedule.name == "warm_restarts":
        return _warm_restarts(peak, end, durations.cycle, schedule.cycle_factor, steps)
    shape = _cosine if schedule.name == "one_cycle" else optax.linear_schedule
    # The first and the last update reach both ends, as in PyTorch's OneCycleLR.
    rise = max(schedule.rise_fraction * steps - 1, 1e-9)
    up = shape(schedule.initial_learning_rate, peak, rise)
    down = shape(peak, end, steps - 1 - rise)
    return optax.join_schedules([up, down], [rise])


def _cosine(start: float, end: float, steps: float) -> optax.Schedule:
    """Half a cosine wave from start to end (Loshchilov and Hutter 2017, "SGDR", equation 5).

    optax.cosine_decay_schedule takes the end as a share of the start, which may be 0 here.
    """

    def rate(step: jax.Array) -> jax.Array:
        share = jnp.clip(step / steps, 0, 1)
        return end + (start - end) * (1 + jnp.cos(jnp.pi * share)) / 2

    return rate


def _drops(start: float, factor: float, steps: Sequence[int]) -> optax.Schedule:
    """A constant that is multiplied by `factor` at each of the steps.

    optax.piecewise_constant_schedule unrolls an operation per drop, of which there can be hundreds.
    """
    return lambda step: start * jnp.float32(factor) ** _num_passed(steps, step)


def _warm_restarts(
    peak: float, floor: float, cycle: float, factor: float, steps: int
) -> optax.Schedule:
    """Consecutive cosines, each `factor` times as long as the one before (SGDR, section 3)."""
    starts, lengths = _pieces(cycle, factor, steps)

    def rate(step: jax.Array) -> jax.Array:
        piece = _num_passed(starts[1:], step)
        share = (step - jnp.array(starts)[piece]) / jnp.array(lengths, jnp.float32)[piece]
        return _cosine(peak, floor, 1)(share)

    return rate


def _pieces(length: float, factor: float, steps: int) -> tuple[list[int], list[int]]:
    """Divides steps into pieces, each `factor` times as long as the one before.

    Returns:
      The first step of each piece, and the lengths, of which the last may reach beyond `steps`.
    """
    end, bounds = length, [0, round(length)]
    while bounds[-1] < steps:
        length *= factor
        end += length
        bounds.append(round(end))
    return bounds[:-1], [end - start for start, end in pairwise(bounds)]


def _num_passed(bounds: Sequence[int], step: jax.Array) -> jax.Array:
    """Number of boundaries at or below `step`; a binary search, because there can be hundreds."""
    # Unrolled, because each iteration of a loop on a GPU launches kernels of its own.
    return jnp.searchsorted(np.array(bounds, np.int32), step, side="right", method="scan_unrolled")


def _shifted(schedule: optax.Schedule, steps: int) -> optax.Schedule:
    """Undoes the shift of `optax.join_schedules`, for a schedule that counts from the start."""
    return lambda step: schedule(step + steps)
