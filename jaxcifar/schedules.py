"""Learning rate schedules: functions of the step, from optax's pieces."""

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxcifar.config import Durations


def create_schedule(config: ConfigDict, durations: Durations) -> optax.Schedule:
    """Returns the function step -> learning rate that `config.schedule` describes.

    The step counts the updates made before, so that the first update uses the rate of step 0 and a
    milestone at step m is first felt by update m + 1. Milestones count from the start of training,
    whether or not it begins with a warm-up.
    """
    peak = config.optimizer.learning_rate
    schedule = config.schedule
    if schedule.name == "constant":
        base = optax.constant_schedule(peak)
    else:
        base = optax.piecewise_constant_schedule(
            peak, {milestone: schedule.gamma for milestone in durations.milestones}
        )
    if not durations.warmup_steps:
        return base

    start = schedule.warmup_learning_rate
    end = peak if schedule.warmup_shape == "linear" else start
    warmup = optax.linear_schedule(start, end, durations.warmup_steps)
    return lambda step: jnp.where(step < durations.warmup_steps, warmup(step), base(step))
