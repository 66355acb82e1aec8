"""Kernels and what they do to images, against SciPy, lax and values computed by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy.signal import correlate2d

from jaxcifar.errors import InputError
from jaxcifar.explore import filters

IMAGE = np.random.RandomState(0).randint(0, 256, (13, 17, 3), np.uint8)


def test_kernels_are_those_of_the_textbooks():
    assert filters.kernel("sobel_x", 3).tolist() == [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    assert filters.kernel("sobel_y", 3).tolist() == [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]
    # The 5 x 5 operator of OpenCV's getDerivKernels.
    five = np.outer([1, 4, 6, 4, 1], [-1, -2, 0, 2, 1])
    assert (filters.kernel("sobel_x", 5) == five).all()
    assert filters.kernel("laplacian", 3).tolist() == [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]
    for name, total in (("gaussian", 1), ("box", 1), ("sharpen", 1), ("laplacian", 0)):
        assert np.isclose(filters.kernel(name, 7).sum(), total)
    gaussian = filters.kernel("gaussian", 5)
    assert gaussian[2, 2] == gaussian.max() and np.allclose(gaussian, gaussian.T)
    assert np.isclose(gaussian[2, 3] / gaussian[2, 2], np.exp(-1 / 2))  # a deviation of 1
    assert (filters.kernel("random", 3, 1) != filters.kernel("random", 3, 2)).any()


@pytest.mark.parametrize("padding", filters.PADDINGS)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolutions_are_those_of_scipy(padding, dilation, stride):
    kernel = np.random.RandomState(1).randn(3, 3)
    found, rows, columns = filters.convolve(IMAGE, kernel, stride, padding, dilation)
    spread = np.zeros((2 * dilation + 1,) * 2)
    spread[::dilation, ::dilation] = kernel
    widths = [(rows.before, rows.after), (columns.before, columns.after)]
    mode = "reflect" if padding == "reflect" else "constant"
    for channel in range(3):
        padded = np.pad(IMAGE[..., channel].astype(float), widths, mode=mode)
        expected = correlate2d(padded, spread, "valid")[::stride, ::stride]
        assert np.allclose(found[..., channel], expected, atol=1e-2)
    assert found.shape[:2] == (rows.output_size, columns.output_size)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_sizes_and_padding_are_those_of_lax(size, stride):
    kernel = np.random.RandomState(1).randn(size, size)
    for padding in "valid", "same":
        expected = lax.conv_general_dilated(
            jnp.asarray(IMAGE[None, :, :, :1], jnp.float32),
            jnp.asarray(kernel[:, :, None, None], jnp.float32),
            (stride, stride),
            padding.upper(),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )[0]
        found, *_ = filters.convolve(IMAGE[..., :1], kernel, stride, padding, 1)
        assert np.allclose(found, expected, atol=1e-2)


def test_the_formula_is_the_one_that_is_computed():
    axis = filters.convolution(32, 3, 2, "same", 1)
    assert (axis.before, axis.after, axis.output_size) == (0, 1, 16)
    assert axis.formula == "⌊(32 + 1 - 1·(3 - 1) - 1) / 2⌋ + 1 = 16"
    assert filters.convolution(32, 5, 3, "valid", 2).output_size == 8  # 24 / 3 = 8 steps
    assert filters.convolution(4, 5, 1, "valid", 1).output_size == 0


def test_results_can_be_looked_at():
    flat = np.full((9, 9, 1), 100, np.uint8)
    blur, sobel = filters.kernel("gaussian", 3), filters.kernel("sobel_x", 3)
    assert (filters.as_pixels(filters.convolve(flat, blur, 1, "reflect", 1)[0], blur) == 100).all()
    edges = filters.convolve(flat, sobel, 1, "reflect", 1)[0]
    assert (filters.as_pixels(edges, sobel) == 128).all()
    step = np.repeat(np.uint8([0, 0, 0, 255, 255, 255]), 6).reshape(6, 6, 1).transpose(1, 0, 2)
    pixels = filters.as_pixels(filters.convolve(step, sobel, 1, "reflect", 1)[0], sobel)[..., 0]
    assert pixels[3].tolist() == [128, 128, 255, 255, 128, 128]


def test_a_kernel_comes_from_a_file(tmp_path):
    text, array = tmp_path / "k.txt", tmp_path / "k.npy"
    text.write_text("0, 1, 0\n1 -4 1\n\n0,1,0\n")
    np.save(array, np.eye(2))
    assert filters.kernel(str(text), 99).tolist() == [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    assert filters.kernel(str(array), 3).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    "content, message",
    [
        ("1 2\n3\n", "not a table of numbers"),
        ("a b\nc d\n", "not a table of numbers"),
        ("1 2 3\n4 5 6\n", "must be square"),
        ("nan 1\n1 1\n", "must be square and finite"),
        ("", "must be square"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "kernel.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=f"kernel.txt.*{message}"):
        filters.kernel(str(path), 3)


def test_what_does_not_fit_is_an_error():
    with pytest.raises(InputError, match="unknown kernel 'sobel'"):
        filters.kernel("sobel", 3)
    with pytest.raises(InputError, match="--size=4: must be odd"):
        filters.kernel("box", 4)
    with pytest.raises(InputError, match="kernel of 15 with dilation 1 does not fit"):
        filters.convolve(IMAGE, filters.kernel("box", 15), 1, "valid", 1)
    with pytest.raises(InputError, match="too small to be reflected"):
        filters.convolve(IMAGE[:2], filters.kernel("box", 5), 1, "reflect", 1)
