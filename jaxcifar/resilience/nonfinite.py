"""NaN and infinity in training: found in the compiled step, kept from the disk, and undone.

The step counts itself in its sums' `nonfinite`, see `steps.train_step`, and the loop looks at that
before it saves. A rollback is a kill and a new start with one line more in the manifest: from the
step of the last checkpoint on, the learning rate is multiplied by a factor. So it ends with the
same bits wherever it is interrupted.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxcifar import devices
from jaxcifar.errors import InputError
from jaxcifar.metrics.layer_statistics import first, layer_of
from jaxcifar.resilience.manifest import read, update


class NonFinite(InputError):
    """A step's numbers are not finite.

    Attributes:
      step: the number of updates made, with this one.
      reason: what is not finite.
    """

    def __init__(self, step: int, reason: str, advice: str = ""):
        super().__init__(f"step {step:,}: {reason}{advice}")
        self.step, self.reason = step, reason


def check_steps(
    config: ConfigDict,
    first_step: int,
    sums: list[dict[str, Any]],
    skipped: int,
    state: Any,
) -> None:
    """Refuses steps with numbers that are not finite, unless they were skipped and are not many.

    Args:
      config: see `config.default`.
      first_step: the number of updates before the first of the steps.
      sums: of each step, fetched.
      skipped: steps that were left out before.
      state: the state after them, on the devices.

    Raises:
      NonFinite: for the first of them, with the layers that are not finite now.
    """
    for step, values in enumerate(sums, first_step + 1):
        if not values["nonfinite"]:
            continue
        skipped += 1
        if config.train.on_nonfinite != "skip":
            reason = f"not finite, with a loss of {values['loss'] / values['count']:.4g}"
            trouble = describe(devices.fetch(state))
            raise NonFinite(step, "; ".join([reason, *trouble]))
        if skipped > config.train.nonfinite_limit:
            raise NonFinite(
                step,
                f"not finite, as {skipped - 1} were before, and "
                f"train.nonfinite_limit = {config.train.nonfinite_limit}",
            )


def check_state(step: int, state: Any) -> None:
    """Raises a NonFinite if a fetched state, to be saved after `step` updates, is not finite."""
    if trouble := describe(state):
        raise NonFinite(step, "; ".join(["the state is not finite", *trouble]))


def describe(state: Any) -> list[str]:
    """Returns the layers with NaN or infinity in each part of a fetched `TrainState`."""
    found = []
    for name in "params", "batch_stats", "opt_state", "ema", "loss_scale":
        layers: dict[str, bool] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(state, name)):
            layer = layer_of(path)
            layers[layer] = layers.get(layer, False) or not np.isfinite(leaf).all()
        if troubled := [layer for layer, bad in layers.items() if bad]:
            found.append(f"{name} in {len(troubled)} of {len(layers)} layers: {first(troubled)}")
    return found


def rate_factors(workdir: Path) -> list[tuple[int, float]]:
    """Returns what the run's rollbacks made of its learning rate, see `schedules.lowered`."""
    return [(back["to_step"], back["rate_factor"]) for back in read(workdir).get("rollbacks", ())]


def roll_back(
    config: ConfigDict,
    workdir: Path,
    before: list[tuple[int, float]],
    error: NonFinite,
    saved: int,
) -> list[tuple[int, float]]:
    """Records a rollback, unless it must not be, and returns the learning rate's factors with it.

    Args:
      config: see `config.default`.
      workdir: of the run.
      before: the factors so far.
      error: what made it necessary.
      saved: the step of the newest checkpoint; -1 if there is none.

    Raises:
      NonFinite: if the config wants no rollback, or no more of them.
    """
    train = config.train
    if train.on_nonfinite != "rollback" or len(before) >= train.nonfinite_limit:
        good = workdir / "checkpoints" / str(saved) if saved >= 0 else "none"
        backs = f" after {len(before)} rollbacks" if before else ""
        raise NonFinite(
            error.step,
            error.reason,
            f"\nThe run ends{backs}; last good checkpoint: {good}\n"
            "A lower optimizer.learning_rate or a clip_global_norm may help, or train.on_nonfinite "
            "= 'skip' or\n'rollback'; --accept_config_change goes on from there with them.",
        ) from error
    to_step = max(saved, 0)
    if jax.process_index() == 0:
        print(f"warning: {error}\nback to step {to_step:,}, with a lower rate", flush=True)
        rollback = {
            "step": error.step,
            "to_step": to_step,
            "rate_factor": train.rollback_factor,
            "reason": error.reason,
        }
        update(workdir, rollbacks=[*read(workdir).get("rollbacks", ()), rollback])
    return [*before, (to_step, train.rollback_factor)]
