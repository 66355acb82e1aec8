"""The `jaxcifar` command, which runs the other command lines as sub-commands."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import tomllib
from importlib import import_module

import pytest

from jaxcifar import __version__
from jaxcifar.tools.command import COMMANDS
from tests.helpers import REPOSITORY, USERS_XLA_FLAGS

# Stands for the installed console script, which pip writes in this form.
SCRIPT = """\
import sys
from jaxcifar.tools.command import main
sys.exit(main())
"""


@pytest.fixture
def jaxcifar(run_command):
    """Runs `python -m jaxcifar`; returns exit code, stdout and stderr."""
    return lambda *arguments: run_command("jaxcifar", *arguments)[:3]


def test_help_lists_every_command_without_importing_jax():
    program = (
        "import runpy, sys; sys.argv = ['jaxcifar', '--help']\n"
        "try: runpy.run_module('jaxcifar', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print('imported:', [m for m in ('tensorflow', 'jax', 'absl') if m in sys.modules])"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert time.perf_counter() - start < 3
    assert "imported: []" in done.stdout, done.stderr
    for name, command in COMMANDS.items():
        assert f"  {name} " in done.stdout and command.help in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_each_command_names_an_existing_module(command):
    assert importlib.util.find_spec(command.module)


def test_the_console_script_is_the_same_function():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["jaxcifar"].split(":")
    assert callable(getattr(import_module(module), function))


def test_no_arguments_print_the_help_and_version_prints_the_version(jaxcifar):
    assert jaxcifar() == jaxcifar("--help")
    assert jaxcifar("--version") == (0, f"jaxcifar {__version__}\n", "")


@pytest.mark.parametrize("name", ["train", "sweep", "report", "export", "import", "show", "models"])
def test_a_command_prints_the_help_of_its_module(jaxcifar, run_command, name):
    assert jaxcifar(name, "--help") == run_command(COMMANDS[name].module, "--help")[:3]


def test_a_misspelt_command_is_explained_in_a_screen(jaxcifar):
    code, out, err = jaxcifar("rep0rt")
    assert code == 1 and not out
    assert err.startswith("error: unknown command 'rep0rt'. Did you mean 'report'?")
    assert len(err.splitlines()) == 2 and "--help" in err


def test_errors_are_those_of_the_module(jaxcifar, run_main):
    line = ("--config=configs/quickstart.py", "--config.schedule.gamma=0")
    assert jaxcifar("train", *line) == run_main(*line)
    assert jaxcifar("eval", *line) == run_main(*line, "--mode=eval")
    assert jaxcifar("reproduce") == run_main("--mode=reproduce")


def test_a_command_that_stands_for_a_mode_takes_none(jaxcifar):
    code, _, err = jaxcifar("eval", "--mode=train")
    assert code == 1 and err == "error: jaxcifar eval takes no --mode\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the process is replaced on Linux only")
def test_the_console_script_keeps_its_arguments_when_the_process_replaces_itself(tmp_path):
    """`environment.prepare` starts the interpreter a second time to set what is read at its start.

    The probe stands in for the module of `models`: it prints what the second process sees.
    """
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import json, os, sys\n"
        "from jaxcifar import environment\n"
        "environment.prepare()\n"
        "print(json.dumps([sys.argv[1:], environment.in_effect()]))\n"
    )
    script = tmp_path / "jaxcifar"
    swap = "command.COMMANDS['models'] = command.Command('probe', '')\n"
    script.write_text(f"from jaxcifar.tools import command\n{swap}{SCRIPT}")
    unset = ("XLA_FLAGS", "GLIBC_TUNABLES", "JAX_COMPILATION_CACHE_DIR")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env |= {"XLA_FLAGS": USERS_XLA_FLAGS, "PYTHONPATH": f"{REPOSITORY}:{tmp_path}"}
    done = subprocess.run(
        [sys.executable, script, "models", "--a", "b c"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    arguments, in_effect = json.loads(done.stdout)
    assert arguments == ["--a", "b c"]
    from jaxcifar.environment import cpu_settings

    assert len(in_effect) == len(cpu_settings({"JAX_PLATFORMS": "cpu"}))
