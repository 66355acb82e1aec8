"""Corruptions of images, against closed forms and what each must leave alone."""

import colorsys
import itertools

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from jaxcifar.data import fitting
from jaxcifar.data.corruptions import CORRUPTIONS, corrupt


@pytest.fixture(scope="module")
def images():
    return np.stack([fitting.fit_pixels(image, 32) for image in load_sample_images().images])


def flat(level, count=40, channels=3):
    return np.full((count, 32, 32, channels), level, np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_stronger_corruptions_change_more(images, name):
    gaps = [
        np.abs(corrupt(images, name, strength).astype(float) - images).mean()
        for strength in range(1, 6)
    ]
    assert gaps[0] > 0.1 and gaps[4] > 1.3 * gaps[0]
    assert all(after > 0.95 * before for before, after in itertools.pairwise(gaps))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_results_are_images_and_repeat(images, name, channels):
    images = images[..., :channels]
    before = images.copy()
    found = corrupt(images, name, 3)
    assert found.shape == images.shape and found.dtype == np.uint8
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(corrupt(images, name, 3), found)
    random = CORRUPTIONS[name].group == "noise" or name == "fog"
    assert (corrupt(images, name, 3, seed=1) == found).all() != random


@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur", "zoom_blur", "contrast"])
def test_a_flat_image_has_nothing_to_blur(name):
    np.testing.assert_allclose(corrupt(flat(77, 2), name, 5), 77, atol=1)


def test_noise_has_the_deviation_of_its_parameter():
    for strength, deviation in ((1, 0.04), (5, 0.1)):
        noise = corrupt(flat(128), "gaussian_noise", strength) / 255
        assert noise.std() == pytest.approx(deviation, rel=0.02)
    for strength, photons in ((1, 500), (5, 50)):  # a Poisson count of the mean 0.5 * photons
        noise = corrupt(flat(128), "shot_noise", strength) / 255
        assert noise.std() == pytest.approx(np.sqrt(0.5 / photons), rel=0.02)
        assert noise.mean() == pytest.approx(128 / 255, abs=1e-3)
    noise = corrupt(flat(128), "impulse_noise", 5)
    assert (noise == 0).mean() == pytest.approx(0.035, rel=0.05)
    assert (noise == 255).mean() == pytest.approx(0.035, rel=0.05)
    assert ((noise == 0) | (noise == 255) | (noise == 128)).all()


def test_a_point_is_blurred_into_a_gaussian():
    point = np.zeros((1, 31, 31, 1), np.uint8)
    point[0, 15, 15] = 255
    found = corrupt(point, "gaussian_blur", 5)[0, :, :, 0]
    rows, columns = np.mgrid[-15:16, -15:16]
    expected = np.exp(-(rows**2 + columns**2) / 2)
    np.testing.assert_allclose(found, 255 * expected / expected.sum(), atol=1)


def test_a_point_is_blurred_into_a_disk():
    point = np.zeros((1, 31, 31, 1), np.uint8)
    point[0, 15, 15] = 255
    found = corrupt(point, "defocus_blur", 5)[0, :, :, 0]  # radius 1.5, hardly smoothed: 9 pixels
    assert (found[14:17, 14:17] == round(255 / 9)).all() and found.sum() == 9 * round(255 / 9)


def test_brightness_is_that_of_hsv():
    colours = np.random.RandomState(0).randint(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    colours[0, 0, 0] = 0
    found = corrupt(colours, "brightness", 4)
    for before, after in zip(colours.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before / 255)
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        np.testing.assert_allclose(after, 255 * np.array(expected), atol=1)


def test_contrast_shrinks_the_deviation(images):
    found = corrupt(images, "contrast", 4)
    for before, after in zip(images, found, strict=True):
        np.testing.assert_allclose(after.std(axis=(0, 1)), 0.3 * before.std(axis=(0, 1)), atol=0.5)
        np.testing.assert_allclose(after.mean(axis=(0, 1)), before.mean(axis=(0, 1)), atol=0.5)


def test_zoom_keeps_the_centre_and_fog_dims_to_the_old_maximum(images):
    found = corrupt(images, "zoom_blur", 5).astype(float)
    gaps = np.abs(found - images).mean(axis=(0, 3))
    assert gaps[12:20, 12:20].mean() < gaps.mean()
    fog = corrupt(images, "fog", 3)
    assert (fog.max(axis=(1, 2, 3)) <= images.max(axis=(1, 2, 3))).all()
    assert fog.std() < images.std()
