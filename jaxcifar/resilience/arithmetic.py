"""What the rounding of a run's results depends on, on a CPU: its convolutions and its threads.

The manifest records it at each start. Where it differs at a resume, the run would end with other
bits than one that is left alone.
"""

import hashlib
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxcifar import environment
from jaxcifar.errors import InputError
from jaxcifar.kernels import batch_norm, convolution, native
from jaxcifar.kernels.backend import is_cpu

XLA = "XLA"


def describe() -> dict[str, Any]:
    """Returns what results on a CPU depend on; {} on other backends.

    Returns:
      A dict with `convolutions`, the compiler of the C++ convolutions or "XLA"; `bits`, a hash of
      their results on fixed inputs; `instructions`, a hash of the processor's instruction sets; and
      `threads`, the number of threads that share the work of an operation.
    """
    if not is_cpu():
        return {}
    return {
        "convolutions": native.compiler() or XLA,
        "bits": _bits(native.compiler()),
        "instructions": environment.cache_directory({"XDG_CACHE_HOME": "/"}, "").name,
        "threads": _threads(),
    }


def check(workdir: Path, saved: dict[str, Any], config: ConfigDict, *, accept: bool) -> list[str]:
    """Checks that a run can be resumed with this process's convolutions and threads.

    Args:
      workdir: directory of the run.
      saved: what `describe` returned at the run's last start; {} if that was not recorded.
      config: config of the run.
      accept: whether the convolutions may give other bits.

    Returns:
      Warnings about differences with which the last bits may differ.

    Raises:
      InputError: if the convolutions give other bits, unless that is accepted.
    """
    now = describe()
    if not saved or not now:
        return []
    warnings = []
    if found := change(saved, config):
        lines = f"  saved {found['old']}\n  now   {found['new']}"
        if not accept:
            raise InputError(
                f"the convolutions differ from those of the run in {workdir}, and give other "
                f"bits:\n{lines}\nUse the same compiler (CXX) and kind of processor, or resume "
                "with other last bits: --accept_config_change."
            )
        warnings.append(f"resuming with other convolutions, which give other bits:\n{lines}")
    if saved.get("threads") != now["threads"] and _depends_on_threads(config):
        warnings.append(
            f"resuming with {now['threads']} threads instead of {saved.get('threads')}; the last "
            "bits may differ from those of a run with the same number throughout"
        )
    return warnings


def change(saved: dict[str, Any], config: ConfigDict) -> dict[str, str]:
    """Returns the `old` and the `new` convolutions if they give other bits, else {}.

    Args:
      saved: what `describe` returned at an earlier start; {} if that was not recorded.
      config: config of the run; in float16 the convolutions are always XLA's.
    """
    now = describe()
    if not saved or not now or config.train.precision == "float16":
        return {}
    if saved.get("bits") == now["bits"]:
        return {}

    def text(of: dict[str, Any]) -> str:
        return f"{of.get('convolutions')}, processor {of.get('instructions')}"

    return {"old": text(saved), "new": text(now)}


def _depends_on_threads(config: ConfigDict) -> bool:
    """Whether any of the run's sums may be divided by the number of threads."""
    flags = " ".join(environment.in_effect())
    fixed = native.compiler() is not None and "-REDUCE" in flags
    return config.train.precision != "float32" or not fixed


def _threads() -> int:
    """The number of threads in XLA's pool."""
    asked = next((v for n in ("PJRT_NPROC", "NPROC") if (v := os.environ.get(n))), "")
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    count = int(asked) if re.fullmatch(r"[1-9]\d*", asked) else len(cores)
    return max(count, jax.local_device_count())


@cache
def _bits(compiler: str | None) -> str:
    """A hash of the convolutions' results and gradients, and of the sums', on fixed inputs."""
    del compiler  # part of the cache's key
    random = np.random.RandomState(0)

    def results(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> list[jax.Array]:
        arrays: list[jax.Array] = []
        for stride in (1, 2):
            y, pull = jax.vjp(
                lambda x, kernel, stride=stride: convolution.conv_general_dilated(
                    x, kernel, (stride, stride), ((1, 1), (1, 1))
                ),
                x,
                kernel,
            )
            arrays += [y, *pull(dy[:, ::stride, ::stride])]
        return arrays + list(batch_norm.batch_statistics(x, None))

    shapes = ((2, 8, 8, 32), (3, 3, 32, 32), (2, 8, 8, 32))
    inputs = (jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes)
    found = jax.device_get(jax.jit(results)(*inputs))
    return hashlib.sha256(b"".join(array.tobytes() for array in found)).hexdigest()[:16]
