import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jaxcifar.main
from jaxcifar.errors import InputError
from jaxcifar.tools import cli
from tests.helpers import REPOSITORY


def test_help_is_quick_and_imports_no_framework():
    program = (
        "import runpy, sys; sys.argv = ['main', '--help']\n"
        "try: runpy.run_module('jaxcifar.main', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print('imported:', [m for m in ('tensorflow', 'jax', 'clu') if m in sys.modules])"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert time.perf_counter() - start < 3
    assert "imported: []" in done.stdout, done.stderr
    for flag in ("--config", "--workdir", "--mode", "accept_config_change", "debug"):
        assert flag in done.stdout


def test_main_stays_short():
    assert len(Path(jaxcifar.main.__file__).read_text().splitlines()) < 70


QUICKSTART = "--config=configs/quickstart.py"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--config must name a recipe"),
        (["--mode=reproduce"], "--mode reproduce and --on take --workdir and no --config"),
        (["--config=configs/resnet57.py"], "configs/resnet57.py"),
        (
            ["--config=configs/resnet20.py:smok"],
            "error: flag --config=configs/resnet20.py:smok: recipe argument 'smok': must be smoke",
        ),
        (
            [QUICKSTART, "--config.optimizer.learning_rat=1"],
            "Did you mean 'optimizer.learning_rate'",
        ),
        ([QUICKSTART, "--config.optimiser.learning_rate=1"], "Did you mean 'optimizer'"),
        ([QUICKSTART, "--config.train.batch-size=1"], "Did you mean 'train.batch_size'"),
        ([QUICKSTART, "--noconfig.log.tensorbord"], "Did you mean 'log.tensorboard'"),
        ([QUICKSTART, "--config.eval=1"], "eval is a section of the config; its fields: eval.b"),
        (
            [QUICKSTART, "--config.log.tensorboard=no"],
            "error: --config.log.tensorboard=no: must be True or False\n",
        ),
        (
            [QUICKSTART, "--config.train.batch_size=many"],
            "error: --config.train.batch_size=many: must be a whole number, from 1 to 1048576\n",
        ),
        ([QUICKSTART, "--config.train.seed=1.5"], "seed=1.5: must be a whole number, at least 0"),
        (
            [QUICKSTART, "--config.optimizer.learning_rate=0,1"],
            "error: --config.optimizer.learning_rate=0,1: must be a number, above 0\n",
        ),
        (
            [QUICKSTART, "--config.schedule.milestones_epochs=(12, 16"],
            "error: --config.schedule.milestones_epochs=(12, 16: must be increasing numbers above",
        ),
        (
            [QUICKSTART, "--accept_config_change=maybe"],
            "error: --accept_config_change=maybe: must be True or False\n",
        ),
        ([QUICKSTART, "--mode=trian"], "--mode=trian"),
        ([QUICKSTART, "--wordir=x"], "wordir"),
        ([QUICKSTART, "evaluate"], "unexpected argument 'evaluate'"),
    ],
)
def test_a_bad_command_line_is_explained_in_a_screen(run_main, arguments, message):
    code, out, err = run_main(*arguments)
    assert code != 0
    assert message in err
    assert "Traceback" not in err and len(err.splitlines()) < 12, err
    assert not out


def test_a_bad_config_leaves_nothing_behind(run_main, tmp_path):
    code, _, err = run_main(
        QUICKSTART, f"--workdir={tmp_path / 'run'}", "--config.schedule.gamma=0"
    )
    assert code != 0
    assert "error: schedule.gamma = 0.0: must be above 0 and below 1" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_debug_shows_the_traceback(run_main):
    _, _, err = run_main(QUICKSTART, "--config.schedule.gamma=0", "--debug")
    assert "Traceback" in err and "schedule.gamma" in err


def test_a_recipe_at_a_factor_of_its_length_says_so_and_has_a_workdir_of_its_own(
    command_lines, tmp_path
):
    recipe = f"--config={REPOSITORY}/configs/quickstart.py:0.05"
    fields = ["--config.model.name=resnet8", "--config.log.tensorboard=False"]
    done = command_lines.run("jaxcifar.main", recipe, *fields, cwd=tmp_path, timeout=300)
    assert done.code == 0, done.err
    assert done.out.startswith("0.05 of the recipe's length\n")
    manifest = json.loads((tmp_path / "runs" / "quickstart_0.05" / "manifest.json").read_text())
    assert manifest["config"]["train"]["num_epochs"] == 1.0
    assert manifest["config"]["schedule"]["milestones_epochs"] == [0.6, 0.8]
    assert manifest["end"]["step"] == 22


@pytest.mark.parametrize(
    "encoding, name, problem",
    [
        ("iso8859-1", "r\u00e9", r"encoding is iso8859-1: set PYTHONUTF8=1, or choose"),
        ("ascii", "r\udcc3\udca9", r"encoding is ascii: set PYTHONUTF8=1, or choose"),
        ("utf-8", "r\udce9", r"it is not valid UTF-8, as Orbax needs it; choose"),
        ("utf-8", "r\u00e9", None),
        ("iso8859-1", "plain", None),
    ],
)
def test_a_workdir_that_orbax_would_look_for_elsewhere_is_refused(
    monkeypatch, tmp_path, encoding, name, problem
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: encoding)
    monkeypatch.setattr("os.fsencode", lambda path: str(path).encode(encoding, "surrogateescape"))
    if problem:
        with pytest.raises(InputError, match=f"--workdir=r[x\\\\udc39ae]+: .*{problem}"):
            cli.run_directory("workdir", name)
    else:
        assert cli.run_directory("workdir", name).name == name
