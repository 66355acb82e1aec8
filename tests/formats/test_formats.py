"""Exported networks of every family compute what the network computes, on real images."""

import dataclasses
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export, lax
from PIL import Image
from safetensors.numpy import load
from sklearn.datasets import load_sample_images

from jaxcifar import models
from jaxcifar.data import datasets, fitting
from jaxcifar.errors import InputError
from jaxcifar.formats import model_file, onnx_file, stablehlo
from jaxcifar.models import torch_weights
from jaxcifar.tools.serialize import write
from jaxcifar.trained import TrainedModel
from jaxcifar.trained import load as load_model
from tests.helpers import REPOSITORY, make_config
from tests.models.helpers import drawn

FAMILIES = {
    "resnet20": {},
    "resnet20 preactivated, layer norm": {"preactivation": True, "norm": "layer"},
    "resnet18": {},
    "densenet_bc_100_12": {"depth": 16},
    "speedrun96": {"widths": (8, 16, 16)},
    "resnet20 twn": {"ternary": "twn", "ternary_scale": "filter"},
    "resnet20 ttq": {"ternary": "ttq"},
}


def create(family, **evaluation):
    """A network of a family with drawn weights, that is not trained."""
    config = make_config(dataset__name="cifar10", model__name=family.split()[0])
    config.model.update(FAMILIES[family])
    config.eval.update(evaluation)
    module = models.from_config(config, 10)
    variables = drawn(module, jnp.zeros((1, 32, 32, 3)))
    variables = {name: variables.get(name, {}) for name in ("params", "batch_stats")}
    info = datasets.info(config.dataset)
    return TrainedModel(module, variables, config, 7, info, datasets.class_names(config.dataset))


@pytest.fixture(scope="module")
def images():
    """Five parts of photographs, uint8 [5, 32, 32, 3]."""
    photographs = load_sample_images().images
    parts = [photo[:, start : start + 400] for photo in photographs for start in (0, 120, 240)]
    return np.stack([fitting.fit_pixels(part, 32) for part in parts[:5]])


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return create(request.param)


def test_stablehlo_computes_the_same_for_any_number_of_images(model, images):
    program = export.deserialize(
        bytearray(stablehlo.serialize(model.probabilities, model.info.image_shape))
    )
    assert program.platforms == ("cpu", "cuda")
    for count in (5, 1):
        expected = model.predict(images[:count]).probabilities
        found = program.call(images[:count])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_onnx_computes_the_same_for_any_number_of_images(model, images):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    content = onnx_file.serialize(model.probabilities, model.info.image_shape, {"model": "a"})
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"model": "a"}
    for count in (5, 1):
        expected = model.predict(images[:count]).probabilities
        (found,) = session.run(["probabilities"], {"images": images[:count]})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_torch_weights_lead_to_the_same_logits(model, images, tmp_path):
    """Read back into a network without ternary layers, which is what PyTorch has."""
    write(model, "torch", tmp_path / "a.safetensors")
    arrays = load((tmp_path / "a.safetensors").read_bytes())
    plain = model.module
    if model.config.model.ternary != "none":
        plain = models.create("resnet20", num_classes=10)
        assert all(len(np.unique(one)) == 3 for one in arrays["layer1.0.conv1.weight"])
    shapes = jax.eval_shape(lambda: plain.init(jax.random.key(0), images[:1] / 255.0, train=False))
    template = {name: shapes.get(name, {}) for name in ("params", "batch_stats")}
    variables = torch_weights.from_torch(arrays, template)
    found = dataclasses.replace(model, module=plain, variables=variables)
    np.testing.assert_allclose(found.logits(images), model.logits(images), rtol=1e-4, atol=1e-4)


def test_a_model_file_is_the_same_network(model, images, tmp_path):
    write(model, "npz", tmp_path / "a.npz")
    found = load_model(tmp_path / "a.npz")
    assert found.class_names == model.class_names and found.step == 7
    assert found.config.to_dict() == model.config.to_dict()
    jax.tree.map(np.testing.assert_array_equal, found.variables, model.variables)
    np.testing.assert_array_equal(found.logits(images), model.logits(images))


@pytest.mark.parametrize("family", ["resnet20 twn", "resnet20 ttq"])
def test_packed_files_are_small_and_compute_the_same(family, images, tmp_path):
    model = create(family)
    for to in ("npz", "packed"):
        write(model, to, tmp_path / f"{to}.npz")
    found = load_model(tmp_path / "packed.npz")
    expected = model.logits(images)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found.logits(images) / largest, expected / largest, atol=1e-4)
    sizes = [(tmp_path / f"{to}.npz").stat().st_size for to in ("npz", "packed")]
    assert sizes[1] < sizes[0] / 6  # 16 times less for the kernels; biases and names remain
    again = tmp_path / "again.npz"
    again.write_bytes(model_file.serialize(found.contents()))
    np.testing.assert_array_equal(load_model(again).logits(images), found.logits(images))
    wrong = {**found.contents().variables, "params": create("resnet20").variables["params"]}
    again.write_bytes(model_file.serialize(found.contents()._replace(variables=wrong)))
    with pytest.raises(InputError, match="its weights are not those of its config"):
        load_model(again)


