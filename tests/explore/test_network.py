"""What a trained network sees, against numerical gradients and networks made by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcifar
from jaxcifar.errors import InputError
from jaxcifar.explore import network


@pytest.fixture(scope="module")
def model(whole_run):
    return jaxcifar.load(whole_run)


@pytest.fixture(scope="module")
def images():
    from jaxcifar.config import default
    from jaxcifar.data import datasets

    config = default()
    config.dataset.name = "digits"
    return datasets.load(config.dataset)["test"].images[:6]


def test_grad_cam_is_that_of_the_papers_equations(model, images):
    """The head is linear in the mean of the last block, so the gradient is known."""
    layer = network.spatial_layers(model)[-1]
    cam = network.grad_cam(model, images, layer)
    outputs = model.features(images, layer)
    head = np.asarray(model.variables["params"]["head"]["kernel"])
    height, width = outputs.shape[1:3]
    for output, predicted, found in zip(outputs, cam.predicted, cam.maps, strict=True):
        weights = head[:, predicted] / (height * width)  # of global average pooling
        expected = np.maximum((output * weights).sum(axis=-1), 0)
        expected = jax.image.resize(jnp.asarray(expected), images.shape[1:3], "linear")
        assert np.allclose(found, expected / expected.max(), atol=1e-4)
    assert cam.maps.shape == images.shape[:3]
    assert cam.maps.min() >= 0 and np.allclose(cam.maps.max(axis=(1, 2)), 1, atol=1e-5)


def test_grad_cam_of_an_inner_layer_has_the_gradient_of_finite_differences(model, images):
    layer, image = "stage1_block1", images[:1]
    label = 3
    found = network.grad_cam(model, image, layer, np.array([label])).maps[0]
    output = model.features(image, layer)[0]

    def logit_with(change):
        from flax import linen as nn

        def add(call, args, kwargs, context):
            result = call(*args, **kwargs)
            at_layer = "/".join(context.module.path) == layer
            return result + change if at_layer and context.method_name == "__call__" else result

        with nn.intercept_methods(add):
            pixels = model.preprocess(image)
            return float(model.apply(model.variables, pixels)[0, label])

    weights = []
    for channel in range(output.shape[-1]):
        step = np.zeros(output.shape[-1], np.float32)
        step[channel] = 2e-3  # small, as the network has kinks
        weights.append((logit_with(step) - logit_with(-step)) / 4e-3)
    cam = np.maximum((output * np.array(weights)).sum(axis=-1), 0)
    assert np.allclose(found, cam / cam.max(), atol=0.02)


def test_layers_without_an_image_are_refused(model, images):
    with pytest.raises(InputError, match="unknown layer with an output of more than one pixel"):
        network.grad_cam(model, images, "head")
    with pytest.raises(InputError, match=r"layer head: its output has shape \(10,\)"):
        network.feature_maps(model, images[0], "head")


def test_filters_are_those_of_the_first_layer(model):
    found = network.first_filters(model)
    kernel = np.asarray(model.variables["params"]["conv"]["kernel"])  # [3, 3, 1, 16]
    assert found.shape == (kernel.shape[-1], 3, 3, 1)
    one = kernel[..., 5]
    expected = 127.5 * (1 + one / np.abs(one).max())
    assert np.abs(found[5] - expected).max() <= 0.5


def test_feature_maps_are_scaled_outputs(model, images):
    found = network.feature_maps(model, images[2], "stage2_block1")
    output = model.features(images[2:3], "stage2_block1")[0, ..., 7]
    assert found[7].min() == 0 and found[7].max() == 255
    expected = 255 * (output - output.min()) / (output.max() - output.min())
    assert np.abs(found[7][..., 0] - expected).max() <= 0.5


def test_dead_channels_are_counted(model, images):
    params = jax.tree.map(np.array, model.variables["params"])
    norm = params["stage1_block1"]["norm1"]
    norm["scale"][:2] = 0
    norm["bias"][:2] = [-1, 1]  # one is never above 0, and both are constant
    variables = {**model.variables, "params": params}
    changed = dataclasses.replace(model, variables=variables)
    found = {layer.layer: layer for layer in network.activity(changed, images, batch_size=4)}
    before = {layer.layer: layer for layer in network.activity(model, images)}
    name = "stage1_block1/norm1"
    assert found[name].never_positive == before[name].never_positive + 1
    assert (before[name].constant, found[name].constant) == (0, 2)
    assert found[name].channels == 16 and "head" not in found


def test_overlays_are_bright_where_the_map_is(images):
    maps = np.zeros(images.shape[:3], np.float32)
    maps[:, 2:4, 2:4] = 1
    found = network.overlay(np.zeros_like(images), maps).astype(int)
    assert found.shape == (*images.shape[:3], 3)
    assert found[:, 2, 2].sum() > 2 * found[:, 0, 0].sum()
