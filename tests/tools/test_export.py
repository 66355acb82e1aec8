"""The command that exports the network of a run."""

import json

import numpy as np
import pytest
from jax import export

from jaxcifar.trained import load


@pytest.fixture(scope="module")
def run_export(run_command):
    """Runs `jaxcifar export`; returns exit code, stdout and stderr."""
    return lambda *arguments: run_command("jaxcifar", "export", *arguments)[:3]


def test_a_run_is_exported_under_its_name_and_predicts_the_same(
    run_export, run_command, whole_run, tmp_path
):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    expected = load(whole_run).predict(images).probabilities
    file = tmp_path / "new" / "digits.npz"
    code, out, err = run_export(whole_run, "--to=npz", f"--file={file}")
    assert code == 0 and out.startswith(f"{file}: resnet8, step 60, 0.3"), err
    np.testing.assert_allclose(load(file).predict(images).probabilities, expected, atol=1e-6)

    file = tmp_path / "digits.stablehlo"
    code, _, err = run_export(whole_run, "--to=stablehlo", f"--file={file}")
    assert code == 0, err
    found = export.deserialize(bytearray(file.read_bytes())).call(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    facts = json.loads((tmp_path / "digits.stablehlo.json").read_text())
    assert facts == {"class_names": list("0123456789"), "image_shape": [8, 8, 1]}


def test_a_file_can_be_predicted_with(run_export, run_command, whole_run, tmp_path):
    from PIL import Image

    image = tmp_path / "image.png"
    Image.new("L", (20, 20), 99).save(image)
    run_export(whole_run, "--to=npz", f"--file={tmp_path / 'a.npz'}")
    by_file, by_run = (
        run_command("jaxcifar", "predict", source, image)[:3]
        for source in (tmp_path / "a.npz", whole_run)
    )
    assert by_file == by_run and by_run[0] == 0


def test_checkpoints_can_be_chosen(run_export, whole_run, tmp_path):
    code, out, _ = run_export(
        whole_run, "--to=torch", f"--file={tmp_path / 'a.safetensors'}", "--checkpoint=21"
    )
    assert code == 0 and "step 21" in out
    code, _, err = run_export(whole_run, "--to=npz", f"--file={tmp_path / 'a.npz'}", "--ema")
    assert code == 1 and "no moving averages" in err and not (tmp_path / "a.npz").exists()
