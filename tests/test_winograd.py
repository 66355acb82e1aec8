from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcifar.models import winograd


def test_the_matrices_give_exactly_the_four_sums_of_three_taps():
    pixels = [Fraction(n, 7) for n in (3, -1, 4, 1, -5, 9)]
    taps = [Fraction(n, 3) for n in (2, -7, 1)]

    def times(rows, vector):
        exact = [[Fraction(weight).limit_denominator(24) for weight in row] for row in rows]
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in exact]

    from_taps, from_pixels = times(winograd.FROM_TAPS, taps), times(winograd.FROM_PIXELS, pixels)
    products = [g * d for g, d in zip(from_taps, from_pixels, strict=True)]
    expected = [sum(taps[k] * pixels[i + k] for k in range(3)) for i in range(4)]
    assert times(winograd.TO_OUTPUTS, products) == expected


def plain(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(
    "height, width, features_in, features",
    [(4, 4, 64, 64), (5, 8, 64, 96), (1, 12, 256, 64), (3, 4, 64, 256), (6, 8, 256, 320)],
)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_values_and_gradients_are_the_plain_convolutions(
    height, width, features_in, features, dtype, tolerance
):
    random = np.random.RandomState(0)
    x = random.normal(size=(3, height, width, features_in))
    kernel = random.normal(size=(3, 3, features_in, features)) / features_in
    dy = random.normal(size=(3, height, width, features))

    def value_and_gradients(function, *arrays):
        y, pull = jax.vjp(function, *arrays[:2])
        return y, *pull(arrays[2])

    with jax.enable_x64(True):
        expected = value_and_gradients(plain, *map(jnp.asarray, (x, kernel, dy)))
        arrays = [jnp.asarray(array, dtype) for array in (x, kernel, dy)]
        assert winograd.suits(arrays[0], arrays[1], (1, 1), ((1, 1), (1, 1)))
        found = jax.jit(lambda *arrays: value_and_gradients(winograd.convolve, *arrays))(*arrays)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == dtype
            assert abs(one - other).max() < tolerance * abs(other).max()


@pytest.mark.parametrize(
    "x, kernel, strides, padding, suits",
    [
        ((1, 8, 8, 64), (3, 3, 64, 64), (1, 1), ((1, 1), (1, 1)), True),
        ((1, 7, 8, 64), (3, 3, 64, 128), (1, 1), ((1, 1), (1, 1)), True),
        ((1, 8, 7, 64), (3, 3, 64, 64), (1, 1), ((1, 1), (1, 1)), False),
        ((1, 8, 8, 32), (3, 3, 32, 64), (1, 1), ((1, 1), (1, 1)), False),
        ((1, 8, 8, 64), (3, 3, 64, 32), (1, 1), ((1, 1), (1, 1)), False),
        ((1, 8, 8, 64), (3, 3, 64, 64), (2, 2), ((1, 1), (1, 1)), False),
        ((1, 8, 8, 64), (3, 3, 64, 64), (1, 1), ((0, 0), (0, 0)), False),
        ((1, 8, 8, 64), (1, 1, 64, 64), (1, 1), ((0, 0), (0, 0)), False),
    ],
)
def test_where_it_is_used(x, kernel, strides, padding, suits):
    kernel = jnp.zeros(kernel)
    assert winograd.suits(jnp.zeros(x), kernel, strides, padding) is suits
    assert not winograd.suits(jnp.zeros(x, jnp.bfloat16), kernel, strides, padding)
