"""The directory of a run's checkpoints: writing, verifying, reading and removing them.

A checkpoint is a directory named after its step. It holds one device's state, bit for bit, as Orbax
writes it (`state/`), and a manifest (see `integrity`) with the step, the run's id, the `Progress`,
the dtype and shape of each array, what else the run wants to find again (`Carried`), and a hash of
every file. It is written as `<step>.part` and renamed once it is completely on disk, so a run can
be killed at any moment. `run_id` beside the checkpoints tells whether they all belong to the same
run.
"""

import dataclasses
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from jaxcifar.errors import InputError
from jaxcifar.regular_files import check_regular
from jaxcifar.resilience import files, integrity, trees
from jaxcifar.resilience.failpoints import kill_at
from jaxcifar.resilience.progress import Progress

# Entries of the run's manifest ("run_manifest") and the rows of its tables ("rows"), both as they
# were when the checkpoint was saved, JSON-serialisable. Empty in checkpoints of earlier versions.
Carried = Mapping[str, Any]


class CheckpointStore:
    """The checkpoints in a directory. Keeps nothing in memory: every method looks at the disk."""

    def __init__(self, directory: Path):
        """Does not touch the directory.

        Args:
          directory: directory for the checkpoints of one run, and nothing else.
        """
        self._directory = directory

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
          InputError: if `run_id` is not a file.
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
        check_regular(self._directory / "run_id")
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
        run = self._run_id() or self._create_run_id()
        with files.replacing(self.path(step)) as part:
            part.mkdir()
            kill_at("arrays")
            arrays = (part / "state").resolve()
            _checkpointer(0).save(arrays, args=ocp.args.StandardSave(state))
            # If Orbax cannot merge the files it has written, it leaves them and can read none.
            if not (arrays / "manifest.ocdbt").exists():
                raise RuntimeError(f"Orbax wrote an incomplete state to {arrays}")
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
        integrity.sync(self._directory)
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
        empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), target)
        return self._restore(step, empty), Progress(**content["progress"])

    def read_variables(self, step: int) -> dict[str, Any]:
        """Returns `params` and `batch_stats` of a checkpoint of any network, as dictionaries.

        Args:
          step: step of an existing checkpoint.

        Raises:
          InputError: if the checkpoint is damaged.
        """
        self._verified(step)
        state = self._restore(step)
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
            return _checkpointer(jax.process_index()).restore(
                (path / "state").resolve(), args=ocp.args.StandardRestore(target)
            )
        except Exception as error:  # Orbax raises many types
            raise InputError(f"{path} cannot be read: {brief(error)}") from error

    def _run_id(self) -> str:
        """The id of the run that the checkpoints belong to; "" if unknown."""
        with suppress(OSError):
            return (self._directory / "run_id").read_text().strip()
        return ""

    def _create_run_id(self) -> str:
        """Writes `run_id`: that of the newest checkpoint, or a new one if there is none yet."""
        steps = self.steps()
        run = self.verify(steps[-1])["run"] if steps else uuid.uuid4().hex
        with files.replacing(self._directory / "run_id") as part:
            part.write_text(run + "\n")
        return run


def brief(error: Exception) -> str:
    """Returns one line about an error of Orbax or the system: its errno message, if any."""
    code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's
    if code or (isinstance(error, OSError) and error.errno):
        return os.strerror(int(code[1]) if code else error.errno)
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:300]


def _checkpointer(process: int) -> ocp.Checkpointer:
    """Returns an Orbax checkpointer for one process, which does not wait for the others."""
    options = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=str(process)
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)
