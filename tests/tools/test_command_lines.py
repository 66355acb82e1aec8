"""The commands that list networks and exchange weights, as command lines."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.models.helpers import drawn


@pytest.fixture
def run(run_command):
    """Runs a module; returns exit code, stdout and stderr."""
    return lambda *arguments: run_command(*arguments)[:3]


@pytest.mark.slow
def test_models_lists_the_registry(run):
    code, out, err = run("jaxcifar.tools.models")
    assert code == 0, err
    rows = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert len(rows) == 20
    assert "853,018" in rows["resnet56"] and "125.49" in rows["resnet56"]
    assert rows["resnet56"].rstrip().endswith("He et al. 2015, section 4.2")


def test_models_shows_a_recipes_layers(run):
    code, out, err = run("jaxcifar.tools.models", "--config=configs/quickstart.py")
    assert code == 0, err
    assert "stage3_block2/conv2" in out and "float32[3,3,64,64]" in out
    assert "resnet14: 172,218 parameters" in out  # one input channel: 2 * 9 * 16 fewer


QUICKSTART = [
    *("--config=configs/quickstart.py", "--config.schedule.name=constant"),
    *("--config.schedule.milestones_epochs=()", "--config.train.num_epochs=0.0"),
    *("--config.train.num_steps=2", "--config.model.name=resnet8"),
]


def test_weights_go_to_pytorch_and_back(run, tmp_path):
    file = tmp_path / "out" / "weights.safetensors"
    here = [*QUICKSTART, f"--workdir={tmp_path / 'a'}"]
    assert run("jaxcifar.main", *here)[0] == 0
    code, out, err = run("jaxcifar.tools.export", tmp_path / "a", "--to=torch", f"--file={file}")
    assert code == 0 and "step 2" in out, err
    arrays = load_file(file)
    assert arrays["conv1.weight"].shape == (16, 1, 3, 3)

    there = [*QUICKSTART, f"--workdir={tmp_path / 'b'}", "--config.train.ema_decay=0.9"]
    code, out, err = run("jaxcifar.tools.import_weights", *there, "--from=torch", f"--file={file}")
    assert code == 0, err
    before, after = (run("jaxcifar.main", *where, "--mode=eval")[1] for where in (here, there))
    measured = re.search(r"loss .*", before)[0]
    assert re.findall(r"(test\w*), .*: (loss .*)", after) == [
        ("test", measured),
        ("test_ema", measured),  # the average starts there, too
    ]
    weights = json.loads((tmp_path / "b" / "manifest.json").read_text())["weights"]
    assert weights["file"] == str(file) and not weights["reset_head"]
    assert weights["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    code, out, err = run(
        "jaxcifar.tools.export", tmp_path / "b", "--to=torch", f"--file={file}.again"
    )
    assert code == 0, err
    again = load_file(f"{file}.again")
    assert arrays.keys() == again.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], again[name])
    code, _, err = run("jaxcifar.tools.import_weights", *there, "--from=torch", f"--file={file}")
    assert code == 1 and "already contains checkpoints" in err


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fc.bias": None}, "missing arrays: fc.bias"),
        ({"fc.bias": np.zeros(3, np.float32)}, "fc.bias: shape (3,), expected (10,)"),
        ({"conv1.weight": np.zeros((16, 1, 3, 3), np.int8)}, "conv1.weight: type int8, expected"),
        (None, "not a readable safetensors file"),
    ],
)
def test_an_unsuitable_file_is_explained_and_leaves_nothing(run, tmp_path, change, message):
    from jaxcifar import models
    from jaxcifar.models.torch_weights import to_torch

    file = tmp_path / "weights.safetensors"
    if change is None:
        file.write_text("not weights")
    else:
        import jax.numpy as jnp

        arrays = to_torch(drawn(models.create("resnet8", num_classes=10), jnp.zeros((1, 8, 8, 1))))
        arrays = {k: v for k, v in {**arrays, **change}.items() if v is not None}
        save_file(arrays, file)
    workdir = tmp_path / "run"
    code, out, err = run(
        "jaxcifar.tools.import_weights",
        *QUICKSTART,
        f"--workdir={workdir}",
        "--from=torch",
        f"--file={file}",
    )
    assert code == 1 and message in err and str(file) in err and "Traceback" not in err
    assert not workdir.exists() and not out


def test_a_run_starts_from_another_ones_weights_with_a_new_classifier(run, tmp_path):
    import jax.numpy as jnp

    from jaxcifar import models
    from jaxcifar.models.torch_weights import to_torch

    images = jnp.zeros((1, 32, 32, 3))
    saved = to_torch(drawn(models.create("resnet8", num_classes=10), images))
    file, here, there = (tmp_path / name for name in ("saved.safetensors", "here", "there"))
    save_file({f"module.{name}": array for name, array in saved.items()}, file)

    def start(workdir, *arguments, dataset="cifar100", module="jaxcifar.tools.import_weights"):
        base = ["--config.model.name=resnet8", "--config.train.num_epochs=1"]
        recipe = ["--config=configs/quickstart.py", f"--config.dataset.name={dataset}", *base]
        schedule = ["--config.schedule.name=constant", "--config.schedule.milestones_epochs=()"]
        return run(module, *recipe, *schedule, f"--workdir={workdir}", *arguments)

    code, out, err = start(here, "--from=torch", f"--file={file}", dataset="fake")
    assert code == 0 and "every name begins with 'module.', which was removed" in out, err
    code, out, err = start(there, "--from=run", f"--file={here}")
    assert code == 1 and not out and not there.exists()
    assert err.splitlines()[1:] == [
        "  params/head/bias: shape (10,), expected (100,)",
        "  params/head/kernel: shape (64, 10), expected (64, 100)",
        "  Only the classifier does not fit; --reset_head initialises a new one instead.",
    ]
    code, out, err = start(there, "--from=run", f"--file={here}", "--reset_head")
    assert code == 0 and f"a new classifier and otherwise the weights of {here}, step 0" in out, err
    weights = json.loads((there / "manifest.json").read_text())["weights"]
    assert weights["reset_head"] and weights["step"] == 0 and weights["file"] == str(here)
    assert len(weights["sha256"]) == 64
    file = tmp_path / "new.safetensors"
    assert run("jaxcifar.tools.export", there, "--to=torch", f"--file={file}")[0] == 0
    found = load_file(file)
    assert found["fc.weight"].shape == (100, 64) and found["fc.weight"].std() > 0
    for name in saved.keys() - {"fc.weight", "fc.bias"}:
        np.testing.assert_array_equal(found[name], saved[name])

    shutil.rmtree(here / "checkpoints")  # it would train from random weights, against its record
    code, _, err = start(here, module="jaxcifar.main", dataset="fake")
    assert code == 1 and "no checkpoint, but manifest.json says that the run started from" in err
    assert not (here / "metrics.csv").exists()


def test_the_kind_of_source_is_told_from_its_path(run, tmp_path):
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    for kind, name, message in (
        ("torch", "a", "is the directory of a run; give --from=run"),
        ("torch", ".", "is a directory; must be a safetensors, .pt or .pth file"),
        ("run", "b", "with --from=run this must be the directory of a run"),
        ("run", "a", "no checkpoint"),
    ):
        source = [f"--from={kind}", f"--file={tmp_path / name}", f"--workdir={tmp_path / 'new'}"]
        code, _, err = run("jaxcifar.tools.import_weights", *QUICKSTART, *source)
        assert code == 1 and message in err and str(tmp_path) in err and "Traceback" not in err
    assert not (tmp_path / "new").exists()
