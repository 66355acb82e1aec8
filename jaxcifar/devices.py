"""The one home of devices and processes: start-up, pmap, replication, sharding.

Elsewhere a step is written for one device, and a batch is one process's share.
"""

import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from flax import jax_utils
from jax._src.distributed import global_state  # what jax.distributed.initialize has found
from jax.experimental import multihost_utils

from jaxcifar.errors import InputError
from jaxcifar.kernels.backend import is_cpu
from jaxcifar.resilience.signals import end_at_once

AXIS = "batch"
_START_SECONDS = 300
_JAX_SECONDS = 24 * 3600


def start(distributed: bool) -> None:
    """Joins the run's other processes, if it has any; call before anything else touches JAX.

    Who they are is known from the scheduler, as `jax.distributed` finds it, or from the environment
    variables JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES, JAX_PROCESS_ID.
    If they do not all come, the process ends.

    Raises:
      InputError: if neither says.
    """
    if not distributed or jax.distributed.is_initialized():
        return
    variables = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    given = {}
    for argument, variable in variables.items():
        if (value := os.environ.get(variable)) is not None:
            if not value.isdecimal():
                raise InputError(f"{variable}={value}: allowed is a number")
            given[argument] = int(value)
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is not None and not re.fullmatch(r".+:\d+", address):
        raise InputError(f"JAX_COORDINATOR_ADDRESS={address}: allowed is host:port")
    # JAX aborts where its own times are up, so ours come first: the timer's, and those of `peers`,
    # which do not count time in which all processes were suspended.
    timer = threading.Timer(_START_SECONDS, _give_up_start)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=_JAX_SECONDS,
            heartbeat_timeout_seconds=_JAX_SECONDS,
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"train.distributed = True: process 0 cannot be one: {reason}") from error
    except ValueError as error:
        raise InputError(
            f"train.distributed = True: {error} Start under a scheduler that jax.distributed "
            "knows, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error
    finally:
        timer.cancel()


def _give_up_start() -> None:
    """Ends the process, with what is known of those that have not come."""
    process, processes = global_state.process_id, global_state.num_processes
    address = global_state.coordinator_address
    if process:
        host, port = address.rsplit(":", 1)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            what = "process 0 has come, but not all of the others"
        except OSError as error:
            what = f"process 0 does not answer ({error.strerror or error})"
    elif processes == 2:
        what = "process 1 has not come"
    else:
        what = f"not all of processes 1 to {processes - 1} have come"
    end_at_once(
        f"error: process {process} of {processes} has waited for {_START_SECONDS} s at {address}: "
        f"{what}.\nAll must be started within that time; without a scheduler, with the same\n"
        "JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES, and each with its own JAX_PROCESS_ID.",
        code=1,
    )


def meet() -> None:
    """Waits until all processes are here.

    They do at the start, as on CPUs the first collective waits for 30 seconds at most, and later
    ones for ever.
    """
    gather(0)


def gather(number: int) -> list[int]:
    """Returns the number that each process gives; all of them must call this together."""
    if jax.process_count() == 1:
        return [number]
    return [int(given) for given in multihost_utils.process_allgather(np.int64(number))]


def check_batch_size(field: str, batch_size: int) -> None:
    """Raises an InputError unless all devices can have the same share of a batch."""
    if batch_size % jax.device_count():
        raise InputError(
            f"{field} = {batch_size}: it must be a multiple of the number of devices, "
            f"{jax.device_count()}"
        )


def round_up_batch_size(batch_size: int) -> int:
    """Returns the least batch size, no smaller, of which all devices have the same share."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def map_train_step(train_step: Callable, in_axes: Any = 0) -> Callable:
    """Maps (state, ...) -> (state, ...) over the devices; the old state's memory is reused.

    On a CPU a call returns when it has ended: a second one in flight would have memory of its own
    for all that it computes, and be no sooner done.

    Args:
      train_step: for one device.
      in_axes: 0 for each argument with a row for each device, None for one without; or 0 for all.
    """
    mapped = jax.pmap(train_step, axis_name=AXIS, in_axes=in_axes, donate_argnums=0)
    if not is_cpu():
        return mapped
    return lambda *arguments: jax.block_until_ready(mapped(*arguments))


def map_eval_step(eval_step: Callable) -> Callable:
    """Maps (state, ...) -> results over the devices."""
    return jax.pmap(eval_step, axis_name=AXIS)


def replicate(tree: Any) -> Any:
    """Returns a copy of the arrays on every local device, stacked along a new first axis."""
    return jax_utils.replicate(tree, axis_name=AXIS)  # as pmap names it, or it compiles twice


def fetch(tree: Any) -> Any:
    """Waits for arrays that are the same on all devices and returns NumPy copies of them."""
    # A view would be overwritten when the device's array is donated.
    return jax.tree.map(lambda x: np.array(np.asarray(x.addressable_shards[0].data)[0]), tree)


def fetch_rows(x: jax.Array) -> np.ndarray:
    """Returns [devices, B, ...] as [devices * B, ...] on the host, over those of all processes."""
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    rows = np.concatenate([np.asarray(shard.data)[0] for shard in shards])
    if jax.process_count() == 1:
        return rows
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


def prefetch(batches: Iterable[Any]) -> Iterator[Any]:
    """Splits batches [B, ...] into [devices, B / devices, ...] and moves them ahead of use."""
    devices = jax.local_device_count()

    def split(batch: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)

    return jax_utils.prefetch_to_device(map(split, batches), size=2, axis_name=AXIS)


def memory() -> dict[str, float]:
    """Returns the most memory that a device has used, `peak_memory` in GiB; {} on a CPU."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return {} if peak is None else {"peak_memory": peak / 2**30}
