"""Checkpoints: the latest, the best, and one every so many steps, written in background.

A checkpoint is a directory named by its step, with the state of one device, bit for bit, as Orbax
writes it (`state/`), and a manifest (see `integrity`) with the run's `Progress`, the arrays' types
and shapes, the run's id and a hash of every file. It is written as `<step>.part` and renamed once
all of it is on the disk, and only then are older ones removed, so that a run can be killed at any
moment; `.part` directories are what a kill leaves, and go at the next start.
"""

import dataclasses
import math
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from jaxcifar import devices, metrics
from jaxcifar.errors import InputError
from jaxcifar.resilience import integrity
from jaxcifar.resilience.failpoints import kill_at


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run must remember beside its state.

    Attributes:
      train_sums: metric sums since the last log line.
      best_step: the checkpoint with the best score on the validation split; 0 before there is one.
      best_score: its score, of which more is better; None before there is one.
      reference_score: the last score that was an improvement for early stopping.
      stale_evaluations: those in a row since then that were none.
      skipped_steps: the updates that were left out, as they were not finite.
    """

    train_sums: dict[str, float] = dataclasses.field(default_factory=dict)
    best_step: int = 0
    best_score: float | None = None
    reference_score: float | None = None
    stale_evaluations: int = 0
    skipped_steps: int = 0

    def add(self, sums: Sequence[Mapping[str, np.ndarray]]) -> "Progress":
        """Returns a progress whose `train_sums` have those of more steps added, one by one.

        Those of a step whose loss is not finite stay out. The steps' `nonfinite` is counted apart.
        """
        counted = [
            {name: value for name, value in step.items() if name != "nonfinite"}
            for step in sums
            if np.isfinite(step["loss"])
        ]
        return dataclasses.replace(
            self,
            train_sums=reduce(metrics.add, counted, self.train_sums),
            skipped_steps=self.skipped_steps + sum(int(step["nonfinite"]) for step in sums),
        )

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

    def __init__(
        self,
        directory: Path,
        *,
        keep_every: int = 0,
        timeout: float = 600.0,
        create: bool = True,
    ):
        """Opens `directory`; nothing in it changes before the first call of a method.

        Args:
          directory: of this run's checkpoints alone.
          keep_every: checkpoints at its multiples are kept for good; 0 for none.
          timeout: the seconds that a save may take before it counts as failed.
          create: make the directory if it is missing.

        Raises:
          InputError: if it is not a directory.
        """
        if directory.exists() and not directory.is_dir():
            raise InputError(f"{directory} is not a directory")
        self._directory, self._keep_every, self._timeout = directory, keep_every, timeout
        self._writes = jax.process_index() == 0
        self._last: _Save | None = None
        self._failures: list[str] = []
        if create:
            directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.wait()
        while failure := self.failure():
            logging.warning("%s", failure)

    def save(self, step: int, state: Any, progress: Progress) -> None:
        """Starts to save the state after `step` updates, once the save before has ended.

        Whether it succeeds is known later, by `failure`. In a run of several processes the first
        one writes.

        Args:
          step: one that is not saved yet.
          state: NumPy arrays that nothing else changes.
          progress: the run's.
        """
        if not self._writes:
            return
        self.wait()
        self._note_failure()
        if self.stalled:
            self._failures.append(
                f"checkpoint {step} is not written, as checkpoint {self._last.step} still is not"
            )
            return
        if step in self._steps():
            raise RuntimeError(f"{self._directory} already has a checkpoint {step}")
        self._last = _Save(step, deadline=time.monotonic() + self._timeout)
        self._last.thread = threading.Thread(
            target=self._write, args=(self._last, state, progress), daemon=True
        )
        self._last.thread.start()

    def wait(self) -> None:
        """Waits until the last save has ended, or has taken too long."""
        if self._last:
            self._last.thread.join(max(0.0, self._last.deadline - time.monotonic()))

    @property
    def stalled(self) -> bool:
        """Whether the last save takes longer than it may."""
        return (
            self._last is not None
            and self._last.thread.is_alive()
            and time.monotonic() >= self._last.deadline
        )

    def failure(self) -> str | None:
        """Returns what is newly known to have gone wrong with a save, or None; does not wait."""
        self._note_failure()
        return self._failures.pop(0) if self._failures else None

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, whole or damaged, in ascending order."""
        self.wait()
        return self._steps()

    def restore(self, step: int, create_state: Callable[[], Any]) -> Restored:
        """Returns what was saved at `step`.

        Args:
          step: of a checkpoint that is there.
          create_state: the function whose result has the state's structure; it is not computed.

        Raises:
          InputError: if it is damaged, or its arrays are not those of the state, with their names.
        """
        path = self._directory / str(step)
        try:
            content = self._verify(step)
        except integrity.DamageError as error:
            raise InputError(f"{path} is damaged: {error}") from error
        target = jax.eval_shape(create_state)
        _compare(path, content["arrays"], _arrays(target))
        try:
            state = _checkpointer(jax.process_index()).restore(
                (path / "state").resolve(),
                args=ocp.args.StandardRestore(
                    jax.tree.map(lambda x: np.empty(x.shape, x.dtype), target)
                ),
            )
        except Exception as error:  # Orbax raises many types
            raise InputError(f"{path} cannot be read: {_brief(error)}") from error
        return Restored(step, state, Progress(**content["progress"]))

    def restore_latest(self, create_state: Callable[[], Any]) -> Restored:
        """Returns what the newest whole checkpoint holds, and removes what a kill has left.

        Newer ones are then set aside as `<step>.damaged-<why>`. Without any checkpoint the result
        is step 0 and what `create_state` returns. Only the writer of the run may call this.

        Raises:
          InputError: if there are checkpoints but none is whole, or the newest whole one is of
            another model; all are left as they are.
        """
        damaged: dict[int, integrity.DamageError] = {}
        whole = -1
        if self._writes:
            kill_at("restore")
            for step in reversed(self.steps()):
                try:
                    self._verify(step)
                except integrity.DamageError as error:
                    damaged[step] = error
                    continue
                whole = step
                break
        whole, newest = devices.gather(whole)[0], devices.gather(max(damaged, default=-1))[0]
        if whole < 0 and newest >= 0:
            reason = damaged.get(newest, "see what process 0 says")
            raise InputError(
                f"{self._directory}: none of its checkpoints is whole; step {newest}: {reason}\n"
                "They are damaged, or not this run's. To start from the beginning, choose another "
                f"--workdir or remove {self._directory.parent}."
            )
        if whole >= 0:
            restored = self.restore(whole, create_state)
        else:
            restored = Restored(0, create_state(), Progress())
        for step, error in damaged.items():
            aside = self._aside(step, error)
            (self._directory / str(step)).rename(aside)
            logging.warning("checkpoint %d is damaged, now %s: %s", step, aside, error)
            kill_at("aside")
        if self._writes:
            for part in self._directory.glob("*.part"):
                shutil.rmtree(part) if part.is_dir() else part.unlink()
        return restored

    def find(self, name: str) -> int:
        """Returns the step of the checkpoint called `name`: latest, best or a number.

        Raises:
          InputError: if there is none, with those that there are.
        """
        steps = self.steps()
        if not steps:
            raise InputError(f"{self._directory}: no checkpoint")
        if name == "latest":
            return steps[-1]
        if name == "best":
            try:
                step = self._best(steps)
            except integrity.DamageError as error:
                if steps != self._steps():
                    return self.find(name)  # a trainer has just replaced one
                raise InputError(f"{self._directory}: a checkpoint is damaged: {error}") from error
            if not step:
                raise InputError(
                    f"{self._directory}: no best checkpoint, as it is gone, or the run has no "
                    "validation split (dataset.validation_size = 0) or no evaluation on it yet"
                )
            name = str(step)
        if int(name) not in steps:
            raise InputError(
                f"eval.checkpoint: {self._directory} has no {name}; it has latest, "
                f"{', '.join(map(str, steps))}"
            )
        return int(name)

    def _write(self, save: "_Save", state: Any, progress: Progress) -> None:
        """Writes one checkpoint and removes those that it replaces; runs in a thread."""
        part = self._directory / f"{save.step}.part"
        try:
            run = self._run_id() or self._create_run_id()
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            kill_at("arrays")
            arrays = (part / "state").resolve()
            _checkpointer(0).save(arrays, args=ocp.args.StandardSave(state))
            # Where it cannot join its files, Orbax leaves them as they are, and reads none of them.
            if not (arrays / "manifest.ocdbt").exists():
                raise RuntimeError(f"Orbax wrote no whole state into {arrays}")
            kill_at("manifest")
            content = {
                "step": save.step,
                "run": run,
                "progress": dataclasses.asdict(progress),
                "arrays": _arrays(state),
            }
            integrity.seal(part, content)
            kill_at("commit")
            part.rename(self._directory / str(save.step))
            integrity.sync(self._directory)
            kill_at("committed")
        except Exception as error:  # many types
            save.error = error
            shutil.rmtree(part, ignore_errors=True)
            return
        self._remove_replaced(save.step)

    def _remove_replaced(self, newest: int) -> None:
        """Removes all but the newest, the best, and those that are kept for good."""
        steps = self._steps()
        try:
            best = self._best(steps)
        except integrity.DamageError:
            return  # one of them may be the best
        for step in steps:
            kept = step == newest or 0 < step == best
            if not kept and not (self._keep_every and step % self._keep_every == 0):
                with suppress(OSError):  # the next save will try again
                    part = (self._directory / str(step)).rename(self._directory / f"{step}.part")
                    kill_at("delete")
                    shutil.rmtree(part)
                    kill_at("deleted")

    def _best(self, steps: Sequence[int]) -> int:
        """The best of these steps; 0 if there is none.

        Where the best could not be written, it is the best before it.

        Raises:
          DamageError: of one that cannot be read.
        """
        for step in reversed(steps):
            best = integrity.read(self._directory / str(step))["progress"]["best_step"]
            if not best or best in steps:
                return best
        return 0

    def _steps(self) -> list[int]:
        if not self._directory.is_dir():
            return []
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdecimal())

    def _note_failure(self) -> None:
        last = self._last
        if last and not last.noted and (last.error or self.stalled):
            last.noted = True
            why = f": {_brief(last.error)}" if last.error else f" in {self._timeout:g} seconds"
            self._failures.append(f"checkpoint {last.step} could not be written{why}")

    def _verify(self, step: int) -> dict[str, Any]:
        content = integrity.verify(self._directory / str(step))
        for field, wanted in ("step", step), ("run", self._run_id() or content["run"]):
            if content[field] != wanted:
                raise integrity.DamageError(
                    f"other-{field}", integrity.MANIFEST, f"it is of {field} {content[field]}"
                )
        return content

    def _run_id(self) -> str:
        """The id of the run whose checkpoints these are; "" if it is not known."""
        with suppress(OSError):
            return (self._directory / "run_id").read_text().strip()
        return ""

    def _create_run_id(self) -> str:
        """Gives the run the id of its newest checkpoint, or a new one before there is any."""
        steps = self._steps()
        run = self._verify(steps[-1])["run"] if steps else uuid.uuid4().hex
        part = self._directory / "run_id.part"
        part.write_text(run + "\n")
        part.rename(self._directory / "run_id")
        return run

    def _aside(self, step: int, error: integrity.DamageError) -> Path:
        reason = re.sub(r"[^\w.-]+", "_", f"{error.kind}-{error.file}")[:60]
        aside, number = self._directory / f"{step}.damaged-{reason}", 1
        while aside.exists():
            number += 1
            aside = self._directory / f"{step}.damaged-{reason}-{number}"
        return aside


@dataclasses.dataclass
class _Save:
    """A save that was started; `noted` once its failure is."""

    step: int
    deadline: float
    thread: threading.Thread | None = None
    error: Exception | None = None
    noted: bool = False


def _checkpointer(process: int) -> ocp.Checkpointer:
    """Orbax, as used by one process without regard to the others."""
    options = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=str(process)
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _arrays(tree: Any) -> dict[str, str]:
    """The type and shape of each array of a tree, as float32[3, 4], by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}"
        for path, x in leaves
    }


def _compare(path: Path, saved: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises an InputError that names the arrays which are not as the config has them."""
    differences = [
        f"  {name}: {saved.get(name, 'absent')} there, {wanted.get(name, 'absent')} here"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]
    if differences:
        shown = differences[:15]
        if len(differences) > len(shown):
            shown.append(f"  and {len(differences) - len(shown)} more")
        raise InputError(f"{path} is of another model or optimizer:\n" + "\n".join(shown))


def _brief(error: Exception) -> str:
    """An error in a line: the system's word for it, if it says one."""
    code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's
    if code or isinstance(error, OSError) and error.errno:
        return os.strerror(int(code[1]) if code else error.errno)
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:300]
