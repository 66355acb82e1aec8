"""Durations of a config in steps, and what is due at a step.

Durations come in pairs of fields, `..._steps` and `..._epochs`, of which at most one is set. An
epoch is one pass over the training split, `train_size / batch_size` steps, which need not be an
integer.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxcifar.config.rules import get
from jaxcifar.errors import InputError

_MAX_STEPS = 2**31 - 1  # the state counts steps in 32 bits


class Due(NamedTuple):
    """What is to be done after a step."""

    log: bool
    layer_stats: bool
    evaluate: bool
    save: bool


@dataclasses.dataclass(frozen=True)
class Durations:
    """The durations of a run in steps; 0 means never.

    Those that the schedule repeats may have fractions, as rounding each repetition would make them
    drift away from the epochs.

    Attributes:
      num_steps: length of the run.
      steps_per_epoch: batches per pass over the training split, with a fraction.
      milestones: steps at which a multistep schedule drops.
      warmup_steps: length of the warm-up.
      step_every: interval between the drops of a step schedule.
      cycle: length of the first cycle of warm restarts.
      restart: interval after which the whole schedule starts again.
      schedule_length: length of the schedule, which is the run's unless it restarts.
      eval_every: interval between evaluations.
      checkpoint_every: interval between checkpoints.
      keep_every: interval between checkpoints that are kept for good.
      log_every: interval between log lines.
      layer_stats_every: interval between statistics of the layers.
    """

    num_steps: int
    steps_per_epoch: float
    milestones: tuple[int, ...]
    warmup_steps: int
    step_every: float
    cycle: float
    restart: float
    schedule_length: int
    eval_every: int
    checkpoint_every: int
    keep_every: int
    log_every: int
    layer_stats_every: int

    def due(self, step: int) -> Due:
        """Returns what is to be done once `step` updates have been made."""
        last = step == self.num_steps

        def is_due(*intervals: int) -> bool:
            return any(interval and step % interval == 0 for interval in intervals)

        return Due(
            log=last or is_due(self.log_every),
            layer_stats=is_due(self.layer_stats_every),
            evaluate=last or is_due(self.eval_every),
            save=last or is_due(self.checkpoint_every, self.keep_every),
        )

    def next_due(self, step: int) -> int:
        """Returns the next step after which something is to be done."""
        intervals = (
            self.log_every,
            self.layer_stats_every,
            self.eval_every,
            self.checkpoint_every,
            self.keep_every,
        )
        steps = [(step // interval + 1) * interval for interval in intervals if interval]
        return min(*steps, self.num_steps)


def durations(config: ConfigDict, train_size: int) -> Durations:
    """Returns the durations of a config for `train_size` training images.

    Raises:
      InputError: if a milestone, the first drop or the warm-up lies beyond the end of the schedule,
        or a duration has more steps than can be counted.
    """
    steps_per_epoch = train_size / config.train.batch_size
    period = partial(_period, config, steps_per_epoch)
    num_steps, restart = round(period("train.num")), period("schedule.restart")
    schedule = config.schedule
    result = Durations(
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        milestones=tuple(schedule.milestones_steps)
        or tuple(round(e * steps_per_epoch) for e in schedule.milestones_epochs),
        warmup_steps=round(period("schedule.warmup")),
        step_every=period("schedule.step_every"),
        cycle=period("schedule.cycle"),
        restart=restart,
        schedule_length=round(restart) or num_steps,
        eval_every=round(period("eval.every", default_epochs=1)),
        checkpoint_every=round(period("checkpoint.every", default_epochs=1)),
        keep_every=round(period("checkpoint.keep_every")),
        log_every=round(period("log.every")) or 100,
        layer_stats_every=round(period("log.layer_stats_every")),
    )
    _check_ends(result)
    return result


def _period(
    config: ConfigDict, steps_per_epoch: float, path: str, default_epochs: float = 0.0
) -> float:
    """A duration in steps, with a fraction; at least one step if it is set at all."""
    steps = get(config, f"{path}_steps")
    epochs = get(config, f"{path}_epochs") or default_epochs
    if not steps and epochs:
        steps = max(1.0, epochs * steps_per_epoch)
    if round(steps) > _MAX_STEPS:
        raise InputError(
            f"{path}_steps or _epochs = {steps:.0f} steps: must be at most {_MAX_STEPS}"
        )
    return steps


def _check_ends(durations: Durations) -> None:
    ends = {
        "milestones": max(durations.milestones, default=0),
        "step_every": round(durations.step_every),
        "warmup": durations.warmup_steps,
    }
    for name, step in ends.items():
        if step >= durations.schedule_length:
            raise InputError(
                f"schedule.{name}_steps or _epochs: step {step} must come before the end of the "
                f"schedule, step {durations.schedule_length}\nTo shorten a recipe with its "
                "schedule, append a factor to its name instead of setting its length,\n"
                "as in --config=configs/resnet56.py:0.1"
            )
