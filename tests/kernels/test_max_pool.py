import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxcifar.kernels.max_pool import max_pool_2x2


@pytest.mark.parametrize("shape", [(2, 6, 6, 3), (3, 7, 5, 4), (1, 2, 3, 1)])
@pytest.mark.parametrize("levels", [2, 10_000])
def test_values_and_gradients_are_those_of_xla(shape, levels):
    random = np.random.RandomState(0)
    x = jnp.array(random.randint(0, levels, shape), jnp.float32)  # with two levels, many ties
    dy = jnp.array(random.normal(size=(shape[0], shape[1] // 2, shape[2] // 2, shape[3])))

    def with_gradient(pool):
        y, gradient = jax.vjp(pool, x)
        return y, gradient(dy.astype(y.dtype))[0]

    found = with_gradient(max_pool_2x2)
    expected = with_gradient(lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_nan_is_kept_wherever_it_is():
    x = jnp.zeros((1, 4, 4, 1)).at[0, jnp.arange(4), jnp.array([0, 3, 1, 2])].set(jnp.nan)
    assert jnp.isnan(max_pool_2x2(x)).sum() == 4
