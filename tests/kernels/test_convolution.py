import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcifar.kernels import convolution

# Image size, input and output channels, kernel size and stride: all kinds that the networks have.
SHAPES = [
    (8, 3, 16, 3, 1),
    (8, 16, 32, 3, 2),
    (9, 16, 32, 3, 2),
    (8, 16, 16, 3, 1),
    (9, 16, 16, 3, 1),
    (8, 48, 12, 3, 1),
    (9, 48, 12, 3, 1),
    (8, 16, 8, 1, 1),
    (8, 16, 32, 1, 2),
    (9, 16, 32, 1, 2),
    (16, 3, 8, 7, 2),
    (17, 3, 8, 7, 2),
    (1, 8, 8, 3, 2),
]
# Shapes that the C++ convolutions split up, or compute with fewer products.
MORE_SHAPES = [
    (32, 16, 16, 3, 1),
    (33, 20, 40, 3, 1),
    (4, 70, 100, 3, 1),
    (8, 32, 36, 3, 1),
    (12, 130, 50, 3, 1),
    (15, 24, 64, 3, 1),
    (3, 48, 40, 3, 1),
    (10, 150, 140, 3, 1),
    (26, 40, 30, 3, 1),
    (5, 40, 12, 3, 2),
    (2, 33, 80, 3, 1),
    (7, 300, 48, 1, 1),
    (15, 5, 65, 7, 2),
]
DIMENSIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def plain(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, **DIMENSIONS)


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.RandomState(seed).normal(size=shape).astype(dtype)


def value_and_gradients(function, x, kernel, *settings):
    y, pull = jax.vjp(lambda x, kernel: function(x, kernel, *settings), x, kernel)
    return y, *pull(jnp.asarray(normal(*y.shape, seed=2), y.dtype))


