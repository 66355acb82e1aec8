"""Joining the processes of a run, and exchanging small integers between them.

`global_state` of `jax._src.distributed` is private to JAX. It is the only source for what
`jax.distributed.initialize` has found out: process id, number of processes, coordinator address
and key-value store. Only this module imports it.
"""

import os
import re
import socket
import threading

import jax
import numpy as np
from jax._src.distributed import global_state
from jax.experimental import multihost_utils

from jaxcifar.errors import InputError
from jaxcifar.resilience.signals import end_at_once

__all__ = ["barrier", "gather_int", "global_state", "start"]

_START_SECONDS = 300
_JAX_SECONDS = 24 * 3600


def start(distributed: bool) -> None:
    """Joins the other processes of a distributed run; call it before anything else touches JAX.

    The processes are known from the scheduler, as `jax.distributed` detects it, or from the
    environment variables JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. Exits if they do not all join within 300 seconds. Does nothing in a run of a
    single process, or if the processes have already been joined.

    Raises:
      InputError: if neither a scheduler nor the environment names the processes.
    """
    if not distributed or jax.distributed.is_initialized():
        return
    variables = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    given = {}
    for argument, variable in variables.items():
        if (value := os.environ.get(variable)) is not None:
            if not value.isdecimal():
                raise InputError(f"{variable}={value}: must be a number")
            given[argument] = int(value)
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is not None and not re.fullmatch(r".+:\d+", address):
        raise InputError(f"JAX_COORDINATOR_ADDRESS={address}: must be host:port")
    # JAX aborts the process when its own time limits expire. Ours expire first: this timer's, and
    # those of `peers`, which exclude time during which all processes were suspended.
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
        raise InputError(
            f"train.distributed = True: process 0 could not start the coordinator: {reason}"
        ) from error
    except ValueError as error:
        raise InputError(
            f"train.distributed = True: {error} Start under a scheduler that jax.distributed "
            "knows, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error
    finally:
        timer.cancel()


def barrier() -> None:
    """Waits until all processes have reached this call.

    Runs begin with one: on CPUs the first collective waits for at most 30 seconds, later ones
    indefinitely.
    """
    gather_int(0)


def gather_int(number: int) -> list[int]:
    """Returns the number passed by each process, in order; all processes must call it together."""
    if jax.process_count() == 1:
        return [number]
    return [int(given) for given in multihost_utils.process_allgather(np.int64(number))]


def _give_up_start() -> None:
    """Ends the process, reporting what is known about the processes that are missing."""
    process, processes = global_state.process_id, global_state.num_processes
    address = global_state.coordinator_address
    if process:
        host, port = address.rsplit(":", 1)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            missing = "process 0 has joined, but not all of the others"
        except OSError as error:
            missing = f"process 0 does not answer ({error.strerror or error})"
    elif processes == 2:
        missing = "process 1 has not joined"
    else:
        missing = f"not all of processes 1 to {processes - 1} have joined"
    end_at_once(
        f"error: process {process} of {processes} has waited for {_START_SECONDS} s at {address}: "
        f"{missing}.\nAll processes must start within that time. Without a scheduler, give them\n"
        "the same JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES, and each its own JAX_PROCESS_ID.",
        code=1,
    )
