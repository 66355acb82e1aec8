"""Detects NaN and infinity in training, keeps them out of checkpoints, and rolls back.

The compiled step reports itself in `nonfinite` of its metric sums; the training loop checks that
before it saves. A rollback is equivalent to killing the run and starting it again with one more
entry in the manifest: from the step of the last checkpoint on, the learning rate is multiplied by a
factor. The result is therefore bit-for-bit the same wherever the run is interrupted.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxcifar import devices
from jaxcifar.errors import InputError
from jaxcifar.metrics.layer_statistics import layer_of, shorten_names
from jaxcifar.resilience.manifest import read, update

_LONG_ROW = 5  # a loss scale that starts too large is usually found in fewer steps


class NonFinite(InputError):
    """A training step or an evaluation produced NaN or infinity.

    Attributes:
      step: number of updates made, including this one.
      reason: what is not finite.
    """

    def __init__(self, step: int, reason: str, advice: str = ""):
        super().__init__(f"step {step:,}: {reason}{advice}")
        self.step, self.reason = step, reason


class LeftOutRow:
    """Counts updates in a row that were left out because the loss scale was too large."""

    def __init__(self) -> None:
        """Starts with no such update."""
        self._length, self._warn_at = 0, _LONG_ROW
        self._warning = ""

    def add(self, first_step: int, sums: Sequence[Mapping[str, Any]]) -> None:
        """Adds steps.

        Args:
          first_step: number of updates before the first of the steps.
          sums: metric sums of each step, fetched to the host.
        """
        for step, values in enumerate(sums, first_step + 1):
            if not values.get("left_out"):
                self._length, self._warn_at = 0, _LONG_ROW
                continue
            self._length += 1
            if self._length >= self._warn_at:
                self._warning = (
                    f"step {step:,}: {self._length} updates in a row were left out because their "
                    "gradients overflowed"
                )

    def warning(self) -> str:
        """Returns a warning about a long row among the steps added since the last call, or "".

        A row that continues is named again when it is twice as long.
        """
        warning, self._warning = self._warning, ""
        if warning and self._length:
            self._warn_at = 2 * self._length
        return warning


def check_steps(
    train: ConfigDict,
    first_step: int,
    sums: list[dict[str, Any]],
    skipped: int,
    state: Any,
) -> None:
    """Checks that steps were finite or, with `train.on_nonfinite = "skip"`, were skipped.

    Args:
      train: the `train` section of the config.
      first_step: number of updates before the first of the steps.
      sums: metric sums of each step, fetched to the host.
      skipped: number of steps skipped earlier in the run.
      state: state after the last of the steps, on the devices.

    Raises:
      NonFinite: for the first step that is not finite, with the layers that are not finite in
        `state`; or for the first one beyond `train.nonfinite_limit` skipped steps.
    """
    for step, values in enumerate(sums, first_step + 1):
        if not values["nonfinite"]:
            continue
        skipped += 1
        if train.on_nonfinite != "skip":
            reason = f"not finite, with a loss of {values['loss'] / values['count']:.4g}"
            layers = describe(devices.fetch(state))
            raise NonFinite(step, "; ".join([reason, *layers]))
        if skipped > train.nonfinite_limit:
            raise NonFinite(
                step,
                f"not finite again; {skipped - 1} steps were already skipped and "
                f"train.nonfinite_limit = {train.nonfinite_limit}",
            )


def check_evaluation(
    train: ConfigDict, step: int, results: Mapping[str, Mapping[str, float]], *, is_last: bool
) -> str:
    """Checks that an evaluation was finite; only the last one need be if steps are skipped.

    Args:
      train: the `train` section of the config.
      step: number of updates made.
      results: scalar metrics by split.
      is_last: whether the run ends with this evaluation.

    Returns:
      A warning about an evaluation that is passed over, otherwise "".

    Raises:
      NonFinite: naming the splits and the loss.
    """
    bad = [
        f"{name} (loss {scalars['loss']:.4g})" if "loss" in scalars else name
        for name, scalars in results.items()
        if not np.isfinite(list(scalars.values())).all()
    ]
    if not bad:
        return ""
    reason = f"the evaluation is not finite: {', '.join(bad)}"
    if is_last or train.on_nonfinite != "skip":
        raise NonFinite(step, reason)
    return f"step {step:,}: {reason}"


def check_state(step: int, state: Any) -> None:
    """Checks a state, fetched to the host, before it is saved.

    Raises:
      NonFinite: if it contains NaN or infinity, with the layers.
    """
    if layers := describe(state):
        raise NonFinite(step, "; ".join(["the state is not finite", *layers]))


def describe(state: Any) -> list[str]:
    """Returns a line per field of a state that has layers with NaN or infinity.

    Args:
      state: dataclass of trees of NumPy arrays.
    """
    found = []
    for field in dataclasses.fields(state):
        layers: dict[str, bool] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(state, field.name)):
            layer = layer_of(path)
            layers[layer] = layers.get(layer, False) or not np.isfinite(leaf).all()
        if bad := [layer for layer, is_bad in layers.items() if is_bad]:
            found.append(
                f"{field.name} in {len(bad)} of {len(layers)} layers: {shorten_names(bad)}"
            )
    return found


def rate_factors(workdir: Path) -> list[tuple[int, float]]:
    """Returns the learning-rate factors of a run's rollbacks, as (first step, factor) pairs."""
    rollbacks = read(workdir).get("rollbacks", ())
    return [(rollback["to_step"], rollback["rate_factor"]) for rollback in rollbacks]


def roll_back(
    train: ConfigDict,
    workdir: Path,
    factors: list[tuple[int, float]],
    error: NonFinite,
    saved: int,
) -> list[tuple[int, float]]:
    """Records a rollback in the manifest and returns the learning-rate factors including it.

    Args:
      train: the `train` section of the config.
      workdir: directory of the run.
      factors: learning-rate factors so far, see `rate_factors`.
      error: error that caused the rollback.
      saved: step of the newest checkpoint; -1 if there is none.

    Raises:
      NonFinite: if the config allows no rollbacks, or no more of them.
    """
    if train.on_nonfinite != "rollback" or len(factors) >= train.nonfinite_limit:
        last_good = workdir / "checkpoints" / str(saved) if saved >= 0 else "none"
        rollback_note = f" after {len(factors)} rollbacks" if factors else ""
        raise NonFinite(
            error.step,
            error.reason,
            f"\nThe run has stopped{rollback_note}; last good checkpoint: {last_good}\n"
            "Try a lower --config.optimizer.learning_rate, --config.optimizer.clip_global_norm=1,\n"
            "--config.train.on_nonfinite=skip or --config.train.on_nonfinite=rollback; with\n"
            "--accept_config_change the run resumes from that checkpoint with the new config.",
        ) from error
    to_step = max(saved, 0)
    if jax.process_index() == 0:
        print(
            f"warning: {error}\nrolling back to step {to_step:,} with a lower learning rate",
            flush=True,
        )
        rollback = {
            "step": error.step,
            "to_step": to_step,
            "rate_factor": train.rollback_factor,
            "reason": error.reason,
        }
        update(workdir, rollbacks=[*read(workdir).get("rollbacks", ()), rollback])
    return [*factors, (to_step, train.rollback_factor)]
