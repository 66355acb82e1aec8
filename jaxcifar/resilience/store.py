"""The directory of a run's checkpoints: writing, verifying, reading and removing them.

A checkpoint is a directory named after its step. It holds one device's state, bit for bit, as Orbax
writes it (`state/`), and a manifest (see `integrity`) with the step, the run's id, the `Progress`,
the dtype and shape of each array, what else the run wants to find again (`Carried`), and a hash of
every file. It is written as `<step>.part` and renamed once it is completely on disk, so a run can
be killed at any moment. `run_id` beside the checkpoints tells whether they all belong to the same
run.
"""

import dataclasses
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
from absl import logging

from jaxcifar.errors import InputError
from jaxcifar.resilience import arrays, files, integrity, trees
from jaxcifar.resilience.failpoints import kill_at
from jaxcifar.resilience.progress import Progress

# Entries of the run's manifest ("run_manifest") and the rows of its tables ("rows"), both as they
# were when the checkpoint was saved, JSON-serialisable. Empty in checkpoints of earlier versions.
Carried = Mapping[str, Any]

_RUN_ID = re.compile(rb"\s*([0-9a-f]{32})\s*")


class CheckpointStore:
    """The checkpoints in a directory. Keeps nothing in memory: every method looks at the disk."""

    def __init__(self, directory: Path, check: Callable[[], None] = lambda: None):
        """Does not touch the directory.

        Args:
          directory: directory for the checkpoints of one run, and nothing else.
          check: called before and after the arrays are written; raises if the directory is no
            longer that of the run.
        """
        self._directory, self._check = directory, check

    def path(self, step: int) -> Path:
        """Returns the path of a checkpoint."""
        return self._directory / str(step)

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, intact or damaged, in ascending order."""
        if not self._directory.is_dir():
            return []
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdecimal())

    def verify(self, step: int) -> dict[str, Any]:
        """Checks every file of a checkpoint and returns its manifest.

        Raises:
          DamageError: if the checkpoint is damaged, or belongs to another step or run.
        """
        return self._check_origin(step, integrity.verify(self.path(step)))

    def carried(self, step: int) -> Carried:
        """Returns what a checkpoint carries. Checks its manifest, not its other files.

        Raises:
          DamageError: if the manifest is damaged, or belongs to another step or run.
        """
        content = self._check_origin(step, integrity.read(self.path(step)))
        return {name: content.get(name, {}) for name in ("run_manifest", "rows")}

    def newest_carried(self) -> Carried:
        """Returns what the newest checkpoint with an intact manifest carries; {} without one."""
        for step in reversed(self.steps()):
            with suppress(integrity.DamageError):
                return self.carried(step)
        return {}

    def _check_origin(self, step: int, content: dict[str, Any]) -> dict[str, Any]:
        for field, expected in ("step", step), ("run", self._run_id() or content["run"]):
            if content[field] != expected:
                raise integrity.DamageError(
                    f"other-{field}",
                    integrity.MANIFEST,
                    f"{field} is {content[field]}, expected {expected}",
                )
        return content

    def best(self, steps: Sequence[int]) -> int:
        """Returns the best of some checkpoints according to their progress; 0 if there is none.

        If the best one could not be written, that is the best before it.

        Raises:
          DamageError: if a manifest is damaged.
        """
        for step in reversed(steps):
            best = integrity.read(self.path(step))["progress"]["best_step"]
            if not best or best in steps:
                return best
        return 0

    def evaluations_without_score(self, step: int) -> int:
        """Returns how many evaluations a checkpoint knows of, if none of them had a finite score.

        Raises:
          DamageError: if its manifest is damaged.
        """
        progress = integrity.read(self.path(step))["progress"]
        return 0 if progress["best_step"] else progress["stale_evaluations"]

    def write(self, step: int, state: Any, progress: Progress, carried: Carried) -> None:
        """Writes a checkpoint; it is completely on disk when this returns.

        Raises:
          Exception: of any type, if that fails; nothing of the checkpoint is left then.
        """
        self._check()
        run = self._run_id() or self._create_run_id()
        with self._unless_moved(), files.replacing(self.path(step)) as part:
            part.mkdir()
            kill_at("arrays")
            arrays.write(part / "state", state)
            self._check()
            kill_at("manifest")
            content = {
                "step": step,
                "run": run,
                "progress": dataclasses.asdict(progress),
                "arrays": trees.describe_arrays(state),
                **carried,
            }
            integrity.seal(part, content)
            kill_at("commit")
        kill_at("committed")

    def read(self, step: int, create_state: Callable[[], Any]) -> tuple[Any, Progress]:
        """Returns the state and the progress of a checkpoint.

        Args:
          step: step of an existing checkpoint.
          create_state: function whose result has the structure of the state; only traced.

        Raises:
          InputError: if the checkpoint is damaged, or its arrays are not those of the state.
        """
        content = self._verified(step)
        target = jax.eval_shape(create_state)
        trees.check_same_arrays(
            str(self.path(step)), content["arrays"], trees.describe_arrays(target)
        )
        return self._restore(step, target), Progress(**content["progress"])

    def read_variables(self, step: int, ema: bool = False) -> dict[str, Any]:
        """Returns `params` and `batch_stats` of a checkpoint of any network, as dictionaries.

        Args:
          step: step of an existing checkpoint.
          ema: whether to return their moving averages instead.

        Raises:
          InputError: if the checkpoint is damaged, or has no moving averages.
        """
        self._verified(step)
        state = self._restore(step)
        if ema:
            state = state.get("ema")
            if not state:
                raise InputError(
                    f"{self.path(step)} has no moving averages: the run has train.ema_decay = 0"
                )
        return {"params": state["params"], "batch_stats": state.get("batch_stats") or {}}

    def remove(self, step: int) -> None:
        """Removes a checkpoint. A kill leaves it whole, or under a `.part` name.

        Raises:
          OSError: if it cannot be removed.
        """
        part = self.path(step).rename(self._directory / f"{step}{files.PART}")
        kill_at("delete")
        shutil.rmtree(part)
        kill_at("deleted")

    def quarantine(self, step: int, error: integrity.DamageError) -> None:
        """Renames a damaged checkpoint to `<step>.damaged-<reason>` and logs a warning."""
        reason = re.sub(r"[^\w.-]+", "_", f"{error.kind}-{error.file}")[:60]
        target, number = self._directory / f"{step}.damaged-{reason}", 1
        while target.exists():
            number += 1
            target = self._directory / f"{step}.damaged-{reason}-{number}"
        self.path(step).rename(target)
        logging.warning("checkpoint %d is damaged and was renamed to %s: %s", step, target, error)
        kill_at("aside")

    def remove_parts(self) -> None:
        """Removes what a kill during a write or a removal has left."""
        for part in self._directory.glob(f"*{files.PART}"):
            files.remove(part)

    def _verified(self, step: int) -> dict[str, Any]:
        """The manifest of a checkpoint, whose files have been checked, see `read`."""
        try:
            return self.verify(step)
        except integrity.DamageError as error:
            raise InputError(f"{self.path(step)} is damaged: {error}") from error

    def _restore(self, step: int, target: Any = None) -> Any:
        """A state, in the structure of `target` or as nested dictionaries, see `read`."""
        path = self.path(step)
        try:
            return arrays.read(path / "state", target)
        except Exception as error:  # Orbax raises many types
            raise InputError(f"{path} cannot be read: {arrays.brief(error)}") from error

    def _run_id(self) -> str:
        """The id of the run that the checkpoints belong to; "" if the file does not have one.

        The file may be missing, unreadable, or hold anything; it is never waited for.
        """
        path = self._directory / "run_id"
        found = None
        with suppress(OSError):
            if path.is_file():  # not a pipe
                found = _RUN_ID.fullmatch(path.read_bytes())
        return found[1].decode() if found else ""

    def _create_run_id(self) -> str:
        """Writes `run_id`: that of the newest checkpoint, or a new one if there is none yet."""
        steps = self.steps()
        run = self.verify(steps[-1])["run"] if steps else uuid.uuid4().hex
        path = self._directory / "run_id"
        if path.is_dir():
            files.remove(path)
        files.write_text(path, run + "\n")
        return run

    @contextmanager
    def _unless_moved(self) -> Iterator[None]:
        """Turns an error that arises because the directory was moved into that of `check`.

        Orbax may have created the directory again by then; `check` removes that.
        """
        try:
            yield
        except Exception:
            self._check()
            raise
