"""Invalid input to the command lines: a short error, and no file is changed or left behind."""

import gzip
import hashlib
import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tests.helpers import REPOSITORY

MAIN, MODELS = "jaxcifar.main", "jaxcifar.tools.models"
EXPORT, IMPORT = "jaxcifar.tools.export", "jaxcifar.tools.import_weights"
SHOW, PREPARE = "jaxcifar.tools.show", str(REPOSITORY / "scripts" / "prepare_data.py")
QUICKSTART = f"--config={REPOSITORY}/configs/quickstart.py"
SMALL = [
    *(QUICKSTART, "--config.model.name=resnet8", "--config.log.tensorboard=False"),
    *("--config.schedule.name=constant", "--config.schedule.milestones_epochs=()"),
    *("--config.train.num_epochs=0", "--config.train.num_steps=2", "--workdir=run"),
]
RECIPE = """
from jaxcifar.config import default
def get_config():
    config = default()
    config.dataset.name, config.model.name, config.train.num_steps = "digits", "resnet8", 2
    {change}
    return config
"""


def contents(directory):
    """Returns what a directory holds: digests of files, None for directories, targets of links."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else None
    return found


@pytest.fixture
def refused(command_lines, tmp_path):
    """Runs an invalid command in `tmp_path`, checks that it fails cleanly; returns its error."""

    def run(target, arguments, *messages):
        before = contents(tmp_path)
        done = command_lines.run(target, *arguments, cwd=tmp_path, timeout=120)
        shown = f"exit code {done.code}, {done.seconds:.0f} s\n{done.out}{done.err}"
        assert done.code not in (0, None) and done.code > 0, shown
        assert "Traceback" not in done.err and not done.out, shown
        assert len(done.err.splitlines()) <= 12 and len(done.err) < 2000, shown
        assert re.search("^(error: |usage: prepare_data.py)", done.err, re.MULTILINE), shown
        for message in messages:
            assert message in done.err, shown
        after = contents(tmp_path)
        changed = {p for p in before.keys() | after.keys() if before.get(p, 0) != after.get(p, 0)}
        changed -= {"run/lock"}  # names the last writer
        assert not changed, f"{changed} changed\n{shown}"
        return done.err

    return run


# Command line ------------------------------------------------------------------------------------

COMMANDS = {
    "main: nothing": (MAIN, [], ["--config"]),
    "main: unknown flag": (MAIN, [QUICKSTART, "--wordir=x"], ["wordir", "Did you mean: workdir"]),
    "main: argument": (MAIN, [QUICKSTART, "train"], ["unexpected argument 'train'"]),
    "main: unknown mode": (MAIN, [QUICKSTART, "--mode=trian"], ["--mode=trian", "train|eval"]),
    "main: flag without value": (MAIN, ["--config"], ["--config"]),
    "main: empty config": (MAIN, ["--config="], ["--config"]),
    "main: empty workdir": (MAIN, [QUICKSTART, "--workdir="], ["--workdir"]),
    "main: bool is no bool": (
        MAIN,
        [QUICKSTART, "--debug=maybe"],
        ["--debug=maybe", "must be True or False"],
    ),
    "main: no such recipe": (MAIN, ["--config=nowhere/r.py"], ["nowhere/r.py"]),
    "main: recipe is a directory": (MAIN, [f"--config={REPOSITORY}/configs"], ["configs"]),
    "main: recipe of another kind": (MAIN, [f"--config={REPOSITORY}/README.md"], ["README.md"]),
    "main: unknown variant": (
        MAIN,
        [f"--config={REPOSITORY}/configs/resnet20.py:smok"],
        ["recipe argument 'smok'", "smoke or a number above 0"],
    ),
    "main: length of zero": (MAIN, [QUICKSTART + ":0"], ["recipe argument '0'", "above 0"]),
    "main: unknown network": (
        MAIN,
        [f"--config={REPOSITORY}/configs/densenet121.py:densenet211,0.1"],
        ["recipe argument 'densenet211,0.1'", "densenet201", "cifar100", "smoke"],
    ),
    "main: eval without a run": (MAIN, [*SMALL, "--mode=eval"], ["run", "no checkpoint"]),
    "main: workdir below a file": (MAIN, [*SMALL, "--workdir=/dev/null/run"], ["/dev/null"]),
    "main: workdir not writable": (MAIN, [*SMALL, "--workdir=/proc/run"], ["/proc/run"]),
    "export: nothing": (EXPORT, [], ["--to"]),
    "export: no run named": (EXPORT, ["--to=torch"], ["give the directory of one run"]),
    "export: no format": (EXPORT, ["run"], ["--to"]),
    "export: unknown format": (EXPORT, ["run", "--to=onnxx"], ["--to=onnxx", "torch"]),
    "export: no run": (EXPORT, ["run", "--to=torch"], ["run: not a run", "manifest.json"]),
    "import: nothing": (IMPORT, [], ["--config"]),
    "import: no file": (IMPORT, [*SMALL, "--from=torch"], ["--file"]),
    "import: no direction": (IMPORT, [*SMALL, "--file=x"], ["--from"]),
    "import: no such file": (IMPORT, [*SMALL, "--file=x", "--from=torch"], ["x", "safetensors"]),
    "import: empty file name": (IMPORT, [*SMALL, "--file=", "--from=torch"], ["--file"]),
    "import: empty workdir": (
        IMPORT,
        [*SMALL, "--workdir=", "--file=x", "--from=torch"],
        ["--workdir"],
    ),
    "models: unknown flag": (MODELS, ["--cfg=x"], ["cfg"]),
    "models: unknown name": (
        MODELS,
        [QUICKSTART, "--config.model.name=resnet21"],
        ["model.name 'resnet21'", "resnet20"],
    ),
    "models: argument": (MODELS, ["resnet20"], ["unexpected argument 'resnet20'"]),
    "show: nothing": (SHOW, [], ["--config"]),
    "show: not a PNG": (SHOW, [QUICKSTART, "--out=grid.jpg"], ["grid.jpg", ".png"]),
    "show: negative step": (SHOW, [QUICKSTART, "--step=-1"], ["--step=-1", "non-negative"]),
    "show: no images": (SHOW, [QUICKSTART, "--count=0"], ["--count=0", "positive"]),
    "show: step is no number": (SHOW, [QUICKSTART, "--step=last"], ["--step=last"]),
    "show: out below a file": (SHOW, [QUICKSTART, "--out=/dev/null/x.png"], ["/dev/null"]),
    "show: out not writable": (SHOW, [QUICKSTART, "--out=/proc/x.png"], ["/proc/x.png"]),
    "prepare: nothing": (PREPARE, [], ["source"]),
    "prepare: unknown flag": (PREPARE, ["x", "--dir=y"], ["--dir=y"]),
    "prepare: two sources": (PREPARE, ["x", "y"], ["y"]),
    "prepare: no such file": (PREPARE, ["x.tar.gz"], ["x.tar.gz", "no such file"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_command_line_is_explained(refused, name):
    target, arguments, messages = COMMANDS[name]
    refused(target, arguments, *messages)


@pytest.mark.parametrize(
    "name",
    ["main: unknown flag", "import: no such file", "models: unknown name", "prepare: no such file"],
)
def test_a_separate_process_prints_the_same_error(refused, tmp_path, name):
    target, arguments, messages = COMMANDS[name]
    done = subprocess.run(
        [sys.executable, *([target] if target.endswith(".py") else ["-m", target]), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == refused(target, arguments, *messages)


@pytest.mark.parametrize(
    "target, arguments",
    [
        (MAIN, [QUICKSTART, "--config.train.batch_size=0"]),
        (MAIN, [QUICKSTART, "--wordir=x"]),
        (MAIN, [*SMALL, "--workdir=/dev/null/run"]),
        (PREPARE, ["x.tar.gz"]),
    ],
)
def test_debug_shows_the_traceback(command_lines, tmp_path, target, arguments):
    done = command_lines.run(target, *arguments, "--debug", cwd=tmp_path)
    assert done.code and done.err.count("Traceback") >= 1


@pytest.mark.parametrize(
    "error, code, messages",
    [
        (
            "jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.')",
            1,
            ["error: out of device memory", "9 bytes", "train.batch_size"],
        ),
        ("KeyboardInterrupt()", 130, []),
    ],
)
def test_running_out_of_memory_and_ctrl_c_print_no_traceback(
    command_lines, tmp_path, error, code, messages
):
    script = tmp_path / "script.py"
    text = f"import jax\nfrom jaxcifar.tools import cli\ndef main():\n    raise {error}\n"
    script.write_text(text + "from absl import flags\ncli.run(main, '')\n")
    done = command_lines.run(str(script), cwd=tmp_path)
    assert done.code == code and not done.out
    assert "Traceback" not in done.err and all(message in done.err for message in messages)


# Configs -----------------------------------------------------------------------------------------

FIELDS = {
    "train.batch_size=many": ["train.batch_size=many"],
    "train.batch_size=1.5": ["train.batch_size=1.5"],
    "train.batch_size=": ["train.batch_size="],
    "train.batch_size=0": ["train.batch_size = 0", "from 1 to 1048576"],
    "train.batch_size=1000000000000": ["train.batch_size"],
    "train.num_steps=-1": ["train.num_steps = -1", "at least 0"],
    "train.num_steps=99999999999": ["train.num_steps = 99999999999"],
    "train.seed=4294967296": ["train.seed = 4294967296", "below 4294967296"],
    "train.precision=float8": ["train.precision = 'float8'", "bfloat16"],
    "train.accumulation_steps=7": ["train.accumulation_steps = 7", "divide"],
    "train.early_stopping_patience=3": ["early_stopping_patience", "validation_size"],
    "dataset.name=cifar1O": ["dataset.name 'cifar1O'", "'cifar10'"],
    "dataset.name=": ["dataset.name ''", "cifar10"],
    "dataset.validation_size=1437": ["dataset.validation_size = 1437", "1438 training images"],
    "dataset.labels=coarse": ["dataset.labels", "cifar100"],
    "dataset.data_dir=x": ["dataset.data_dir = 'x' has no effect"],
    "augment.crop_padding=100000": ["augment.crop_padding = 100000"],
    "augment.policy=none2": ["augment.policy 'none2'", "randaugment"],
    "augment.fill=-1": ["augment.fill = -1", "from 0 to 255"],
    "augment.erasing_probability=nan": ["augment.erasing_probability = nan", "from 0 to 1"],
    "model.depth=7": ["depth = 7", "6n + 2"],
    "model.depth=6000002": ["model.depth = 6000002"],
    "model.name=../../etc/passwd": ["model.name '../../etc/passwd'"],
    "optimizer.learning_rate=inf": ["optimizer.learning_rate = inf", "above 0"],
    "optimizer.learning_rat=1": ["optimizer.learning_rat", "optimizer.learning_rate"],
    "optimiser.name=sgd": ["optimiser", "'optimizer'"],
    "optimizer=sgd": ["optimizer"],
    "optimizer.beta1=0.5": ["optimizer.beta1", "adamw"],
    "schedule.milestones_epochs=(16,12)": ["schedule.milestones_epochs", "increasing"],
    "schedule.milestones_epochs=(12,nan)": ["schedule.milestones_epochs"],
    "train.num_epochs=1e300": ["train.num_steps or _epochs", "2147483647"],
    "schedule.milestones_epochs=(12,inf)": ["schedule.milestones_epochs", "increasing"],
    "schedule.milestones_epochs=(12,": ["schedule.milestones_epochs"],
    "schedule.milestones_epochs=(12,99)": [
        *("schedule.milestones", "end of the schedule", "--config=configs/resnet56.py:0.1"),
    ],
    "schedule.every_steps=9": ["'schedule.every_steps'", "renamed to 'schedule.step_every_steps'"],
    "schedule.cycle_epochs=3": ["schedule.cycle_epochs", "warm_restarts"],
    "schedule.warmup_epochs=1e300": ["schedule.warmup"],
    "log.every_steps=-1": ["log.every_steps = -1", "at least 0"],
    "eval.checkpoint=last": ["eval.checkpoint = 'last'", "latest"],
    "eval.test_time_shift=8": ["eval.test_time_shift = 8", "8x8"],
    "augment.groups=((0.5,(('blur',1.0),)),)": ["augment.groups"],
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_bad_field_on_the_command_line_is_named(refused, field):
    refused(MAIN, [QUICKSTART, "--workdir=run", f"--config.{field}"], *FIELDS[field])


GROUPS = "config.augment.policy = 'one_of_groups'; config.augment.groups = "
RECIPES = {
    "syntax error": ("def get_config(:\n    pass\n", ["recipe.py", "line 1"]),
    "binary": (b"\x00\xff\x00", ["recipe.py"]),
    "empty": ("", ["recipe.py", "get_config"]),
    "get_config is no function": ("get_config = 1", ["recipe.py"]),
    "returns nothing": ("def get_config():\n    pass\n", ["recipe.py", "None"]),
    "returns a dict": ("def get_config():\n    return {'train': 1}\n", ["recipe.py"]),
    "raises": ("def get_config():\n    return 1 / 0\n", ["recipe.py", "division by zero"]),
    "ends the process": ("def get_config():\n    raise SystemExit(0)\n", ["recipe.py"]),
    "imports what is not there": ("import nothing_of_the_kind\n", ["nothing_of_the_kind"]),
    "an empty config": (
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n",
        ["the config has no ", "jaxcifar.config.default()"],
    ),
    "unknown field": (
        RECIPE.format(change="config.train.momentun = 1"),
        ["recipe.py", "momentun"],
    ),
    "added field": (
        RECIPE.format(change="config.unlock(); config.train.momentun = 1"),
        ["train.momentun"],
    ),
    "a field's old name": (
        RECIPE.format(change="config.schedule.rise = 0.5"),
        ["recipe.py", "'schedule.rise'", "renamed to 'schedule.rise_fraction'"],
    ),
    "missing field": (RECIPE.format(change="config.unlock(); del config.train.seed"), ["seed"]),
    "missing section": (RECIPE.format(change="config.unlock(); del config.eval"), ["eval"]),
    "section is a number": (
        RECIPE.format(change="config.unlock(); config.eval = 1"),
        ["eval"],
    ),
    "text for a number": (
        RECIPE.format(change="config.train.batch_size = '64'"),
        ["recipe.py", "str", "int"],
    ),
    "None for a number": (RECIPE.format(change="config.train.batch_size = None"), ["batch_size"]),
    "number for a name": (RECIPE.format(change="config.dataset.name = 10"), ["recipe.py"]),
    "a list of text": (
        RECIPE.format(
            change="config.schedule.name = 'multistep'; config.schedule.milestones_steps = ('1',)"
        ),
        ["schedule.milestones_steps = ('1',)", "increasing"],
    ),
    "groups of numbers": (RECIPE.format(change=GROUPS + "(1, 2)"), ["augment.groups"]),
    "groups out of range": (
        RECIPE.format(change=GROUPS + "((2.0, (('to_gray', 1.0),)),)"),
        ["one_of_groups", "from 0 to 1"],
    ),
    "groups without members": (
        RECIPE.format(change=GROUPS + "((0.5, ()),)"),
        ["one_of_groups", "at least one must be above 0"],
    ),
    "groups with negative weights": (
        RECIPE.format(change=GROUPS + "((0.5, (('to_gray', -1.0),)),)"),
        ["one_of_groups", "must be 0 or more"],
    ),
    "block layers of text": (
        RECIPE.format(
            change="config.model.name = 'densenet121'; config.model.block_layers = ('a',)"
        ),
        ["model.block_layers = ('a',)"],
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_bad_recipe_is_explained(refused, tmp_path, name):
    text, messages = RECIPES[name]
    path = tmp_path / "recipe.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(MAIN, [f"--config={path}", "--workdir=run"], *messages)


def test_an_argument_for_a_recipe_that_takes_none(refused, tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE.format(change=""))
    refused(MAIN, [f"--config={path}:0.1", "--workdir=run"], "recipe.py:0.1")


# Workdirs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_of_digits(command_lines, tmp_path_factory):
    """A directory with a finished run of two steps in `run`."""
    directory = tmp_path_factory.mktemp("digits")
    done = command_lines.run(MAIN, *SMALL, cwd=directory)
    assert done.code == 0, done.err
    return directory


WORKDIRS = {
    "a file": (lambda run: run.write_text("x"), [], ["run is not a directory"]),
    "a name that Orbax cannot read": (
        lambda run: None,
        ["--workdir=runs/lr[0.1]"],
        ["--workdir=runs/lr[0.1]", "Orbax", "choose another --workdir"],
    ),
    "a link to nowhere": (lambda run: run.symlink_to("nowhere"), [], ["run"]),
    "checkpoints is a file": (
        lambda run: (run.mkdir(), (run / "checkpoints").write_text("x")),
        [],
        ["checkpoints"],
    ),
    "manifest is no JSON": (
        lambda run: (run.mkdir(), (run / "manifest.json").write_text("{")),
        [],
        ["manifest.json"],
    ),
    "manifest is a list": (
        lambda run: (run.mkdir(), (run / "manifest.json").write_text("[1]")),
        [],
        ["manifest.json"],
    ),
    "manifest is a directory": (
        lambda run: (run / "manifest.json").mkdir(parents=True),
        [],
        ["manifest.json"],
    ),
    "manifest is no text": (
        lambda run: (run.mkdir(), (run / "manifest.json").write_bytes(b"\xff\x00")),
        [],
        ["manifest.json"],
    ),
    "manifest is nested too deeply": (
        lambda run: (run.mkdir(), (run / "manifest.json").write_text("[" * 100_000)),
        [],
        ["manifest.json", "not a valid manifest"],
    ),
    "lock is a directory": (
        lambda run: (run / "lock").mkdir(parents=True),
        [],
        ["run/lock: cannot be written to: Is a directory"],
    ),
    "rows without a checkpoint": (
        lambda run: (run.mkdir(), (run / "metrics.csv").write_text("step,epoch,split\n9,1,test\n")),
        [],
        ["run/checkpoints: no checkpoint, but metrics.csv has rows up to step 9"],
    ),
    "no checkpoints to evaluate": (
        lambda run: (run / "checkpoints").mkdir(parents=True),
        ["--mode=eval"],
        ["checkpoints", "no checkpoint"],
    ),
    "an empty checkpoint": (
        lambda run: (run / "checkpoints" / "9").mkdir(parents=True),
        [],
        ["checkpoints", "step 9", "--workdir"],
    ),
    "an empty checkpoint to evaluate": (
        lambda run: (run / "checkpoints" / "9").mkdir(parents=True),
        ["--mode=eval"],
        ["checkpoints", "9"],
    ),
}


@pytest.mark.parametrize("name", WORKDIRS)
def test_an_unusable_workdir_is_explained(refused, tmp_path, name):
    prepare, arguments, messages = WORKDIRS[name]
    prepare(tmp_path / "run")
    refused(MAIN, [*SMALL, *arguments], *messages)


@pytest.mark.parametrize(
    "target, arguments, messages",
    [
        (MAIN, ["--config.model.name=resnet14"], ["model.name", "another --workdir"]),
        (MAIN, ["--config.model.name=resnet14", "--accept_config_change"], ["model.name"]),
        (MAIN, ["--config.train.num_steps=3"], ["train.num_steps", "--accept_config_change"]),
        (MAIN, ["--mode=eval", "--config.train.num_steps=3"], ["num_steps", "the run's config."]),
        (MAIN, ["--mode=eval", "--config.eval.checkpoint=1"], ["eval.checkpoint", "latest, 2"]),
        (MAIN, ["--mode=eval", "--config.eval.checkpoint=best"], ["validation_size"]),
        (IMPORT, ["--from=torch", "--file=x"], ["already contains checkpoints"]),
    ],
)
def test_commands_refuse_a_run_of_another_config(
    refused, run_of_digits, tmp_path, target, arguments, messages
):
    shutil.copytree(run_of_digits / "run", tmp_path / "run")
    refused(target, [*SMALL, *arguments], *messages)


@pytest.mark.parametrize("file", ["/proc/x", "/dev/null/x", "run"])
@pytest.mark.parametrize("to", ["torch", "npz", "stablehlo"])
def test_a_file_that_cannot_be_written_is_named(refused, run_of_digits, tmp_path, to, file):
    shutil.copytree(run_of_digits / "run", tmp_path / "run")
    refused(EXPORT, ["run", f"--to={to}", f"--file={file}"], file.removesuffix("/x"))


@pytest.mark.parametrize("value", ["empty", "text", "flipped header", "nan", "other"])
def test_damaged_weights_are_refused(refused, tmp_path, value):
    path = tmp_path / "w.safetensors"
    save_file({"conv1.weight": np.zeros((2, 2), np.float32)}, path)
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"weights",
            "flipped header": b"\xff" + data[1:],
            "nan": data[:-3],
            "other": data,
        }[value]
    )
    refused(IMPORT, [*SMALL, "--from=torch", f"--file={path}"], str(path))


# Data --------------------------------------------------------------------------------------------


def tar_of(files, **info):
    """An uncompressed tar of files by name; keywords are fields of every member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for field, value in info.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


