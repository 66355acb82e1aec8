"""The learning-rate range test: the loss while the rate rises exponentially, and what follows.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
"""

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxcifar import devices, metrics
from jaxcifar.config import default, durations
from jaxcifar.config.validation import validate
from jaxcifar.data import datasets
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.split import Split
from jaxcifar.feed import by_step, train_calls
from jaxcifar.program import create_program
from jaxcifar.steps import TrainStep

_SMOOTHING = 0.9  # decay of the moving average of the loss
_DIVERGED = 4.0  # times the first loss
_DIVISOR = 10.0
_MOST_SPREAD = 10.0  # between the rates at which the seeds have their lowest loss


class Curve(NamedTuple):
    """Losses of a range test.

    Attributes:
      rates: the learning rate of each step, [steps].
      losses: training loss of each seed and step, [seeds, steps]; NaN once it has diverged.
    """

    rates: np.ndarray
    losses: np.ndarray

    def smoothed(self) -> np.ndarray:
        """Returns a moving average of each seed's losses, [seeds, steps]."""
        averages = np.empty_like(self.losses)
        average = np.zeros(len(self.losses))
        for step, losses in enumerate(self.losses.T):
            average = _SMOOTHING * average + (1 - _SMOOTHING) * losses
            averages[:, step] = average / (1 - _SMOOTHING ** (step + 1))
        return averages


class Suggestion(NamedTuple):
    """What a range test suggests.

    Attributes:
      rate: the learning rate; None if none can be suggested.
      reason: the rule by which it was chosen, or why there is none.
    """

    rate: float | None
    reason: str


def measure(config: ConfigDict, low: float, high: float, steps: int, seeds: list[int]) -> Curve:
    """Trains with a rate that rises from `low` to `high`, once per seed.

    Args:
      config: see `config.default`; its schedule and length are replaced.
      low: learning rate of the first step.
      high: learning rate of the last step.
      steps: number of steps.
      seeds: seeds of the parameters and the data's order.

    Raises:
      InputError: if the config is invalid.
    """
    config = config.copy_and_resolve_references()
    config.schedule.update(default().schedule)
    config.schedule.name = "constant"
    config.train.num_steps, config.train.num_epochs = steps, 0.0
    validate(config)
    splits = datasets.load(config.dataset)
    losses = np.full((len(seeds), steps), np.nan)
    for row, seed in zip(losses, seeds, strict=True):
        config.train.seed = seed
        found = _train(config, splits["train"], low, high)
        row[: len(found)] = found
    return Curve(low * (high / low) ** (np.arange(steps) / (steps - 1)), losses)


def _train(config: ConfigDict, train: Split | FolderSplit, low: float, high: float) -> list[float]:
    """The losses of a training, up to where it diverges."""
    info, steps = datasets.info(config.dataset), config.train.num_steps
    plan = durations(config, train.size)
    program = create_program(config, info, plan, train_images=getattr(train, "images", None))

    def rate(step: jnp.ndarray) -> jnp.ndarray:
        return low * (high / low) ** (step / (steps - 1))

    assert isinstance(program.train_step, TrainStep)
    program = dataclasses.replace(
        program,
        train_step=dataclasses.replace(program.train_step, learning_rate=rate),
        learning_rate=rate,
    )
    state = devices.replicate(program.create_state())
    losses: list[float] = []
    calls = train_calls(
        config, program, train, first_step=0, num_steps=steps, next_due=lambda _: steps
    )
    for call in calls:
        state, sums, _ = call.run(state)
        for one in by_step(devices.fetch(sums))[: call.num_steps]:
            loss = metrics.summarize(metrics.add({}, one))["loss"]
            if not math.isfinite(loss) or loss > _DIVERGED * (losses or [loss])[0]:
                return losses
            losses.append(loss)
    return losses


def suggest(curve: Curve) -> Suggestion:
    """Returns the learning rate that a curve suggests, or says why it suggests none."""
    smoothed = curve.smoothed()
    kept = ~np.isnan(smoothed).any(axis=0)
    if kept.sum() < 10:
        return Suggestion(None, "the loss diverged within ten steps; lower --low")
    mean = smoothed[:, kept].mean(axis=0)
    lowest = int(mean.argmin())
    noise = float(np.std(np.diff(curve.losses[:, kept].mean(axis=0))))
    if mean[0] - mean[lowest] < max(2 * noise, 0.02 * mean[0]):
        return Suggestion(
            None,
            f"the curve is too noisy: the loss falls by {mean[0] - mean[lowest]:.3g}, and changes "
            f"by {noise:.3g} from step to step; use more --seeds or a larger batch",
        )
    if lowest == len(curve.rates) - 1:
        return Suggestion(None, "the loss still falls at the highest rate; raise --high")
    rates = curve.rates[np.nanargmin(smoothed, axis=1)]
    if rates.max() > _MOST_SPREAD * rates.min():
        return Suggestion(
            None,
            f"the seeds disagree: their losses are lowest at rates from {rates.min():.2g} to "
            f"{rates.max():.2g}; use more --seeds",
        )
    return Suggestion(
        float(curve.rates[lowest] / _DIVISOR),
        f"a tenth of {curve.rates[lowest]:.3g}, where the smoothed loss is lowest",
    )
