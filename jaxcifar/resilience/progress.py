"""Progress: what a run remembers besides its state, saved with every checkpoint."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from jaxcifar import metrics

_CHECKS = ("nonfinite", "left_out")  # sums that are no metrics


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run remembers besides its state.

    Attributes:
      train_sums: metric sums of the training steps since the last log line.
      best_step: step with the best score on the validation split; 0 until there is one.
      best_score: score at `best_step`, higher is better; None until there is one.
      reference_score: score of the last evaluation that counted as an improvement for early
        stopping; None until there is one.
      stale_evaluations: number of consecutive evaluations since then without an improvement.
      skipped_steps: number of updates that were skipped because they were not finite.
    """

    train_sums: dict[str, float] = dataclasses.field(default_factory=dict)
    best_step: int = 0
    best_score: float | None = None
    reference_score: float | None = None
    stale_evaluations: int = 0
    skipped_steps: int = 0

    def add(self, sums: Sequence[Mapping[str, np.ndarray]]) -> "Progress":
        """Returns the progress after further training steps.

        Steps whose loss is not finite are left out of `train_sums`; steps with `nonfinite` set are
        added to `skipped_steps`.

        Args:
          sums: metric sums of each step, see `steps.TrainStep`; added one step at a time, so that
            the result does not depend on where a run was interrupted.
        """
        finite = [
            {name: value for name, value in step.items() if name not in _CHECKS}
            for step in sums
            if np.isfinite(step["loss"])
        ]
        return dataclasses.replace(
            self,
            train_sums=reduce(metrics.add, finite, self.train_sums),
            skipped_steps=self.skipped_steps + sum(int(step["nonfinite"]) for step in sums),
        )

    def evaluated(self, step: int, score: float, min_delta: float) -> "Progress":
        """Returns the progress after an evaluation on the validation split.

        Args:
          step: number of updates made.
          score: higher is better; NaN is never an improvement.
          min_delta: for early stopping, how far a score must exceed `reference_score` to count as
            an improvement.
        """
        changes: dict[str, Any] = {"stale_evaluations": self.stale_evaluations + 1}
        if score > _or_lowest(self.best_score):
            changes |= {"best_step": step, "best_score": score}
        if score > _or_lowest(self.reference_score) + min_delta:
            changes |= {"reference_score": score, "stale_evaluations": 0}
        return dataclasses.replace(self, **changes)


def _or_lowest(score: float | None) -> float:
    return -math.inf if score is None else score
