import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcifar.models import convolution

# Images' size, channels in and out, kernel and stride: all that the networks have.
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
DIMENSIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def plain(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, **DIMENSIONS)


def normal(*shape, seed=0):
    return jnp.array(np.random.RandomState(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("size, width_in, width, taps, stride", SHAPES)
def test_gradients_are_those_of_lax(size, width_in, width, taps, stride):
    x, kernel = normal(4, size, size, width_in), normal(taps, taps, width_in, width, seed=1)
    settings = (stride, stride), [(taps // 2, taps // 2)] * 2

    def value_and_gradients(function):
        y, pull = jax.vjp(lambda x, kernel: function(x, kernel, *settings), x, kernel)
        return y, *pull(normal(*y.shape, seed=2))

    expected = jax.jit(lambda: value_and_gradients(plain))()
    found = jax.jit(lambda: value_and_gradients(convolution.conv_general_dilated))()
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def orders_in_loops(function):
    """The dimensions' orders of the convolutions in the loop bodies of a small network's program.

    Each turn of the loop takes a gradient step, through strides, a 1x1 kernel and 3x3 kernels of
    few channels and of many.
    """
    shapes = [(3, 3, 4, 8), (1, 1, 8, 64), (3, 3, 64, 64), (3, 3, 64, 4)]
    kernels = [normal(*shape) for shape in shapes]
    strides = [2, 2, 1, 1]
    x = normal(4, 16, 16, 4)

    def loss(kernels):
        y = x
        for kernel, stride in zip(kernels, strides, strict=True):
            pad = kernel.shape[0] // 2
            y = jnp.tanh(function(y, kernel, (stride, stride), [(pad, pad)] * 2))
        return jnp.mean(y)

    def turn(_, kernels):
        grads = jax.grad(loss)(kernels)
        return jax.tree.map(lambda kernel, grad: kernel - grad, kernels, grads)

    program = jax.jit(lambda kernels, turns: lax.fori_loop(0, turns, turn, kernels))
    text = program.lower(kernels, 3).compile().as_text()
    entry = text[text.index("\nENTRY") :]
    assert " convolution(" not in entry
    return set(re.findall(r" convolution\(.*dim_labels=(\S+?)[,\s]", text))


def test_no_convolution_in_a_loop_is_out_of_order():
    assert orders_in_loops(convolution.conv_general_dilated) == {"b01f_01io->b01f"}
    # What it is there for: without it there are others.
    assert orders_in_loops(plain) > {"b01f_01io->b01f"}


def test_it_is_the_cpus():
    assert convolution.for_backend() is convolution.conv_general_dilated
