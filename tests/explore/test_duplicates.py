"""Near-duplicates, planted among images that are not."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dct

from jaxcifar.explore import duplicates


@pytest.fixture(scope="module")
def images():
    """Smooth random images, which resemble photographs more than noise does."""
    random = np.random.RandomState(0)
    small = random.randint(0, 256, (300, 6, 6, 3), np.uint8)
    return np.array(
        [np.asarray(Image.fromarray(i).resize((32, 32), Image.Resampling.BICUBIC)) for i in small]
    )


def as_jpeg(image, quality=40):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_planted_copies_are_found_and_nothing_else(images):
    first, second = images[:100], images[100:].copy()
    noise = np.random.RandomState(1).randint(-8, 9, first[0].shape)
    second[3] = first[10]
    second[50] = np.clip(first[20] * 0.8 + 20, 0, 255)  # less contrast
    second[150] = as_jpeg(first[30])
    second[199] = np.clip(first[40] + noise, 0, 255)
    found = duplicates.find(first, second)
    assert [(pair.first, pair.second) for pair in found] == [
        (10, 3),
        (20, 50),
        (30, 150),
        (40, 199),
    ]
    assert found[0].distance == 0 and found[0].correlation == pytest.approx(1)
    assert all(pair.correlation > 0.9 for pair in found)


def test_hashes_are_those_of_the_definition(images):
    grey = images[7].mean(axis=-1)
    both = dct(dct(grey, axis=0, norm="ortho"), axis=1, norm="ortho")[:8, :8].ravel()[1:]
    bits = both > np.median(both)
    expected = sum(1 << n for n, bit in enumerate(bits) if bit)
    assert int(duplicates.hashes(images[7:8])[0]) == expected
    assert np.bitwise_count(duplicates.hashes(images)).min() == 31  # of 63, half are above


def test_images_of_other_sizes_are_hashed(images):
    large = np.array([np.kron(i, np.ones((2, 2, 1), np.uint8)) for i in images[:5]])
    small = duplicates.hashes(images[:5])
    assert np.bitwise_count(duplicates.hashes(large) ^ small).max() == 0


def test_each_image_is_paired_with_the_most_similar(images):
    second = np.concatenate([as_jpeg(images[0], 10)[None], images[:1], images[5:8]])
    (pair,) = duplicates.find(images[:1], second)
    assert pair.second == 1
