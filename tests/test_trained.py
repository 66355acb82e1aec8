"""A trained network in use: predictions, features, and what they are made of."""

import json
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import jaxcifar
from jaxcifar.data import datasets
from jaxcifar.errors import InputError
from jaxcifar.evaluate import evaluate_run
from jaxcifar.resilience import manifest
from jaxcifar.trained import load
from tests.helpers import REPOSITORY, saved_steps


@pytest.fixture(scope="module")
def model(whole_run):
    return load(whole_run)


@pytest.fixture(scope="module")
def test_split(model):
    return datasets.load(model.config.dataset)["test"]


def test_predictions_are_those_of_the_evaluation(model, test_split, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    config = model.config.copy_and_resolve_references()
    config.eval.predictions = True
    evaluate_run(config, tmp_path / "run")
    logits = np.load(tmp_path / "run" / "predictions.npz")["test_logits"].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = model.predict(test_split.images, batch_size=100)
    assert found.probabilities.shape == (359, 10) and found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-4, atol=1e-6)
    recorded = manifest.read(whole_run)["end"]["metrics"]["test"]["accuracy"]
    assert (found.labels == test_split.labels).mean() == pytest.approx(recorded, abs=1e-6)


def test_test_time_views_of_the_config_are_averaged(model, test_split, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    run = json.loads((tmp_path / "run" / "manifest.json").read_text())
    run["config"]["eval"]["test_time_flip"] = True
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(run))
    images = test_split.images[:5]
    both = [model.predict(view).probabilities for view in (images, images[:, :, ::-1])]
    found = load(tmp_path / "run").predict(images).probabilities
    np.testing.assert_allclose(found, (both[0] + both[1]) / 2, atol=1e-6)


def test_names_and_top_classes_follow_the_probabilities(model, test_split):
    found = model.predict(test_split.images[:7])
    assert found.class_names == tuple("0123456789")
    assert found.names == [str(row.argmax()) for row in found.probabilities]
    for row, top in zip(found.probabilities, found.top(3), strict=True):
        assert [probability for _, probability in top] == sorted(map(float, row))[:-4:-1]
        assert all(row[int(name)] == np.float32(probability) for name, probability in top)
    assert len(found.top(99)[0]) == 10


def test_one_image_or_many_in_any_form_give_the_same(model, test_split):
    images = test_split.images[:6]
    expected = model.predict(images).probabilities
    pictures = [Image.fromarray(image[..., 0]) for image in images]
    forms = {
        "list of arrays": list(images),
        "grey arrays": [image[..., 0] for image in images],
        "Pillow images": pictures,
        "colour": [picture.convert("RGB") for picture in pictures],
        "floats": images.astype(np.float64) / 255,
        "JAX array": jnp.asarray(images),
        "mixed": [images[0], *pictures[1:]],
    }
    for name, form in forms.items():
        found = model.predict(form).probabilities
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=name)
    for one in (images[2], pictures[2], images[2][..., 0], images[2:3]):
        found = model.predict(one).probabilities
        np.testing.assert_allclose(found, expected[2:3], rtol=1e-4, atol=1e-6)
    assert model.predict(images[:0]).probabilities.shape == (0, 10)
    assert model.predict([]).probabilities.shape == (0, 10)


@pytest.mark.parametrize("size", [(16, 16), (24, 16), (5, 9)])
def test_other_sizes_are_resized_and_cropped_as_by_pillow(model, size):
    image = Image.fromarray(load_digits().images[3].astype(np.uint8) * 15).resize(size)
    width, height = (8 * side // min(size) for side in size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 8) / 2), round((height - 8) / 2)
    expected = np.asarray(resized)[top : top + 8, left : left + 8, None]
    np.testing.assert_array_equal(model.prepare(image)[0], expected)
    np.testing.assert_array_equal(model.prepare(np.asarray(image))[0], expected)
    floats = model.prepare(np.asarray(image) / 255)[0]
    np.testing.assert_allclose(floats, expected, atol=1)


def test_features_lead_to_the_logits(model, test_split):
    images = test_split.images[:9]
    layers = model.layers()
    assert layers["head"] == (10,)
    logits = model.apply(model.variables, model.preprocess(jnp.asarray(images)))
    np.testing.assert_allclose(model.features(images, "head"), logits, rtol=1e-5, atol=1e-5)
    blocks = [f"stage{stage}_block1" for stage in (1, 2, 3)]
    assert [name for name in layers if name in blocks] == blocks
    last = model.features(images, blocks[-1])
    assert last.shape == (9, *layers[blocks[-1]]) == (9, 2, 2, 64)
    # The classifier follows the mean over the pixels of the last block: He et al. 2015, 4.2.
    weights = model.variables["params"]["head"]
    expected = last.mean(axis=(1, 2)) @ weights["kernel"] + weights["bias"]
    np.testing.assert_allclose(expected, logits, rtol=1e-4, atol=1e-4)


def test_apply_can_be_differentiated(model, test_split):
    images = model.preprocess(jnp.asarray(test_split.images[:2]))

    def loss(images):
        return model.apply(model.variables, images)[:, 3].sum()

    direction = jax.random.normal(jax.random.key(0), images.shape)
    slope = (loss(images + 1e-3 * direction) - loss(images - 1e-3 * direction)) / 2e-3
    np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(images), direction), slope, rtol=0.05)


