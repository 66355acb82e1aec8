"""Checkpoints of a run: the latest, the best and one every N steps, saved in the background.

`store` has the format on disk, `background_save` the thread. This module decides what is saved,
restored, quarantined and removed; older checkpoints are removed only once a newer one is complete.
"""

# Orbax's CheckpointManager is not used because it would lose fault tolerance: it renames a step
# before `post_finalization_callback` could seal it, so a kill in between leaves an unsealed step;
# its `wait_until_finished` joins the writing thread without a time limit, so a hanging disk hangs
# the run; and it chooses the steps to remove as a save starts, counting the new one as saved, so
# that with `checkpoint.on_error = "continue"` a failed save can cost the best checkpoint.

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging

from jaxcifar.errors import InputError
from jaxcifar.resilience import arrays, files, integrity
from jaxcifar.resilience.background_save import BackgroundSave
from jaxcifar.resilience.failpoints import kill_at
from jaxcifar.resilience.lock import MovedError
from jaxcifar.resilience.processes import gather_int
from jaxcifar.resilience.progress import Progress
from jaxcifar.resilience.store import Carried, CheckpointStore


class Restored(NamedTuple):
    """A point from which a run can resume: the state after `step` updates, and the progress."""

    step: int
    state: Any
    progress: Progress


class SaveError(Exception):
    """What a save could not do; the message says it, and the cause is the error behind it.

    Attributes:
      lost: whether the checkpoint was not written; otherwise an older one was not removed.
    """

    def __init__(self, message: str, cause: BaseException | None = None, lost: bool = True):
        super().__init__(message)
        self.__cause__, self.lost = cause, lost


