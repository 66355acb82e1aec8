import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.kernels.gelu import gelu


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_value_and_gradient_are_the_closed_form(dtype, tolerance):
    x = jnp.linspace(-12, 12, 241).astype(dtype)
    y, pull = jax.vjp(gelu, x)
    (dx,) = pull(jnp.full_like(x, 2))
    assert y.dtype == dx.dtype == dtype
    exact = np.asarray(x, np.float64)
    distribution = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in exact])
    density = np.exp(-(exact**2) / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(
        np.asarray(y, np.float64), exact * distribution, tolerance, tolerance
    )
    slope = 2 * (distribution + exact * density)
    np.testing.assert_allclose(np.asarray(dx, np.float64), slope, tolerance, 4 * tolerance)