def assert_equal(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert abs(one - other).max() <= tolerance * abs(other).max()


@pytest.mark.parametrize("size, width_in, width, taps, stride", SHAPES + MORE_SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_values_and_gradients_are_those_of_lax(
    kind, size, width_in, width, taps, stride, dtype, tolerance
):
    settings = (stride, stride), [(taps // 2, taps // 2)] * 2
    if kind == "native" and (taps, stride) == (3, 1) and dtype == np.float32:
        tolerance = 3e-5  # F(4x4, 3x3) rounds more
    with jax.enable_x64(True):
        x = jnp.asarray(normal(4, size, size, width_in), dtype)
        kernel = jnp.asarray(normal(taps, taps, width_in, width, seed=1), dtype)

        def both(x, kernel):
            found = value_and_gradients(convolution.conv_general_dilated, x, kernel, *settings)
            return found, value_and_gradients(plain, x, kernel, *settings)

        found, expected = jax.jit(both)(x, kernel)
        assert_equal(found, expected, tolerance)
        if kind == "native":
            assert "jaxcifar_kernel_gradient" in jax.jit(both).lower(x, kernel).as_text()


@pytest.mark.parametrize("batch", [1, 17, 40])
@pytest.mark.parametrize(
    "size, width_in, width, taps", [(6, 12, 20, 3), (6, 12, 20, 1), (9, 33, 40, 3)]
)
def test_strides_paddings_and_batches_of_any_size_match_lax(
    kind, batch, size, width_in, width, taps
):
    x, kernel = normal(batch, size, size + 3, width_in), normal(taps, taps, width_in, width, seed=1)
    for settings in [
        ((1, 2), ((0, 2), (1, 0))),
        ((2, 1), ((2, 1), (0, 0))),
        ((1, 1), ((2, 0), (0, 2))),
    ]:
        found = value_and_gradients(convolution.conv_general_dilated, x, kernel, *settings)
        assert_equal(found, value_and_gradients(plain, x, kernel, *settings), 1e-5)


def test_a_case_computed_by_hand(kind):
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
    kernel = np.zeros((3, 3, 1, 2), np.float32)
    kernel[0, 1, 0, 0] = 1  # the pixel above
    kernel[1, 2, 0, 1] = 10  # the pixel to the right
    y, dx, dkernel = value_and_gradients(
        lambda *arrays: convolution.conv_general_dilated(*arrays, (1, 1), ((1, 1), (1, 1))),
        x,
        kernel,
    )
    assert y[0, ..., 0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert y[0, ..., 1].tolist() == [[20, 30, 0], [50, 60, 0], [80, 90, 0]]
    dy = normal(1, 3, 3, 2, seed=2)[0]
    assert dx[0, 0, 0, 0] == dy[1, 0, 0]
    np.testing.assert_allclose(dx[0, 0, 1, 0], dy[1, 1, 0] + 10 * dy[0, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(dkernel[0, 0, 0, 0], (dy[1:, 1:, 0] * x[0, :2, :2, 0]).sum(), 1e-6)


def test_float16_uses_xla():
    x, kernel = (
        jnp.asarray(array, jnp.float16) for array in (normal(2, 8, 8, 4), normal(3, 3, 4, 8))
    )
    settings = (1, 1), ((1, 1), (1, 1))
    found = value_and_gradients(convolution.conv_general_dilated, x, kernel, *settings)
    assert_equal(found, value_and_gradients(plain, x, kernel, *settings), 1e-2)


@pytest.mark.parametrize(
    "size, width_in, width, taps, stride", SHAPES[1::3] + SHAPES[7:8] + MORE_SHAPES[2::3]
)
def test_bfloat16_is_rounded_once(native_compiler, size, width_in, width, taps, stride):
    settings = (stride, stride), [(taps // 2, taps // 2)] * 2
    shapes = (4, size, size, width_in), (taps, taps, width_in, width)
    x, kernel = (jnp.asarray(normal(*shape, seed=shape[0]), jnp.bfloat16) for shape in shapes)

    def both(x, kernel):
        y, pull = jax.vjp(lambda *a: convolution.conv_general_dilated(*a, *settings), x, kernel)
        dy = jnp.asarray(normal(*y.shape, seed=2), jnp.bfloat16)
        exact, exact_pull = jax.vjp(
            lambda *a: plain(*a, *settings), *(a.astype(jnp.float32) for a in (x, kernel))
        )
        return (y, *pull(dy)), (exact, *exact_pull(dy.astype(jnp.float32)))

    for found, exact in zip(*jax.jit(both)(x, kernel), strict=True):
        assert found.dtype == jnp.bfloat16 and found.shape == exact.shape
        # Half a unit in the last of 8 places, and the rounding of float32. The gradient of x with
        # a stride is put together from parts that do not overlap.
        allowed = 2.0**-8 * abs(exact) + 3e-5 * abs(exact).max()
        assert (abs(found.astype(jnp.float32) - exact) <= allowed).all()


@pytest.mark.parametrize("width", [1, 16, 37])
@pytest.mark.parametrize("taps", [1, 3])
def test_bfloat16_rounds_as_jax_does(native_compiler, width, taps):
    special = [0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.39e38, np.inf, -np.inf, 1e-30]
    kernel = np.zeros((taps, taps, 1, width), np.float32)
    kernel[taps // 2, taps // 2] = 1
    # Products with 1 leave numbers as they are, so that only the rounding of outputs is seen.
    x = jnp.asarray(np.array(special, np.float32).reshape(1, 3, 3, 1))
    halves = x.astype(jnp.bfloat16)
    padding = [(taps // 2, taps // 2)] * 2
    y = convolution.conv_general_dilated(halves, jnp.bfloat16(kernel), (1, 1), padding)
    finite = np.isfinite(np.asarray(halves, np.float32))
    expected = np.broadcast_to(np.asarray(halves, np.float32), y.shape)
    if taps == 1:
        np.testing.assert_array_equal(np.asarray(y, np.float32), expected)
    else:  # infinity times 0 is NaN in its neighbours
        assert not np.isfinite(np.asarray(y, np.float32)[~np.broadcast_to(finite, y.shape)]).any()
    nan = convolution.conv_general_dilated(
        halves * jnp.bfloat16(jnp.nan), jnp.bfloat16(kernel), (1, 1), padding
    )
    assert np.isnan(np.asarray(nan, np.float32)).all()


def test_vmap_over_kernels(kind):
    x, kernels = normal(4, 6, 6, 3), normal(5, 3, 3, 3, 8)
    settings = (1, 1), ((1, 1), (1, 1))

    def at_once(function):
        def one(kernel):
            return value_and_gradients(function, x, kernel, *settings)

        return jax.jit(jax.vmap(one))(kernels)

    assert_equal(at_once(convolution.conv_general_dilated), at_once(plain), 1e-5)


def layouts_in_loops(function):
    """Returns the layouts of all convolutions in the loop of a small network's compiled program.

    Each iteration of the loop takes a gradient step through strided convolutions, a 1x1 kernel, and
    3x3 kernels with few and with many channels.
    """
    shapes = [(3, 3, 4, 8), (1, 1, 8, 64), (3, 3, 64, 64), (3, 3, 64, 4)]
    kernels = [jnp.asarray(normal(*shape)) for shape in shapes]
    strides = [2, 2, 1, 1]
    x = normal(4, 16, 16, 4)

    def loss(kernels):
        y = x
        for kernel, stride in zip(kernels, strides, strict=True):
            pad = kernel.shape[0] // 2
            y = jnp.tanh(function(y, kernel, (stride, stride), [(pad, pad)] * 2))
        return jnp.mean(y)

    def iteration(_, kernels):
        grads = jax.grad(loss)(kernels)
        return jax.tree.map(lambda kernel, grad: kernel - grad, kernels, grads)

    program = jax.jit(lambda kernels, steps: lax.fori_loop(0, steps, iteration, kernels))
    text = program.lower(kernels, 3).compile().as_text()
    entry = text[text.index("\nENTRY") :]
    assert " convolution(" not in entry
    return set(re.findall(r" convolution\(.*dim_labels=(\S+?)[,\s]", text))


def test_convolutions_in_a_loop_have_the_fast_layout(kind):
    fast = {"b01f_01io->b01f"}
    expected = set() if kind == "native" else fast
    assert layouts_in_loops(convolution.conv_general_dilated) == expected
    # Without this module there are other layouts.
    assert layouts_in_loops(plain) > fast


def test_the_compiled_convolution_is_used_on_a_cpu():
    assert convolution.for_backend() is convolution.conv_general_dilated
