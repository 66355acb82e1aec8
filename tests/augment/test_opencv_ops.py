"""The albumentations operations against OpenCV, by goldens, and values computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.augment import opencv_ops, pillow_ops
from tests.augment.image_goldens import OPENCV, PILLOW, apply, deviation, load, script


@pytest.fixture(scope="module")
def goldens():
    return load()


def opencv_side(name, strength):
    if name == "hue":
        return lambda image: opencv_ops.shift_hue(image, strength)
    if name == "gray":
        return pillow_ops.greyscale
    if name == "clahe":
        return lambda image: opencv_ops.clahe(image, jnp.float32(strength[0]), strength[1])
    if name == "clahe_grey":
        return lambda image: jnp.repeat(
            opencv_ops.clahe(image[..., 1:2], jnp.float32(strength[0]), strength[1]), 3, axis=-1
        )
    if name == "grid_distortion":
        return lambda image: opencv_ops.grid_distortion(image, *script["grid_steps"]())
    return lambda image: opencv_ops.elastic_transform(image, script["elastic_noise"](), *strength)


@pytest.mark.parametrize("case", range(len(OPENCV)), ids=[name for name, _ in OPENCV])
def test_operations_are_close_to_opencvs(goldens, case):
    images, outputs = (array[len(PILLOW) + case] for array in goldens)
    found = deviation(jax.jit(jax.vmap(opencv_side(*OPENCV[case])))(images), outputs)
    # Lab is converted back to RGB in float32, where OpenCV uses tables. From HSV to RGB, OpenCV 5
    # truncates where version 4 rounds.
    limit, share = {"hue": (1, 0.4), "clahe": (2, 0.08)}.get(OPENCV[case][0], (1, 0.002))
    assert found.max() <= limit and (found > 0).mean() < share
    assert (found > 1).mean() < 0.001
    assert (images != outputs).any()


def test_one_channel_has_no_hue(goldens):
    grey = goldens[1][len(PILLOW) + [name for name, _ in OPENCV].index("gray")]
    np.testing.assert_array_equal(opencv_ops.shift_hue(grey[0][..., :1], 0.2), grey[0][..., :1])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_color_jitter_is_its_parts_in_order(goldens, order):
    image = expected = goldens[0][0, 0]
    parts = ("Brightness", 0.2), ("Contrast", -0.2), ("Color", 0.1)
    for part in order:
        if part == 3:
            expected = np.asarray(jax.jit(opencv_ops.shift_hue)(expected, 0.1))
        else:
            expected = apply(expected, *parts[part])
    factors = jnp.array([1.2, 0.8, 1.1])
    found = jax.jit(opencv_ops.color_jitter)(image, factors, 0.1, jnp.array(order))
    assert deviation(found, expected).max() == 0


def test_hue_rotation_by_hand():
    image = np.array([[[255, 0, 0], [0, 255, 0], [90, 90, 90]]], np.uint8)
    found = np.asarray(jax.jit(opencv_ops.shift_hue)(image, 1 / 3))
    assert found.tolist() == [[[0, 255, 0], [0, 0, 255], [90, 90, 90]]]


def test_coarse_dropout_by_hand():
    image = np.full((4, 5, 3), 9, np.uint8)
    found = opencv_ops.coarse_dropout(image, jnp.array([[0, 0], [2, 3]]), 2, 1, (0, 1, 2))
    assert found[..., 1].tolist() == [
        [1, 9, 9, 9, 9],
        [1, 9, 9, 9, 9],
        [9, 9, 9, 1, 9],
        [9, 9, 9, 1, 9],
    ]
    assert found[0, 0].tolist() == [0, 1, 2]


def test_remap_by_hand():
    image = np.array([[0, 10, 40]], np.uint8)[..., None]
    x = np.array([[0.5, -1.0, 2.75]], np.float32)
    found = opencv_ops.remap(image, x, np.zeros_like(x))
    # Halfway; mirrored at the first pixel; a quarter of the last, the rest of its mirror image.
    assert found[..., 0].tolist() == [[5, 10, round(0.25 * 40 + 0.75 * 10)]]