def test_checkpoints_are_chosen_by_name(whole_run, model):
    steps = saved_steps(whole_run)
    assert model.step == steps[-1] and f"step {steps[-1]}" in repr(model)
    assert load(whole_run, checkpoint=str(steps[0])).step == steps[0]
    assert load(str(whole_run), checkpoint="best").step in steps
    assert jaxcifar.load is load


def test_a_run_without_its_data_can_be_used(whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    run = json.loads((tmp_path / "run" / "manifest.json").read_text())
    run["config"]["dataset"] |= {"name": "arrays", "data_dir": "/nowhere", "channels": 1}
    run["images"]["class_names"] = list("abcdefghij")
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(run))
    assert load(tmp_path / "run").predict(np.zeros((8, 8), np.uint8)).names[0] in "abcdefghij"


def test_weights_may_lie_beside_the_manifest(whole_run, model, test_split, tmp_path, run_command):
    file = tmp_path / "row" / "model.npz"
    file.parent.mkdir()
    shutil.copy(whole_run / "manifest.json", file.parent)
    code, _, err, _ = run_command("jaxcifar", "export", whole_run, "--to", "npz", "--file", file)
    assert code == 0, err
    found, expected = (
        one.predict(test_split.images[:9]).probabilities for one in (load(tmp_path / "row"), model)
    )
    np.testing.assert_array_equal(found, expected)


def test_importing_the_package_imports_no_jax():
    program = "import jaxcifar, sys; print('jax' in sys.modules, jaxcifar.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.stdout == f"False {jaxcifar.__version__}\n", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        jaxcifar.lode  # noqa: B018


def test_bad_input_is_explained(model, whole_run, tmp_path):
    with pytest.raises(InputError, match="nowhere: not a run: it has no manifest.json"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="checkpoint = 'newest': must be latest, best or a step"):
        load(whole_run, checkpoint="newest")
    with pytest.raises(InputError, match="has only latest, "):
        load(whole_run, checkpoint="12345")
    with pytest.raises(InputError, match="no moving averages: the run has train.ema_decay = 0"):
        load(whole_run, ema=True)
    shutil.copy(whole_run / "manifest.json", tmp_path)
    with pytest.raises(InputError, match="no checkpoint"):
        load(tmp_path)
    for image, message in (
        (np.zeros((8, 8, 2), np.uint8), r"shape \(8, 8, 2\): an image must be \[H, W, C\]"),
        (np.zeros(8, np.uint8), "an image must be"),
        (np.zeros((0, 8), np.uint8), "an image must be"),
        (np.zeros((8, 8), np.int64), "an image of int64: must be uint8, or floats from 0 to 1"),
        (np.full((8, 8), 255.0), "float64 from 255 to 255: floats must be from 0 to 1"),
        (np.full((8, 8), np.nan), "from nan to nan"),
        (Image.new("F", (8, 8)), "levels of an image of floats have no known range"),
    ):
        with pytest.raises(InputError, match=message):
            model.predict(image)
    with pytest.raises(InputError, match="unknown layer 'hed'. Did you mean 'head'"):
        model.features(np.zeros((8, 8), np.uint8), "hed")


def test_the_examples_of_the_documentation_run(whole_run, tmp_path, monkeypatch, capsys):
    """The Python of docs/using.md, in one program, on a run of the digits."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "resnet20").symlink_to(whole_run)
    Image.fromarray(load_digits().images[0].astype(np.uint8) * 15).save(tmp_path / "cat.png")
    text = (REPOSITORY / "docs" / "using.md").read_text()
    text = text.partition("## Export")[0]
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec("\n".join(blocks), names)
    assert names["logits"].shape == (1, 10) and names["saliency"].shape == names["images"].shape
    assert names["features"].shape == (1, 2, 2, 64)
    assert "(1, 10)" in capsys.readouterr().out