class Exploit:
    def __reduce__(self):
        return os.system, ("touch was_here",)


BINARY = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin", "batches.meta.txt"]
PYTHON = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"]
NPM = [name.replace("bin", "png") for name in BINARY[:-1]]
NPM += ["train_lables.json", "test_lables.json"]
RECORDS = bytes(3073 * 10_000)


def python_version(value):
    return tar_of(dict.fromkeys(PYTHON, pickle.dumps(value)))


def npm_package(image=b"", labels=b"[0]"):
    return tar_of({name: labels if "json" in name else image for name in NPM})


def png(size):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


def bomb():
    # The standard allows gzip files one after another.
    return gzip.compress(bytes(25 * 2**20), 1) * 20


ARCHIVES = {
    "empty": (lambda: b"", ["a.tgz", "not a readable tar"]),
    "a web page": (lambda: b"<html>404</html>" * 100, ["a.tgz", "not a readable tar"]),
    "gzip of text": (lambda: gzip.compress(b"text" * 1000), ["a.tgz", "not a readable tar"]),
    "gzip cut short": (
        lambda: gzip.compress(tar_of(dict.fromkeys(BINARY, b"x" * 9999)))[:-9],
        ["a.tgz", "not a readable tar"],
    ),
    "tar cut short": (
        lambda: tar_of(dict.fromkeys(BINARY, b"x" * 9999))[:-30_000],
        ["a.tgz", "not a readable tar"],
    ),
    "bomb": (bomb, ["a.tgz", "too large"]),
    "sparse bomb": (
        lambda: tar_of(
            dict.fromkeys(BINARY, b""),
            pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": str(10**12)},
        ),
        ["a.tgz", "no complete data set"],
    ),
    "other files": (lambda: tar_of({"a": b"x"}), ["no complete data set", "cifar-10-binary"]),
    "a file is missing": (
        lambda: tar_of(dict.fromkeys(BINARY[1:], b"")),
        ["no complete data set"],
    ),
    "names that lead out": (
        lambda: tar_of({f"../../{name}": b"x" for name in BINARY}),
        ["data_batch_1.bin", "1 bytes"],
    ),
    "absolute names": (
        lambda: tar_of({f"/{name}": b"x" for name in BINARY}),
        ["data_batch_1.bin", "1 bytes"],
    ),
    "absolute links": (
        lambda: tar_of(dict.fromkeys(BINARY, b""), type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        ["no complete data set"],
    ),
    "hard links": (
        lambda: tar_of(dict.fromkeys(BINARY, b""), type=tarfile.LNKTYPE, linkname="../x"),
        ["no complete data set"],
    ),
    "devices": (
        lambda: tar_of(dict.fromkeys(BINARY, b""), type=tarfile.CHRTYPE),
        ["no complete data set"],
    ),
    "records cut short": (
        lambda: tar_of(dict.fromkeys(BINARY, RECORDS[:-1])),
        ["data_batch_1.bin", "30729999 bytes", "are 30730000"],
    ),
    "wrong label": (
        lambda: tar_of(
            dict.fromkeys(BINARY, b"") | {BINARY[0]: RECORDS[:-3073] + b"\x0a" + RECORDS[-3072:]}
        ),
        ["data_batch_1.bin", "record 9999", "label 10", "from 0 to 9"],
    ),
    "wrong images": (
        lambda: tar_of(dict.fromkeys(BINARY, b"") | {BINARY[0]: RECORDS}),
        ["data_batch_1.bin", "SHA-256"],
    ),
    "pickle that runs code": (
        lambda: python_version({"data": Exploit()}),
        ["data_batch_1", "posix.system"],
    ),
    "pickle of a class": (lambda: python_version({"data": Path()}), ["pathlib"]),
    "damaged pickle": (
        lambda: tar_of(dict.fromkeys(PYTHON, b"\x80\x04junk")),
        ["data_batch_1", "not a readable pickle"],
    ),
    "pickle of a list": (lambda: python_version([1]), ["data_batch_1", "a list", "a dict"]),
    "pickle of other images": (
        lambda: python_version({"data": np.zeros((2, 99), "u1"), "labels": [0], "label_names": []}),
        ["data_batch_1", "uint8 array [N, 3072]"],
    ),
    "pickle of no names": (
        lambda: python_version({"data": np.zeros((1, 3072), "u1"), "labels": [0]}),
        ["batches.meta", "label_names"],
    ),
    "sheet of another size": (lambda: npm_package(png((32, 32))), ["data_batch_1.png", "(32, 32)"]),
    "sheet that is none": (lambda: npm_package(b"GIF89a"), ["data_batch_1.png", "PNG"]),
    "labels that are none": (lambda: npm_package(labels=b"{"), ["train_lables.json"]),
    "labels of no end": (lambda: npm_package(labels=b"[" * 99_999), ["train_lables.json"]),
    "labels in a table": (lambda: npm_package(labels=b"[[1]]"), ["train_lables.json"]),
    "labels out of range": (lambda: npm_package(labels=b"[256]"), ["train_lables.json"]),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_damaged_archive_is_refused(refused, tmp_path, name):
    make, messages = ARCHIVES[name]
    (tmp_path / "a.tgz").write_bytes(make())
    refused(PREPARE, ["a.tgz", "--data_dir=tfds"], *messages)


def test_a_directory_without_data_is_refused(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(PREPARE, ["empty"], "empty", "no complete data set")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images: two classes, four images of each for training and two for testing."""
    root = tmp_path_factory.mktemp("folder") / "images"
    for part, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                Image.effect_noise((40, 40), 60).save(root / part / name / f"{number}.jpg")
    return root


def cut_short(path):
    path.write_bytes(path.read_bytes()[:100])


FOLDERS = {
    "is not there": (shutil.rmtree, ["images/train", "No such file"]),
    "is a file": (lambda root: (shutil.rmtree(root), root.write_text("x")), ["Not a directory"]),
    "without val": (lambda root: shutil.rmtree(root / "val"), ["images/val", "ROOT/val/CLASS"]),
    "empty class": (
        lambda root: [path.unlink() for path in (root / "train" / "dog").iterdir()],
        ["train/dog has no images", ".jpeg"],
    ),
    "class of training alone": (lambda root: shutil.rmtree(root / "val" / "dog"), ["dog"]),
    "class of other files": (
        lambda root: [path.rename(path.with_suffix(".txt")) for path in root.glob("val/cat/*")],
        ["val/cat has no images"],
    ),
    "image cut short": (
        lambda root: cut_short(root / "train" / "dog" / "1.jpg"),
        ["train/dog/1.jpg cannot be decoded", "on_bad_image"],
    ),
    "image is text": (
        lambda root: (root / "train" / "cat" / "0.jpg").write_text("x"),
        ["train/cat/0.jpg cannot be decoded", "on_bad_image"],
    ),
    "image is a directory": (
        lambda root: (root / "train" / "cat" / "x.jpg").mkdir(),
        ["train/cat/x.jpg"],
    ),
    "image is a link to nowhere": (
        lambda root: (root / "train" / "cat" / "x.jpg").symlink_to("nowhere"),
        ["train/cat/x.jpg cannot be read", "No such file"],
    ),
    "none can be decoded": (
        lambda root: [path.write_text("x") for path in root.glob("*/*/*")],
        ["cannot be decoded", "on_bad_image"],
    ),
}
FOLDER = [
    *(QUICKSTART, "--config.dataset.name=image_folder", "--config.dataset.image_size=32"),
    *("--config.augment.crop_padding=4", "--config.model.name=resnet8"),
    *("--config.train.num_epochs=40", "--config.dataset.data_dir=images"),
]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_damaged_folder_of_images_is_refused(refused, images, tmp_path, name):
    damage, messages = FOLDERS[name]
    shutil.copytree(images, tmp_path / "images")
    damage(tmp_path / "images")
    refused(SHOW, [*FOLDER, "--config.train.batch_size=16"], *messages)


@pytest.mark.parametrize(
    "field, message",
    [("dataset.image_size=-1", "from 0 to 4096"), ("dataset.on_bad_image=skp", "error, skip")],
)
def test_a_bad_field_of_a_folder_is_named(refused, images, tmp_path, field, message):
    shutil.copytree(images, tmp_path / "images")
    refused(MAIN, [*FOLDER, f"--config.{field}"], field.split("=")[0], message)


OWN_DATA = {
    "no path": (["dataset.name=arrays"], ["dataset.data_dir", "train_image"]),
    "no such file": (["dataset.name=arrays", "dataset.data_dir=x.npz"], ["x.npz", "no such file"]),
    "an image": (
        ["dataset.name=arrays", "dataset.data_dir=a.npz"],
        ["a.npz", "not a readable Num"],
    ),
    "float images": (
        ["dataset.name=arrays", "dataset.data_dir=float.npz"],
        ["float.npz: train_image", "float64", "np.round(x * 255).astype(np.uint8)"],
    ),
    "mean is no tuple": (["dataset.mean=0.5"], ["dataset.mean"]),
    "mean without deviation": (["dataset.mean=(0.5,)"], ["dataset.mean", "set together"]),
    "a folder on the device that is not there": (
        ["dataset.name=image_folder", "dataset.pipeline=device", "dataset.data_dir=images"],
        ["images/train", "No such file"],
    ),
    "misspelt": (["dataset.name=array"], ["'array'", "Did you mean 'arrays'"]),
    "unknown set": (["dataset.name=tfds:mnits", "dataset.data_dir=x"], ["'tfds:mnits'"]),
}


@pytest.mark.parametrize("name", OWN_DATA)
def test_own_data(refused, tmp_path, name):
    fields, messages = OWN_DATA[name]
    (tmp_path / "a.npz").write_bytes(png((8, 8)))
    images, labels = np.zeros((8, 8, 8)), np.arange(8) % 2
    np.savez(tmp_path / "float.npz", train_image=images, train_label=labels)
    refused(MAIN, [*SMALL, *(f"--config.{field}" for field in fields)], *messages)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS directory with CIFAR-10's builder, but a record in each file."""
    from jaxcifar.data import cifar_format, cifar_tfds

    directory = tmp_path_factory.mktemp("prepared") / "tfds"
    names = "".join(f"{name}\n" for name in "abcdefghij").encode()
    files = dict.fromkeys(BINARY, RECORDS[:3073]) | {"batches.meta.txt": names}
    cifar_tfds.prepare(cifar_format.CIFAR10, files, str(directory))
    return directory


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


PREPARED = {
    "too few images": (lambda path: None, ["not the published images", "prepare_data.py"]),
    "record flipped": (lambda path: flip(next(path.glob("*train*")), 200), ["prepare_data.py"]),
    "record cut short": (lambda path: cut_short(next(path.glob("*train*"))), ["prepare_data.py"]),
    "shard is missing": (lambda path: next(path.glob("*test*")).unlink(), ["prepare_data.py"]),
    "info is no JSON": (lambda path: cut_short(path / "dataset_info.json"), ["prepare_data.py"]),
    "a file": (
        lambda path: (shutil.rmtree(path.parents[1]), path.parents[1].write_text("x")),
        ["tfds"],
    ),
    "nothing": (lambda path: shutil.rmtree(path), ["network", "prepare_data.py"]),
}


@pytest.mark.parametrize("name", PREPARED)
def test_damaged_prepared_data_is_refused(refused, prepared, tmp_path, name):
    damage, messages = PREPARED[name]
    shutil.copytree(prepared, tmp_path / "tfds")
    damage(next((tmp_path / "tfds" / "cifar10").iterdir()))
    arguments = ["--config.dataset.name=cifar10", "--config.dataset.data_dir=tfds"]
    refused(MAIN, [*SMALL, *arguments], "cifar10", *messages)


# Pipes --------------------------------------------------------------------------------------------

CIFAR = ["--config.dataset.name=cifar10", "--config.dataset.data_dir=data"]
PIPES = {
    "recipe.py": (MAIN, ["--config=recipe.py", "--workdir=run"]),
    "run/manifest.json": (MAIN, SMALL),
    "run/metrics.csv": (MAIN, SMALL),
    "data/jaxcifar/cifar10.npz": (MAIN, [*SMALL, *CIFAR]),
    "data/cifar-10-python.tar.gz": (MAIN, [*SMALL, *CIFAR]),
    "a.tgz": (PREPARE, ["a.tgz", "--data_dir=tfds"]),
    "w.safetensors": (IMPORT, [*SMALL, "--from=torch", "--file=w.safetensors"]),
    "images/train/cat/x.jpg": (SHOW, FOLDER),
}


@pytest.mark.parametrize("name", PIPES)
def test_a_pipe_in_the_place_of_a_file_does_not_hang(refused, images, tmp_path, name):
    target, arguments = PIPES[name]
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / name)
    refused(target, arguments, f"{name} is a pipe; it must be a regular file")
