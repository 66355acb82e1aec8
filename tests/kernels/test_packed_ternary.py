"""Packed ternary kernels: their codes, and convolutions with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcifar.kernels import native, packed_matmul, packed_ternary


def test_codes_are_digits_of_base_3():
    levels = np.array([1, -1, 0, 0, 1, -1, 1]).reshape(1, 7, 1, 1)
    # Two bytes, with the weights 0, 2, 4, ... and 1, 3, 5, ...; level 0, digit 1, fills them up.
    expected = [2 + 1 * 3 + 2 * 9 + 2 * 27 + 1 * 81, 0 + 1 * 3 + 0 * 9 + 1 * 27 + 1 * 81]
    np.testing.assert_array_equal(packed_ternary.pack(levels), np.array(expected)[:, None])
    assert packed_ternary.pack(np.ones((1, 1, 5, 1))) == 242
    with pytest.raises(ValueError, match="must be -1, 0 or 1"):
        packed_ternary.pack(np.full((1, 1, 1, 1), 2.0))


@pytest.mark.parametrize("shape", [(3, 3, 4, 7), (1, 1, 1, 1), (7, 7, 3, 5), (1, 1, 5, 2)])
def test_levels_come_back(shape):
    levels = np.random.RandomState(0).randint(-1, 2, shape)
    codes = packed_ternary.pack(levels)
    assert codes.shape == packed_ternary.codes_shape(shape) and codes.dtype == np.uint8
    np.testing.assert_array_equal(packed_ternary.unpack(jnp.asarray(codes), shape), levels)


@pytest.mark.parametrize("by", ["the compiled library", "XLA", "the GPU's program"])
@pytest.mark.parametrize(
    "size, channels, out, taps, stride",
    [
        (8, 16, 16, 3, 1),
        (9, 16, 32, 3, 2),
        (8, 16, 33, 1, 1),
        (8, 5, 7, 1, 2),
        (12, 3, 8, 7, 2),
        (16, 48, 64, 3, 1),
        (4, 300, 130, 3, 1),
        (1, 2, 1, 1, 1),
    ],
)
def test_convolutions_are_those_of_the_unpacked_kernel(size, channels, out, taps, stride, by):
    random = np.random.RandomState(0)
    x = random.normal(size=(3, size, size, channels)).astype(np.float32)
    levels = random.randint(-1, 2, (taps, taps, channels, out))
    scales = random.normal(size=(2, out)).astype(np.float32)
    kernel = np.where(levels > 0, scales[0], 0) - np.where(levels < 0, scales[1], 0)
    if by == "the compiled library" and native.compiler() is None:
        pytest.skip("no C++ compiler")

    def convolve(x, codes, scales):
        return packed_ternary.convolve(x, codes, scales, levels.shape, stride)

    arguments = x, packed_ternary.pack(levels), scales
    padding = [(taps // 2,) * 2] * 2
    if by == "the GPU's program":
        found = packed_matmul.convolve(
            *map(jnp.asarray, arguments), levels.shape, stride, padding, interpret=True
        )
    elif by == "XLA":
        with native.switched_off():
            found = jax.jit(convolve)(*arguments)
    else:
        found = jax.jit(convolve)(*arguments)
    expected = lax.conv_general_dilated(
        x.astype(np.float64),
        kernel.astype(np.float64),
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


@pytest.mark.skipif(not packed_matmul.is_available(), reason="JAX has no Pallas for Triton")
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
def test_the_program_is_compiled_for_a_gpu():
    """Lowered without one: Pallas hands Triton's code to XLA."""
    x, codes, scales = jnp.zeros((100, 90)), jnp.zeros((18, 40), jnp.uint8), jnp.zeros((2, 40))
    traced = jax.jit(packed_matmul.multiply).trace(x, codes, scales)
    try:
        lowered = traced.lower(lowering_platforms=("cuda",))
    except RuntimeError as error:
        if "No supported GPU" not in str(error):
            raise
        pytest.skip("this version of JAX needs a GPU to lower the program")
    assert "triton" in lowered.as_text()
