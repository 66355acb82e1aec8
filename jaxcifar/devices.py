"""The local devices: pmap, replication, fetching and prefetching.

The rest of the package writes a step for one device, and a batch is one process's share.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import jax_utils
from jax.experimental import multihost_utils

from jaxcifar.errors import InputError
from jaxcifar.kernels.backend import is_cpu

AXIS = "batch"
_MEMORY = Path("/proc/meminfo")


def check_batch_size(field: str, batch_size: int) -> None:
    """Checks that a batch can be divided evenly among all devices.

    Raises:
      InputError: if it cannot; the message names `field`.
    """
    if batch_size % jax.device_count():
        raise InputError(
            f"{field} = {batch_size}: must be a multiple of the number of devices, "
            f"{jax.device_count()}"
        )


def round_up_batch_size(batch_size: int) -> int:
    """Returns the smallest multiple of the number of devices that is at least `batch_size`."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def map_train_step(train_step: Callable, in_axes: Any = 0) -> Callable:
    """Maps (state, ...) -> (state, ...) over the devices; the old state's memory is reused.

    On a CPU a call returns when it has finished: a second call in flight would need its own memory
    for everything it computes, and finish no sooner.

    Args:
      train_step: function of one device.
      in_axes: per argument, 0 if it has one row per device and None if it is the same on all; a
        single 0 for all arguments.
    """
    mapped = jax.pmap(train_step, axis_name=AXIS, in_axes=in_axes, donate_argnums=0)
    if not is_cpu():
        return mapped

    @wraps(mapped)
    def finished(*arguments: Any) -> Any:
        return jax.block_until_ready(mapped(*arguments))

    return finished


def map_eval_step(eval_step: Callable) -> Callable:
    """Maps (state, ...) -> results over the devices."""
    return jax.pmap(eval_step, axis_name=AXIS)


def replicate(tree: Any) -> Any:
    """Returns a copy of the arrays on every local device, stacked along a new first axis."""
    return jax_utils.replicate(tree, axis_name=AXIS)  # pmap's axis name, or it compiles twice


def stack(trees: Sequence[Any]) -> Any:
    """Stacks replicated trees along a new second axis, behind that of the devices."""
    return map_eval_step(lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees))(*trees)


def row(tree: Any, index: int) -> Any:
    """Returns a copy of one of the trees that `stack` has joined."""
    return _row(tree, np.int32(index))


@partial(jax.pmap, axis_name=AXIS, in_axes=(0, None))
def _row(tree: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def compiled_memory(step: Callable, shapes: Sequence[Any]) -> int:
    """Compiles a train step and returns the memory in bytes that it needs on each device.

    Args:
      step: what `map_train_step` returns.
      shapes: the shapes of its arguments, with the axis of the devices.
    """
    found = getattr(step, "__wrapped__", step).lower(*shapes).compile().memory_analysis()
    return (
        found.temp_size_in_bytes
        + found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
    )


def free_memory() -> int:
    """Returns the memory in bytes that is free on the first device, or in the machine on a CPU."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    if _MEMORY.exists() and (
        free := re.search(r"^MemAvailable:\s*(\d+) kB", _MEMORY.read_text(), re.M)
    ):
        return 1024 * int(free[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def fetch(tree: Any) -> Any:
    """Waits for arrays that are the same on all devices and returns NumPy copies of them."""
    # A view would be overwritten when the device's array is donated.
    return jax.tree.map(lambda x: np.array(np.asarray(x.addressable_shards[0].data)[0]), tree)


def fetch_rows(x: jax.Array) -> np.ndarray:
    """Returns [devices, B, ...] as [devices * B, ...] on the host, from all processes' devices."""
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    rows = np.concatenate([np.asarray(shard.data)[0] for shard in shards])
    if jax.process_count() == 1:
        return rows
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


def prefetch(batches: Iterable[Any]) -> Iterator[Any]:
    """Splits batches [B, ...] into [devices, B / devices, ...] and transfers them early."""
    devices = jax.local_device_count()

    def split(batch: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)

    return jax_utils.prefetch_to_device(map(split, batches), size=2, axis_name=AXIS)


def memory() -> dict[str, float]:
    """Returns the first device's peak memory use, `peak_memory` in GiB; {} on a CPU."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return {} if peak is None else {"peak_memory": peak / 2**30}
