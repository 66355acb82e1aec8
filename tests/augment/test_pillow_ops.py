"""The AutoAugment operations against Pillow, by goldens, and against values computed by hand."""

import jax
import numpy as np
import pytest

from jaxcifar.augment import pillow_ops
from jaxcifar.errors import InputError
from tests.augment.image_goldens import FILL, OPENCV, PILLOW, apply, deviation, load


@pytest.fixture(scope="module")
def goldens():
    return load()


@pytest.fixture(scope="module")
def pillow_deviations(goldens):
    images, outputs = (array[: len(PILLOW)] for array in goldens)
    operations = [pillow_ops.operation(*case, 32, 32) for case in PILLOW]
    operations = jax.tree.map(lambda *rows: np.stack(rows), *operations)

    @jax.jit
    @jax.vmap
    def compute(images, operation):
        return jax.vmap(lambda image: pillow_ops.apply_operation(image, operation, FILL))(images)

    return deviation(compute(images, operations), outputs)


@pytest.mark.parametrize("case", range(len(PILLOW)), ids=[f"{n}_{m}" for n, m in PILLOW])
def test_operations_equal_pillows(pillow_deviations, case):
    found = pillow_deviations[case]
    if PILLOW[case][0] == "AutoContrast":
        # Where the quotient is a whole number, Pillow's float64 may fall below it.
        assert found.max() <= 1 and (found > 0).mean() < 0.02
    else:
        assert found.max() == 0


@pytest.mark.parametrize("side", [2100, 3000, 4096])
def test_the_mean_of_a_large_image_does_not_overflow(side):
    image = np.full((side, side, 1), 250, np.uint8)
    mean = jax.jit(lambda image: pillow_ops.degenerates(image)[1][0, 0])(image)
    assert mean.tolist() == [250]


def test_every_operation_changes_a_golden(goldens, pillow_deviations):
    # Otherwise the comparison above could be of images with themselves.
    images, outputs = goldens
    changed = (images != outputs).any((1, 2, 3, 4))
    assert changed.all()
    assert {name for name, _ in PILLOW} == pillow_ops.OPERATIONS.keys() - {"Identity"}


def test_warps_by_hand():
    image = np.arange(1, 10, dtype=np.uint8).reshape(3, 3, 1)

    def rows(name, magnitude):
        return apply(image, name, magnitude, 99)[..., 0].tolist()

    assert rows("TranslateX", 1.9) == [[99, 1, 2], [99, 4, 5], [99, 7, 8]]
    assert rows("TranslateX", -1.9) == [[2, 3, 99], [5, 6, 99], [8, 9, 99]]
    assert rows("TranslateY", 2) == [[99, 99, 99], [99, 99, 99], [1, 2, 3]]
    assert rows("Rotate", 90) == [[3, 6, 9], [2, 5, 8], [1, 4, 7]]  # counterclockwise
    # Rows are 0.5, 1.5 and 2.5 below the edge that stays in place.
    assert rows("ShearX", 0.99) == [[1, 2, 3], [5, 6, 99], [9, 99, 99]]
    assert rows("ShearY", -0.99) == [[1, 99, 99], [4, 2, 99], [7, 5, 3]]


def test_fill_may_differ_per_channel():
    image = np.full((2, 2, 3), 7, np.uint8)
    assert apply(image, "TranslateX", 1, (1, 2, 3))[0].tolist() == [[1, 2, 3], [7, 7, 7]]


def test_levels_by_hand():
    image = np.array([[10, 20], [100, 200]], np.uint8)[..., None]

    def levels(name, magnitude=0.0):
        return apply(image, name, magnitude).ravel().tolist()

    assert levels("Identity") == [10, 20, 100, 200]
    assert levels("Invert") == [245, 235, 155, 55]
    assert levels("Solarize", 99.5) == [10, 20, 155, 55]
    assert levels("Solarize", 100) == [10, 20, 155, 55]
    assert levels("Solarize", 100.5) == [10, 20, 100, 55]
    assert levels("Posterize", 2) == [0, 0, 64, 192]
    assert levels("AutoContrast") == [0, 13, 120, 255]  # 255 (v - 10) / 190
    assert levels("Brightness", 0.5) == [15, 30, 150, 255]
    assert levels("Contrast", -0.5) == [46, 51, 91, 141]  # halfway to the mean, 82.5 or 83
    assert levels("Color", 0.9) == [10, 20, 100, 200]  # it is grey already
    assert levels("Equalize") == [10, 20, 100, 200]  # too few pixels to spread


def test_equalize_by_hand():
    # 512 pixels: a step is (512 - 2) // 255 = 2 pixels, and half a step comes before the first.
    image = np.full((16, 32, 1), 50, np.uint8)
    image[0, :10] = 40
    image[0, 10:12] = 60
    found = apply(image, "Equalize")[..., 0]
    assert (found[0, 0], found[1, 0], found[0, 10]) == (0, (1 + 10) // 2, (1 + 510) // 2)


def test_sharpness_leaves_the_border():
    image = np.zeros((4, 4, 1), np.uint8)
    image[1, 1] = 130
    expected = image.copy()
    expected[1:3, 1:3, 0] = [[50, 10], [10, 10]]  # of 13 parts 5 and 1
    np.testing.assert_array_equal(apply(image, "Sharpness", -1.0), expected)


def test_one_channel_is_grey(goldens):
    grey = goldens[1][len(PILLOW) + [name for name, _ in OPENCV].index("gray")]
    for name, magnitude in (("Contrast", 0.5), ("Sharpness", 0.5), ("Equalize", 0)):
        three = apply(grey[0], name, magnitude)
        np.testing.assert_array_equal(apply(grey[0][..., :1], name, magnitude), three[..., :1])


def test_an_unknown_operation_is_refused():
    with pytest.raises(InputError, match="unknown operation 'Rotat'. Did you mean 'Rotate'"):
        pillow_ops.operation("Rotat", 0.1, 32, 32)
