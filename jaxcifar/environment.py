"""What must be set before a library starts: the entry points call `prepare` first of all.

On a CPU, two settings make a train step two to four times as fast, beside `models.native`:

- an XLA flag that keeps single convolutions from YNNPACK, which is slower at them;
- a malloc that takes huge pages and keeps what it has, as XLA allocates its buffers anew in each
  step, and page faults take up to half of it. The process then stays as large as it ever was. The
  C library reads this at the start, so the process replaces itself once.

They are set on Linux, for the versions of jaxlib that are known to take the flag, where JAX has no
accelerator to use, and never over what the user has set. JAXCIFAR_CPU_SETTINGS=0 switches them off,
and the compiled convolutions as well.

Compiled programs are kept in the user's cache directory, so that a second start is quick;
JAX_COMPILATION_CACHE_DIR moves them and JAX_ENABLE_COMPILATION_CACHE=false switches that off.
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
_XLA_SETTING = f"{_XLA_FLAG}=-INDIVIDUAL_CONVOLUTION"
# Huge pages; all memory in one heap, not in mappings of their own; and none of it given back.
_MALLOC = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:"
    f"glibc.malloc.trim_threshold={2**40}"
)
_DETERMINISTIC = "--xla_gpu_deterministic_ops"
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")


def prepare() -> None:
    """Sets what this module describes; call it before JAX is imported. May replace the process."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache_directory(os.environ, "xla"))
    settings = cpu_settings(os.environ)
    os.environ.update(settings)
    if "GLIBC_TUNABLES" in settings:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ)


def cpu_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables, with new values, that speed up a CPU; {} if none do."""
    accelerated = any(map(importlib.util.find_spec, _ACCELERATORS))
    if environ.get("JAX_PLATFORMS", "" if accelerated else "cpu") != "cpu":
        return {}
    if not cpu_settings_allowed(environ):
        return {}
    settings = {}
    flags, tunables = environ.get("XLA_FLAGS", ""), environ.get("GLIBC_TUNABLES", "")
    if _XLA_FLAG not in flags and (0, 10) <= _version(importlib.metadata.version("jaxlib")) < (
        0,
        13,
    ):
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
    """Returns whether this is Linux, and the user has not switched them off."""
    return sys.platform == "linux" and environ.get("JAXCIFAR_CPU_SETTINGS") != "0"


def make_deterministic() -> None:
    """Has XLA use only operations on a GPU that give the same bits each time, and no autotuning.

    Call it before JAX has looked for its devices, which is when XLA reads its flags.
    """
    if _DETERMINISTIC not in (flags := os.environ.get("XLA_FLAGS", "")):
        os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}=true".strip()


def in_effect() -> list[str]:
    """Returns the two settings as far as this process has them, whoever set them."""
    found = re.findall(rf"{_XLA_FLAG}=\S+", os.environ.get("XLA_FLAGS", ""))
    malloc = re.findall(r"glibc\.malloc\.\w+=\d+", os.environ.get("GLIBC_TUNABLES", ""))
    return found + ([":".join(malloc)] if malloc else [])


def cache_directory(environ: Mapping[str, str], what: str) -> Path:
    """Returns where the user keeps what was compiled for this kind of processor."""
    try:
        base = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        base = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    # Programs for a CPU hold its instructions, and a home directory may be shared by several kinds.
    cpu = Path("/proc/cpuinfo")
    flags = (
        re.search(r"^(flags|Features).*", cpu.read_text(), re.MULTILINE) if cpu.exists() else None
    )
    kind = hashlib.sha256((flags[0] if flags else platform.processor()).encode()).hexdigest()[:8]
    return base / "jaxcifar" / what / kind


@cache
def import_tensorflow() -> ModuleType:
    """Returns TensorFlow, kept quiet and off the GPUs; the first call takes some ten seconds.

    It feeds data and writes events here, for which oneDNN has no use but a line of log.

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
