"""Environment set-up that must happen before JAX is imported: entry points call `prepare` first.

On a CPU, two settings make a train step two to four times as fast, in addition to the compiled
convolutions of `kernels.native`:

- an XLA flag that stops XLA from handing single convolutions to YNNPACK, which is slower at them,
  and sums, which YNNPACK divides into parts by the number of threads, so that they round otherwise;
- malloc settings that use huge pages and never return memory to the system. XLA allocates its
  buffers afresh in each step, and page faults would take up to half of the step. In return, the
  process never shrinks. The C library reads these settings when a process starts, so the process
  replaces itself once.

They are applied on Linux only, where JAX has no accelerator to use, for versions of jaxlib known to
accept the flag, and never override what the user has set. JAXCIFAR_CPU_SETTINGS=0 switches them
off, and the compiled convolutions as well.

Compiled programs are cached in the user's cache directory, so that later starts are quick.
JAX_COMPILATION_CACHE_DIR moves the cache, JAX_ENABLE_COMPILATION_CACHE=false switches it off.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

from jaxcifar.errors import InputError

_XLA_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_XLA_SETTING = f"{_XLA_FLAG}=-INDIVIDUAL_CONVOLUTION,-REDUCE"
# Huge pages; all memory in one heap rather than in separate mappings; and none of it returned.
_MALLOC = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:"
    f"glibc.malloc.trim_threshold={2**40}"
)
_DETERMINISTIC = "--xla_gpu_deterministic_ops"
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")


def prepare() -> None:
    """Applies the settings above; call it before importing JAX. May replace the process."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache_directory(os.environ, "xla"))
    settings = cpu_settings(os.environ)
    os.environ.update(settings)
    if "GLIBC_TUNABLES" in settings:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ)


def cpu_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables to set for speed on a CPU, with their new values.

    Args:
      environ: the environment, whose own settings take precedence.

    Returns:
      The variables to change; empty if JAX uses an accelerator or there is nothing to change.
    """
    accelerated = any(map(importlib.util.find_spec, _ACCELERATORS))
    if environ.get("JAX_PLATFORMS", "" if accelerated else "cpu") != "cpu":
        return {}
    if not cpu_settings_allowed(environ):
        return {}
    settings = {}
    flags, tunables = environ.get("XLA_FLAGS", ""), environ.get("GLIBC_TUNABLES", "")
    jaxlib = _version(importlib.metadata.version("jaxlib"))
    if _XLA_FLAG not in flags and (0, 10) <= jaxlib < (0, 13):
        settings["XLA_FLAGS"] = f"{flags} {_XLA_SETTING}".strip()
    library, version = platform.libc_ver()
    if (
        "glibc.malloc." not in tunables
        and library == "glibc"
        and _version(version) >= (2, 35)
        and _HUGE_PAGES.exists()
        and "[never]" not in _HUGE_PAGES.read_text()
    ):
        settings["GLIBC_TUNABLES"] = f"{tunables}:{_MALLOC}".lstrip(":")
    return settings


def cpu_settings_allowed(environ: Mapping[str, str]) -> bool:
    """Returns whether this is Linux and the user has not switched the CPU settings off."""
    return sys.platform == "linux" and environ.get("JAXCIFAR_CPU_SETTINGS") != "0"


def make_deterministic() -> None:
    """Restricts XLA on a GPU to deterministic operations, without autotuning.

    Call it before JAX initialises its devices, which is when XLA reads its flags.
    """
    if _DETERMINISTIC not in (flags := os.environ.get("XLA_FLAGS", "")):
        os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}=true".strip()


def in_effect() -> list[str]:
    """Returns those of the CPU settings that are active in this process, whoever set them."""
    found = re.findall(rf"{_XLA_FLAG}=\S+", os.environ.get("XLA_FLAGS", ""))
    malloc = re.findall(r"glibc\.malloc\.\w+=\d+", os.environ.get("GLIBC_TUNABLES", ""))
    return found + ([":".join(malloc)] if malloc else [])


def cache_directory(environ: Mapping[str, str], what: str) -> Path:
    """Returns the user's cache directory for programs compiled for this kind of processor.

    Args:
      environ: the environment; XDG_CACHE_HOME moves the cache.
      what: name of the subdirectory.
    """
    try:
        base = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # the user has no home directory
        base = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    # Compiled programs use the CPU's own instructions, and different machines may share a home.
    cpu = Path("/proc/cpuinfo")
    flags = (
        re.search(r"^(flags|Features).*", cpu.read_text(), re.MULTILINE) if cpu.exists() else None
    )
    kind = hashlib.sha256((flags[0] if flags else platform.processor()).encode()).hexdigest()[:8]
    return base / "jaxcifar" / what / kind


@cache
def import_tensorflow() -> ModuleType:
    """Returns TensorFlow, kept quiet and off the GPUs; the first call takes about ten seconds.

    Here it only feeds data and writes events, which oneDNN would not speed up: it is switched off,
    and with it the line that it logs.

    Raises:
      InputError: if TensorFlow, an optional dependency, cannot be imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise InputError(
            "TensorFlow, which dataset.pipeline = 'tf', dataset.name = 'image_folder' and "
            f"log.tensorboard need, cannot be imported ({error}). Install it with\n"
            "  pip install 'jaxcifar[tf]'"
        ) from error

    tf.config.set_visible_devices([], "GPU")  # it would take all of their memory
    return tf


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])
