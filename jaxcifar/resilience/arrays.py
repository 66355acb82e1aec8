"""The arrays of a checkpoint, written and read by Orbax."""

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


class _NumpyHandler(ocp.type_handlers.NumpyHandler):
    """Writes arrays as Orbax does, but ends only when every write has ended.

    Orbax closes its event loop after the first failed write; each of the others, which TensorStore
    still carries out, would then print "Event loop is closed" with a traceback.
    """

    async def _background_serialize(self, *args: Any, **kwargs: Any) -> None:
        try:
            await super()._background_serialize(*args, **kwargs)
        finally:
            writes = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*writes, return_exceptions=True)


def write(directory: Path, state: Any) -> None:
    """Writes a tree of NumPy arrays to a new directory; the files are not synced.

    Raises:
      Exception: of any type, if that fails.
    """
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, _NumpyHandler()),
        (jax.Array, ocp.type_handlers.ArrayHandler()),  # without it Orbax warns
    )
    options = _multiprocessing_options(0)
    handler = ocp.PyTreeCheckpointHandler(
        type_handler_registry=registry, multiprocessing_options=options
    )
    checkpointer = ocp.Checkpointer(handler, multiprocessing_options=options)
    checkpointer.save(
        directory.resolve(), args=ocp.args.PyTreeSave(jax.tree.map(np.asarray, state))
    )
    # If Orbax cannot merge the files it has written, it leaves them and can read none.
    if not (directory / "manifest.ocdbt").exists():
        raise RuntimeError(f"Orbax wrote an incomplete state to {directory}")


def read(directory: Path, target: Any = None) -> Any:
    """Returns the tree of NumPy arrays in a directory that `write` has written.

    Args:
      directory: path of the directory.
      target: tree of what has the shapes and dtypes of the arrays; None for nested dictionaries.

    Raises:
      Exception: of any type, if that fails.
    """
    options = _multiprocessing_options(jax.process_index())
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    checkpointer = ocp.Checkpointer(handler, multiprocessing_options=options)
    empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), target)
    return checkpointer.restore(directory.resolve(), args=ocp.args.StandardRestore(empty))


def brief(error: BaseException) -> str:
    """Returns one line about an error of Orbax or the system: its errno message, if any."""
    code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's
    if code or (isinstance(error, OSError) and error.errno):
        return os.strerror(int(code[1]) if code else error.errno)
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:300]


def _multiprocessing_options(process: int) -> ocp.options.MultiprocessingOptions:
    """Returns the options for one process that does not wait for the others."""
    return ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=str(process)
    )
