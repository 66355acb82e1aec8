"""Checkpoints by Orbax: the latest, the best, and one every so many steps, written in background.

A checkpoint holds the state of one device, bit for bit, and the run's `Progress` beside it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from jaxcifar import metrics
from jaxcifar.errors import InputError


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run must remember beside its state.

    Attributes:
      train_sums: metric sums since the last log line.
      best_step: the checkpoint with the best score on the validation split; 0 before there is one.
      best_score: its score, of which more is better; None before there is one.
      reference_score: the last score that was an improvement for early stopping.
      stale_evaluations: those in a row since then that were none.
    """

    train_sums: dict[str, float] = dataclasses.field(default_factory=dict)
    best_step: int = 0
    best_score: float | None = None
    reference_score: float | None = None
    stale_evaluations: int = 0

    def add(self, sums: Sequence[Mapping[str, np.ndarray]]) -> "Progress":
        """Returns a progress whose `train_sums` have those of more steps added, one by one."""
        return dataclasses.replace(self, train_sums=reduce(metrics.add, sums, self.train_sums))

    def evaluated(self, step: int, score: float, min_delta: float) -> "Progress":
        """Returns the progress after an evaluation on the validation split.

        Args:
          step: the number of updates made.
          score: more is better; one that is not a number is never an improvement.
          min_delta: for early stopping, only a score above the last improvement's by more is one.
        """
        changes: dict[str, Any] = {"stale_evaluations": self.stale_evaluations + 1}
        if score > _or_lowest(self.best_score):
            changes |= {"best_step": step, "best_score": score}
        if score > _or_lowest(self.reference_score) + min_delta:
            changes |= {"reference_score": score, "stale_evaluations": 0}
        return dataclasses.replace(self, **changes)


def _or_lowest(score: float | None) -> float:
    return -math.inf if score is None else score


class Restored(NamedTuple):
    """A point that a run can go on from: the state after `step` updates, and the progress."""

    step: int
    state: Any
    progress: Progress


class Checkpoints:
    """The checkpoints of one run; a context manager, which waits for the last save as it ends."""

    def __init__(self, directory: Path, *, keep_every: int = 0, create: bool = True):
        """Opens `directory`; nothing in it changes before the first call of a method.

        Args:
          directory: of this run's checkpoints alone.
          keep_every: checkpoints at its multiples are kept for good; 0 for none.
          create: make the directory if it is missing.

        Raises:
          InputError: if it is not a directory.
        """
        if directory.exists() and not directory.is_dir():
            raise InputError(f"{directory} is not a directory")
        self._directory = directory
        self._best = _KeepStep(0)
        keep = [policies.LatestN(1), self._best]
        if keep_every:
            keep.append(policies.EveryNSteps(keep_every))
        self._manager = ocp.CheckpointManager(
            directory.resolve(),
            item_names=("state", "progress"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(keep),
                create=create,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, step: int, state: Any, progress: Progress) -> None:
        """Saves the state after `step` updates, given as NumPy arrays that nothing else changes."""
        self._best.step = progress.best_step
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            ),
        )
        if not saved:
            raise RuntimeError(f"Orbax refused to save step {step} in {self._directory}")

    def restore(self, step: int, create_state: Callable[[], Any]) -> Restored:
        """Returns what was saved at `step`.

        Args:
          step: of a checkpoint that is there.
          create_state: the function whose result has the state's structure; it is not computed.
        """
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(
                    jax.tree.map(lambda x: np.empty(x.shape, x.dtype), jax.eval_shape(create_state))
                ),
                progress=ocp.args.JsonRestore(),
            ),
        )
        return Restored(step, restored["state"], Progress(**restored["progress"]))

    def restore_latest(self, create_state: Callable[[], Any]) -> Restored:
        """Returns what the newest checkpoint that can be read holds.

        Newer ones that cannot are then set aside as `<step>.unreadable`. Without any checkpoint the
        result is step 0 and what `create_state` returns.

        Raises:
          InputError: if there are checkpoints but none can be read; they are left as they are.
        """
        failures: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self.restore(step, create_state)
            except Exception as error:  # Orbax raises many types
                failures[step] = error
                continue
            for bad, error in failures.items():
                aside = self._directory / f"{bad}.unreadable"
                (self._directory / str(bad)).rename(aside)
                logging.warning("checkpoint %d cannot be read, now %s: %s", bad, aside, error)
            self._manager.reload()
            return restored
        if failures:
            newest = max(failures)
            first_line = str(failures[newest]).strip().split("\n")[0]
            raise InputError(
                f"{self._directory}: none of its checkpoints can be read; step {newest}: "
                f"{first_line}\nThey are of another model or damaged. To start from the beginning, "
                "choose another --workdir or remove the directory."
            )
        return Restored(0, create_state(), Progress())

    def find(self, name: str) -> int:
        """Returns the step of the checkpoint called `name`: latest, best or a number.

        Raises:
          InputError: if there is none, with those that there are.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise InputError(f"{self._directory}: no checkpoint")
        if name == "latest":
            return steps[-1]
        if name == "best":
            restored = self._manager.restore(
                steps[-1], args=ocp.args.Composite(progress=ocp.args.JsonRestore())
            )
            step = restored["progress"]["best_step"]
            if not step:
                raise InputError(
                    f"{self._directory}: no best checkpoint, as the run has no validation split "
                    "(dataset.validation_size = 0) or has not been evaluated on it"
                )
            return step
        if int(name) not in steps:
            raise InputError(
                f"eval.checkpoint = {name!r}: {self._directory} has latest, "
                f"{', '.join(map(str, steps))}"
            )
        return int(name)


class _KeepStep(policies.PreservationPolicy):
    def __init__(self, step: int):
        self.step = step

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]