@pytest.mark.parametrize("views", ["corners", "two_corners"])
def test_test_time_views_are_exported(images, views):
    model = create("resnet20", test_time_flip=True, test_time_shift=1, test_time_views=views)
    expected = model.predict(images).probabilities
    assert np.abs(create("resnet20").predict(images).probabilities - expected).max() > 1e-3
    program = export.deserialize(bytearray(stablehlo.serialize(model.probabilities, (32, 32, 3))))
    np.testing.assert_allclose(program.call(images), expected, rtol=1e-4, atol=1e-4)
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    session = onnxruntime.InferenceSession(
        onnx_file.serialize(model.probabilities, (32, 32, 3), {})
    )
    (found,) = session.run(None, {"images": images})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_is_exported_in_float32(images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    model = create("resnet20")
    half = dataclasses.replace(model, config=model.config.copy_and_resolve_references())
    half.config.train.precision = "bfloat16"
    half = dataclasses.replace(half, module=models.from_config(half.config, 10))
    write(half, "onnx", tmp_path / "a.onnx")
    (found,) = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {"images": images})
    np.testing.assert_allclose(found, model.predict(images).probabilities, rtol=1e-4, atol=1e-4)
    assert np.abs(half.predict(images).probabilities - found).max() > 1e-4


@pytest.mark.parametrize("to", ["stablehlo", "onnx"])
def test_the_scripts_of_the_documentation_run_without_this_package(images, tmp_path, to):
    if to == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    model = create("resnet20")
    write(model, to, tmp_path / f"resnet20.{to}")
    Image.fromarray(images[0]).save(tmp_path / "cat.png")
    text = (REPOSITORY / "docs" / "using.md").read_text()
    (script,) = (s for s in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f".{to}" in s)
    ending = 'assert "jaxcifar" not in sys.modules\n'
    done = subprocess.run(
        [sys.executable, "-c", script + ending, "cat.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    name, probability = done.stdout.split()
    predictions = model.predict(images[:1])
    assert name == predictions.names[0], done.stderr
    assert float(probability) == pytest.approx(predictions.probabilities.max(), abs=1e-4)


def test_files_that_are_no_model_are_refused(tmp_path):
    file = tmp_path / "a.npz"
    content = model_file.serialize(create("resnet20").contents())
    other = create("resnet18").contents()
    wrong = model_file.serialize(other._replace(variables=create("resnet20").variables))
    np.savez(tmp_path / "b.npz", x=np.zeros(3))
    for data, message in (
        (b"", "not a readable NumPy file"),
        (b"text", "not a readable NumPy file"),
        (content[: len(content) // 2], "not a readable NumPy file"),
        ((tmp_path / "b.npz").read_bytes(), "not a network that jaxcifar exported"),
        (wrong, "its weights are not those of its config"),
    ):
        file.write_bytes(data)
        with pytest.raises(InputError, match=f"a.npz: .*{message}"):
            load_model(file)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.einsum("nhwc,nhwk->nck", x, x),
        lambda x: jnp.tensordot(jnp.arange(6.0), x, axes=(0, 1)),
        lambda x: jnp.where(x > 0.5, x, 0).max(axis=(1, 2)),
        lambda x: jnp.concatenate([jnp.ones_like(x), x**3], axis=3),
        lambda x: nn.max_pool(x, (2, 2), (2, 2), [(1, 0), (0, 1)]),
        lambda x: nn.avg_pool(x, (3, 3), (1, 1), "SAME"),
        lambda x: lax.conv_general_dilated(
            x, jnp.ones((2, 2, 1, 6)), (1, 2), "SAME", rhs_dilation=(2, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3,
        ),
    ],
)  # fmt: skip
def test_operations_are_those_of_jax(function, images):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

    def of_images(images):
        return function(images.astype(jnp.float32) / 255)

    parts = images[:, :6, :5]
    session = onnxruntime.InferenceSession(onnx_file.serialize(of_images, parts.shape[1:], {}))
    for batch in (parts, parts[:2]):
        (found,) = session.run(None, {"images": batch})
        np.testing.assert_allclose(found, of_images(jnp.asarray(batch)), rtol=1e-4, atol=1e-4)


def test_an_operation_that_onnx_cannot_have_is_named():
    pytest.importorskip("onnx", reason="needs the extra onnx")
    for function, message in (
        (lambda x: jnp.cumsum(x / 255, axis=1), "an operation that is not known: cumsum"),
        (
            lambda x: lax.pad(x / 255, 0.0, [(0, 0, 0), (-1, 0, 0), (0, 0, 0), (0, 0, 0)]),
            "crops by padding",
        ),
    ):
        with pytest.raises(InputError, match=message):
            onnx_file.serialize(function, (4, 4, 3), {})


def test_onnx_without_its_libraries_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"install it with pip install 'jaxcifar\[onnx\]'"):
        onnx_file.serialize(lambda x: x, (32, 32, 3), {})
