"""The settings of a process, tested in others: this one has those of the test suite."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jaxcifar import environment
from tests.helpers import REPOSITORY

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
CPU = {"JAX_PLATFORMS": "cpu"}

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the settings exist on Linux only")


def test_the_flag_is_added_to_the_users_flags():
    if not environment.cpu_settings(CPU).get("XLA_FLAGS"):
        pytest.skip("this jaxlib is not known to take the flag")
    settings = environment.cpu_settings({**CPU, "XLA_FLAGS": "--xla_dump_to=x"})
    assert settings["XLA_FLAGS"].startswith(f"--xla_dump_to=x {FLAG}=")


@pytest.mark.parametrize("users", [f"{FLAG}=DOT", f"--xla_dump_to=x {FLAG}="])
def test_the_users_settings_take_precedence(users):
    assert "XLA_FLAGS" not in environment.cpu_settings({**CPU, "XLA_FLAGS": users})
    tunables = "glibc.malloc.hugetlb=0"
    assert "GLIBC_TUNABLES" not in environment.cpu_settings({**CPU, "GLIBC_TUNABLES": tunables})


@pytest.mark.parametrize(
    "environ", [{"JAX_PLATFORMS": "cuda"}, {**CPU, "JAXCIFAR_CPU_SETTINGS": "0"}]
)
def test_an_accelerator_or_a_variable_disables_the_cpu_settings(environ):
    assert environment.cpu_settings(environ) == {}


def test_an_installed_accelerator_disables_the_cpu_settings(monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: name == "libtpu")
    assert environment.cpu_settings({}) == {}
    assert environment.cpu_settings(CPU) != {} or sys.platform != "linux"


@pytest.mark.parametrize("version", ["0.9.2", "0.13.0", "1.0"])
def test_other_versions_of_jaxlib_do_not_get_the_flag(monkeypatch, version):
    monkeypatch.setattr(environment.importlib.metadata, "version", lambda name: version)
    assert "XLA_FLAGS" not in environment.cpu_settings(CPU)


def run(program, **environ):
    """Calls `prepare` in a process without the suite's settings; returns the JSON it prints."""
    names = ("XLA_FLAGS", "GLIBC_TUNABLES", "JAX_COMPILATION_CACHE_DIR")
    env = {k: v for k, v in os.environ.items() if k not in names} | environ
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from jaxcifar import environment; environment.prepare()\n" + program,
            "x",
        ],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@on_linux
def test_the_process_replaces_itself_once_with_its_arguments(tmp_path):
    program = (
        "import json, os, sys\n"
        "print(json.dumps([sys.argv, os.getpid(), environment.in_effect(), dict(os.environ)]))"
    )
    argv, _, in_effect, environ = run(program, XDG_CACHE_HOME=str(tmp_path))
    assert argv == ["-c", "x"]
    for name, value in environment.cpu_settings(CPU).items():
        assert environ[name] == value
    assert len(in_effect) == len(environment.cpu_settings(CPU))
    assert environ["JAX_COMPILATION_CACHE_DIR"].startswith(str(tmp_path / "jaxcifar" / "xla"))


def test_a_user_without_a_home_has_a_cache(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert environment.cache_directory({}, "xla").is_relative_to(tempfile.gettempdir())
    assert environment.cache_directory({"XDG_CACHE_HOME": "/x"}, "xla").is_relative_to("/x")


@on_linux
def test_compiled_programs_are_cached_for_the_next_start(tmp_path):
    program = (
        "import json, jax, jax.numpy as jnp\n"
        "jax.jit(lambda x: jnp.linalg.svd(x)[1])(jnp.ones((8, 8)))\n"
        "print(json.dumps(str(jax.config.jax_compilation_cache_dir)))"
    )
    quick = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    assert run(program, XDG_CACHE_HOME=str(tmp_path), **quick).startswith(str(tmp_path))
    assert any(path.is_file() for path in tmp_path.rglob("*"))
    theirs = run(program, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert theirs == str(tmp_path / "own")
