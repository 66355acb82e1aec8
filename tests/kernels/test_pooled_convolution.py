import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jaxcifar.kernels import native, pooled_convolution

SETTINGS = ((1, 1), ((1, 1), (1, 1)))
DIMENSIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def plain(x, kernel):
    y = lax.conv_general_dilated(x, kernel, *SETTINGS, **DIMENSIONS)
    return nn.max_pool(y, (2, 2), strides=(2, 2))


def convolution_and_pooling(x, kernel):
    return pooled_convolution.conv_general_dilated(x, kernel, *SETTINGS, **DIMENSIONS)


def arrays(size, width_in, width, dtype=np.float32, batch=5):
    random = np.random.RandomState(0)
    return tuple(
        jnp.asarray(random.normal(size=shape), dtype)
        for shape in (
            (batch, *size, width_in),
            (3, 3, width_in, width),
            (batch, size[0] // 2, size[1] // 2, width),
        )
    )


@pytest.mark.parametrize(
    "size, width_in, width",
    [
        ((31, 31), 24, 64),
        ((15, 15), 64, 80),
        ((7, 8), 140, 150),
        ((2, 3), 16, 33),
        ((12, 12), 8, 20),
    ],
)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-5), (np.float64, 1e-13)])
def test_values_and_gradients_are_those_of_lax(kind, size, width_in, width, dtype, tolerance):
    with jax.enable_x64(True):
        x, kernel, dy = arrays(size, width_in, width, dtype)

        def pooled(*arrays):  # a new function, which JAX compiles for this kind
            return convolution_and_pooling(*arrays)

        (y, pull), (expected, expected_pull) = (
            jax.vjp(jax.jit(function), x, kernel) for function in (pooled, plain)
        )
        for found, exact in zip((y, *pull(dy)), (expected, *expected_pull(dy)), strict=True):
            assert found.dtype == exact.dtype and found.shape == exact.shape
            np.testing.assert_allclose(found, exact, atol=tolerance * float(abs(exact).max()))
        fused = "jaxcifar_convolve_and_pool" in jax.jit(pooled).lower(x, kernel).as_text()
        assert fused == (kind == "native" and width_in >= 16)


@pytest.mark.parametrize(
    "size, width_in, width", [((31, 31), 24, 64), ((7, 8), 140, 150), ((2, 3), 16, 33)]
)
def test_bfloat16_is_rounded_once(native_compiler, size, width_in, width):
    x, kernel, dy = arrays(size, width_in, width, jnp.bfloat16)
    y, pull = jax.vjp(jax.jit(convolution_and_pooling), x, kernel)
    wide = [a.astype(jnp.float32) for a in (x, kernel, dy)]
    exact, exact_pull = jax.vjp(jax.jit(plain), *wide[:2])
    for found, wanted in zip((y, *pull(dy)), (exact, *exact_pull(wide[2])), strict=True):
        assert found.dtype == jnp.bfloat16
        allowed = 2.0**-8 * abs(wanted) + 3e-5 * abs(wanted).max()
        assert (abs(found.astype(jnp.float32) - wanted) <= allowed).all()


def test_the_corner_is_that_of_the_maximum(native_compiler):
    x = jnp.ones((1, 4, 4, 16)).at[0, 0, 1].set(2).at[0, 3, 0].set(3).at[0, 3, 3].set(4)
    kernel = jnp.zeros((3, 3, 16, 16)).at[1, 1].set(jnp.eye(16))
    y, corners = native.convolve_and_pool(x.at[0, 0, 2].set(1.5), kernel)
    np.testing.assert_allclose(y[0, ..., 5], [[2, 1.5], [3, 4]], atol=1e-5)
    assert corners.dtype == jnp.uint8
    np.testing.assert_array_equal(corners[0, ..., 5], [[1, 0], [2, 3]])


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (5, 4), (6, 6)])
def test_nan_reaches_the_maximum(native_compiler, place):
    x, kernel, _ = arrays((8, 8), 16, 16)
    y = convolution_and_pooling(x.at[2, place[0], place[1], 3].set(jnp.nan), kernel)
    expected = np.isnan(np.asarray(plain(x.at[2, place[0], place[1], 3].set(jnp.nan), kernel)))
    assert np.isnan(np.asarray(y))[expected].all()