class Checkpoints:
    """The checkpoints of one run; a context manager, which waits for the last save on exit."""

    def __init__(
        self,
        directory: Path,
        *,
        keep_every: int = 0,
        timeout: float = 600.0,
        create: bool = True,
        check: Callable[[], None] = lambda: None,
    ):
        """Opens a directory; nothing in it changes before the first method call.

        Args:
          directory: directory for the checkpoints of one run, and nothing else.
          keep_every: checkpoints at multiples of this step are never removed; 0 for none.
          timeout: seconds that a save may take before it counts as failed.
          create: whether to create the directory, in an existing one, if it is missing.
          check: called before each checkpoint is written and while it is; raises if the directory
            is no longer that of the run.

        Raises:
          InputError: if the path exists but is not a directory.
        """
        if directory.exists() and not directory.is_dir():
            raise InputError(f"{directory} is not a directory")
        self._directory, self._keep_every, self._timeout = directory, keep_every, timeout
        self._store = CheckpointStore(directory, check)
        self._is_writer = jax.process_index() == 0
        self._last_save: BackgroundSave | None = None
        self._saved_step: int | None = None
        self._failures: list[SaveError] = []
        self._not_removed: set[int] = set()
        if create and not directory.is_dir():
            directory.mkdir(exist_ok=True)
            files.sync(directory.parent)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.wait()
        while failure := self.failure():
            if not isinstance(failure.__cause__, MovedError):  # which the caller says
                logging.warning("%s", failure)

    def save(
        self,
        step: int,
        state: Any,
        progress: Progress,
        carried: Carried | None = None,
        *,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts saving the state after `step` updates, once the previous save has finished.

        Whether it succeeds is reported later, by `failure`. With several processes only the first
        one writes.

        Args:
          step: step without a checkpoint.
          state: tree of NumPy arrays that are not modified afterwards.
          progress: progress at this step.
          carried: what else the checkpoint is to carry; not modified afterwards.
          before: called in the background first; if it raises, the save fails.
        """
        if not self._is_writer:
            return
        self.wait()
        self._collect_failure()
        self.saved_step()
        if self.stalled:
            self._failures.append(
                SaveError(
                    f"skipping checkpoint {step}: checkpoint {self._last_save.step} is still being "
                    "written"
                )
            )
            return
        if step in self._store.steps():
            raise RuntimeError(f"{self._directory} already has a checkpoint {step}")

        def write() -> None:
            before()
            self._store.write(step, state, progress, carried or {})
            self._remove_replaced(step)

        self._last_save = BackgroundSave(step, write, self._timeout)

    def wait(self) -> None:
        """Waits until the last save has finished, or its time is up."""
        if self._last_save:
            self._last_save.wait()

    @property
    def stalled(self) -> bool:
        """Whether the last save is still running after its time is up."""
        return self._last_save is not None and self._last_save.stalled

    def saved_step(self) -> int | None:
        """Returns the step of a save that has succeeded, None before the first; does not wait."""
        if self._last_save and self._last_save.succeeded:
            self._saved_step = self._last_save.step
        return self._saved_step

    def failure(self) -> SaveError | None:
        """Returns the next unreported failure of a save, or None; does not wait."""
        self._collect_failure()
        return self._failures.pop(0) if self._failures else None

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, intact or damaged, in ascending order."""
        self.wait()
        return self._store.steps()

    def carried(self, step: int) -> Carried:
        """Returns what a checkpoint carries besides state and progress; {} if there is none.

        Raises:
          DamageError: if its manifest is damaged.
        """
        return self._store.carried(step) if step in self.steps() else {}

    def restore(self, step: int, create_state: Callable[[], Any]) -> Restored:
        """Returns the contents of a checkpoint.

        Args:
          step: step of an existing checkpoint.
          create_state: function whose result has the structure of the state; only traced.

        Raises:
          InputError: if the checkpoint is damaged, or its arrays are not those of the state.
        """
        return Restored(step, *self._store.read(step, create_state))

    def read_variables(self, name: str, *, ema: bool = False) -> tuple[int, dict[str, Any]]:
        """Returns the step, and `params` and `batch_stats`, of a checkpoint of any network.

        Args:
          name: "latest", "best" or the number of a step.
          ema: whether to return their moving averages instead.

        Raises:
          InputError: if the checkpoint does not exist, is damaged or has no moving averages.
        """
        while True:
            step = self.find(name)
            try:
                return step, self._store.read_variables(step, ema)
            except InputError:
                if step in self.steps():
                    raise  # otherwise a trainer has just replaced it

    def restore_latest(self, create_state: Callable[[], Any]) -> Restored:
        """Returns the contents of the newest intact checkpoint, and cleans up after a kill.

        Newer, damaged ones are renamed to `<step>.damaged-<reason>`. Without any checkpoint, the
        result is step 0 and the state that `create_state` returns. Only the process that holds the
        run's lock, and those of its run, may call this.

        Raises:
          InputError: if there are checkpoints but none is intact, or the newest intact one has a
            different model or optimizer; the directory is left unchanged.
        """
        damaged: dict[int, integrity.DamageError] = {}
        intact = -1
        if self._is_writer:
            kill_at("restore")
            intact, damaged = self._newest_intact()
        intact, newest = gather_int(intact)[0], gather_int(max(damaged, default=-1))[0]
        if intact < 0 and newest >= 0:
            reason = damaged.get(newest, "see the output of process 0")
            raise InputError(
                f"{self._directory}: no intact checkpoint; the newest, step {newest}, is damaged: "
                f"{reason}\nThe checkpoints are damaged, or belong to another run. To start from "
                f"the beginning, choose another --workdir or remove {self._directory.parent}."
            )
        if intact >= 0:
            restored = self.restore(intact, create_state)
        else:
            restored = Restored(0, create_state(), Progress())
        for step, error in damaged.items():
            self._store.quarantine(step, error)
        if self._is_writer:
            self._store.remove_parts()
        return restored

    def find(self, name: str) -> int:
        """Returns the step of the checkpoint named "latest", "best" or by its number.

        Raises:
          InputError: if it does not exist; the message lists the existing ones.
        """
        steps = self.steps()
        if not steps:
            raise InputError(f"{self._directory}: no checkpoint")
        if name == "latest":
            return steps[-1]
        if name == "best":
            try:
                step = self._store.best(steps)
                evaluations = 0 if step else self._store.evaluations_without_score(steps[-1])
            except integrity.DamageError as error:
                if steps != self._store.steps():
                    return self.find(name)  # a running training has just replaced one
                raise InputError(f"{self._directory}: a checkpoint is damaged: {error}") from error
            if evaluations:
                raise InputError(
                    f"{self._directory}: no best checkpoint: the validation metric was NaN or "
                    f"infinite in each of {evaluations:,} evaluations"
                )
            if not step:
                raise InputError(
                    f"{self._directory}: no best checkpoint: it was deleted, or the run has no "
                    "validation split (dataset.validation_size = 0) or no evaluation on it yet"
                )
            name = str(step)
        if int(name) not in steps:
            raise InputError(
                f"eval.checkpoint = {name}: {self._directory} has only latest, "
                f"{', '.join(map(str, steps))}"
            )
        return int(name)

    def _newest_intact(self) -> tuple[int, dict[int, integrity.DamageError]]:
        """The step of the newest intact checkpoint, or -1, and the damage of all newer ones."""
        damaged = {}
        for step in reversed(self.steps()):
            try:
                self._store.verify(step)
            except integrity.DamageError as error:
                damaged[step] = error
                continue
            return step, damaged
        return -1, damaged

    def _remove_replaced(self, newest: int) -> None:
        """Removes all checkpoints except the newest, the best, and multiples of `keep_every`.

        What cannot be removed is reported, once per checkpoint; the next save tries again.
        """
        try:
            steps = self._store.steps()
            best = self._store.best(steps)
        except integrity.DamageError:
            return  # the damaged one may be the best
        except OSError as error:
            self._report_not_removed(0, "the older checkpoints", error)
            return
        for step in steps:
            kept = step == newest or 0 < step == best
            if not kept and not (self._keep_every and step % self._keep_every == 0):
                try:
                    self._store.remove(step)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    self._report_not_removed(step, f"the older checkpoint {step}", error)

    def _report_not_removed(self, step: int, what: str, error: OSError) -> None:
        if step not in self._not_removed:
            self._not_removed.add(step)
            message = f"{what} could not be removed: {arrays.brief(error)}"
            self._failures.append(SaveError(message, error, lost=False))

    def _collect_failure(self) -> None:
        if self._last_save and (error := self._last_save.take_failure()):
            message = f"checkpoint {self._last_save.step} could not be written"
            self._failures.append(SaveError(f"{message}: {arrays.brief(error)}", error))
