import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar.config import default
from jaxcifar.optimizers import create_optimizer

PARAMS = {
    "conv": {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)},
    "norm": {"scale": np.array([1.0, 1.5], np.float32), "bias": np.array([0.2, 0.0], np.float32)},
}


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_on", ["all", "kernels"])
def test_sgd_is_the_papers_over_ten_steps(nesterov, decay_on):
    config = default().optimizer
    config.momentum, config.nesterov = 0.9, nesterov
    config.weight_decay, config.weight_decay_on = 0.01, decay_on
    rate = optax.piecewise_constant_schedule(0.1, {5: 0.1})
    optimizer = create_optimizer(config, rate)

    params, state = PARAMS, optimizer.init(PARAMS)
    random = np.random.RandomState(0)
    expected = {(m, n): p.astype(np.float64) for m, ps in PARAMS.items() for n, p in ps.items()}
    velocity = {key: 0.0 for key in expected}
    for step in range(10):
        grads = {
            m: {n: random.normal(size=p.shape).astype(np.float32) for n, p in ps.items()}
            for m, ps in PARAMS.items()
        }
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for module, name in expected:
            key = module, name
            decay = 0.01 if decay_on == "all" or name == "kernel" else 0.0
            grad = grads[module][name] + decay * expected[key]
            velocity[key] = 0.9 * velocity[key] + grad
            direction = grad + 0.9 * velocity[key] if nesterov else velocity[key]
            expected[key] = expected[key] - (0.1 if step < 5 else 0.01) * direction
    for module, name in expected:
        np.testing.assert_allclose(
            params[module][name], expected[module, name], rtol=1e-5, atol=1e-6
        )


def test_the_rate_follows_the_step_count():
    config = default().optimizer
    config.momentum, config.weight_decay = 0.0, 0.0
    optimizer = create_optimizer(config, lambda step: 0.5 * (step + 1))
    params = {"kernel": jnp.zeros(1)}
    state = optimizer.init(params)
    for expected in (-0.5, -1.0, -1.5):
        updates, state = optimizer.update({"kernel": jnp.ones(1)}, state, params)
        assert float(updates["kernel"][0]) == pytest.approx(expected)
