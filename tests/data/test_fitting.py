"""Resizing, grey images and statistics, against Pillow, torchvision's rules and NumPy."""

import numpy as np
import pytest
from PIL import Image

from jaxcifar.data import fitting
from jaxcifar.errors import InputError


def pixels(*shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, shape, np.uint8)


@pytest.mark.parametrize("height, width", [(40, 64), (64, 40), (33, 33), (10, 11), (16, 16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_shorter_side_is_resized_and_the_centre_cropped(height, width, channels):
    image, size = pixels(height, width, channels), 16
    short = min(height, width)
    tall, wide = int(size * height / short), int(size * width / short)
    whole = Image.fromarray(image.squeeze()).resize((wide, tall), Image.Resampling.BILINEAR)
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    expected = np.asarray(whole).reshape(tall, wide, channels)
    found = fitting.fit_pixels(image, size)
    np.testing.assert_array_equal(found, expected[top : top + size, left : left + size])
    np.testing.assert_array_equal(fitting.resize(image[None], size)[0], found)


def test_square_images_stay_as_they_are_and_others_need_a_size():
    square = pixels(3, 8, 8, 3)
    assert fitting.resize(square, 0) is square and fitting.resize(square, 8) is square
    with pytest.raises(InputError, match="images of 8x9 pixels are not square"):
        fitting.resize(pixels(3, 8, 9, 3), 0)


def test_grey_levels_are_pillows():
    colours = pixels(5000, 4, 4, 3)
    grey = fitting.convert(colours, 1)
    expected = np.asarray(Image.fromarray(colours.reshape(-1, 4, 3)).convert("L"))
    np.testing.assert_array_equal(grey.ravel(), expected.ravel())
    again = fitting.convert(grey, 3)
    assert again.shape == colours.shape and (again == grey).all()
    np.testing.assert_array_equal(fitting.convert(again, 1), grey)
    for channels in (0, 3):
        assert fitting.convert(colours, channels) is colours


def test_statistics_are_those_of_all_pixels():
    images = pixels(5000, 4, 5, 3) // np.array([1, 2, 4], np.uint8)
    mean, std = fitting.statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_a_channel_of_one_level_is_refused():
    images = pixels(5, 4, 4, 3)
    images[..., 1] = 7
    with pytest.raises(InputError, match="channel 1 has the same level"):
        fitting.statistics(images)
