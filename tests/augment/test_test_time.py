"""Test-time augmentation against probabilities computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.augment import test_time

# Rows 0 1 2, 3 4 5, 6 7 8.
IMAGE = jnp.arange(9.0).reshape(1, 3, 3, 1)


def pixel(row: int, column: int):
    """Returns a network of two classes whose first logit is one pixel."""

    def apply(images: jax.Array) -> jax.Array:
        first = images[:, row, column, 0]
        return jnp.stack([first, jnp.zeros_like(first)], axis=1)

    return apply


def average(pixels: list[float]) -> float:
    """Returns the first class's mean probability over views that show these pixels."""
    return float(np.mean([1 / (1 + np.exp(-p)) for p in pixels]))


@pytest.mark.parametrize(
    "row, column, flip, shift, seen",
    [
        (0, 0, True, 0, [0, 2]),
        (1, 1, False, 1, [4, 0, 2, 6, 8]),
        # A pixel beyond the border is the one inside it at the same distance.
        (0, 0, False, 1, [0, 4, 4, 4, 4]),
        (0, 2, False, 1, [2, 4, 4, 4, 4]),
        (0, 1, True, 1, [1, 1, 3, 5, 3, 5, 3, 5, 3, 5]),
        (0, 0, False, 2, [0, 8, 8, 8, 8]),
    ],
)
def test_probabilities_are_averaged_over_the_views(row, column, flip, shift, seen):
    logits = test_time.averaged_logits(pixel(row, column), IMAGE, flip, shift)
    assert logits.shape == (1, 2) and logits.dtype == jnp.float32
    p = average(seen)
    np.testing.assert_allclose(np.exp(logits), [[p, 1 - p]], rtol=1e-5)


def test_without_augmentation_the_logits_stay_as_they_are():
    logits = jax.random.normal(jax.random.key(0), (7, 10))
    images = jnp.zeros((7, 4, 4, 3))
    found = test_time.averaged_logits(lambda _: logits, images, flip=False, shift=0)
    np.testing.assert_array_equal(found, logits)


def test_each_image_of_a_batch_is_averaged_on_its_own():
    images = jax.random.normal(jax.random.key(0), (3, 5, 4, 2))

    def logits(images: jax.Array) -> jax.Array:
        return test_time.averaged_logits(pixel(1, 1), images, flip=True, shift=1)

    found = jax.jit(logits)(images)
    for i in range(3):
        np.testing.assert_allclose(found[i], logits(images[i : i + 1])[0], rtol=1e-5)


def test_improbable_classes_keep_finite_logits():
    found = test_time.averaged_logits(
        lambda images: jnp.array([[0.0, -1000.0]]), IMAGE, flip=True, shift=1
    )
    np.testing.assert_allclose(found, [[0.0, -1000.0]], atol=1e-5)


@pytest.mark.parametrize(
    "row, column, flip, shift, expected",
    [
        (1, 1, False, 1, (2 * 4 + 0 + 8) / 4),
        # Each of the three views, with its mirror image: 4 and 4, 1 and 1, 7 and 7 of the middle
        # column; 3 and 5, 0 and 2, 6 and 8 of the left one.
        (1, 0, True, 0, (3 + 5) / 2),
        (0, 0, False, 1, (2 * 0 + 4 + 4) / 4),
        (1, 0, True, 1, (2 * (3 + 5) + (1 + 1) + (7 + 7)) / 8),
    ],
)
def test_two_corners_average_logits_with_twice_the_weight_for_the_image(
    row, column, flip, shift, expected
):
    logits = test_time.averaged_logits(pixel(row, column), IMAGE, flip, shift, views="two_corners")
    np.testing.assert_allclose(logits, [[expected, 0]], rtol=1e-5)
