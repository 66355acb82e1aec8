"""The sums behind batch normalisation, compared with NumPy's in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.kernels import batch_norm


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 7, 12), (2, 16, 16, 24), (70, 16, 16, 20)])
def test_statistics_and_their_gradients_are_numpys(kind, shape):
    random = np.random.RandomState(0)
    x = random.normal(3, size=shape).astype(np.float32)
    found, pull = jax.vjp(lambda x: batch_norm.batch_statistics(x, None), x)
    wide = x.astype(np.float64)
    mean, variance = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6 if kind == "native" else 1e-5)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-4, atol=2e-5)
    into_mean, into_variance = random.normal(size=(2, shape[-1])).astype(np.float32)
    (gradient,) = pull(batch_norm.Statistics(jnp.asarray(into_mean), jnp.asarray(into_variance)))
    expected = (into_mean + 2 * (wide - mean) * into_variance) / (x.size // shape[-1])
    tolerance = 2e-6 * abs(expected).max() + 1e-5 * (variance == 0).all()
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=tolerance)


def test_the_gradient_of_an_affine_map_is_numpys(kind):
    random = np.random.RandomState(0)
    x, dy = random.normal(1, size=(2, 9, 8, 8, 20)).astype(np.float32)
    affine = batch_norm.Affine(*random.normal(size=(2, 20)).astype(np.float32))
    _, pull = jax.vjp(lambda x, affine: batch_norm.affine_map(x, affine, jnp.float32), x, affine)
    into_x, into_affine = pull(jnp.asarray(dy))
    np.testing.assert_allclose(into_x, dy * affine.scale, rtol=1e-6)
    wide = dy.astype(np.float64)
    np.testing.assert_allclose(into_affine.scale, (wide * x).sum((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(into_affine.bias, wide.sum((0, 1, 2)), rtol=1e-4)


def test_half_precision_is_summed_in_single(kind):
    x = jnp.full((64, 32, 32, 4), 1.5, jnp.bfloat16)
    found = batch_norm.batch_statistics(x, None)
    assert found.mean.dtype == jnp.float32
    np.testing.assert_array_equal(found.mean, np.full(4, 1.5, np.float32))
