import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar.config import default
from jaxcifar.optim.finite import all_finite
from jaxcifar.optim.loss_scale import LossScale
from jaxcifar.optim.optimizers import create_optimizer
from tests.helpers import REPOSITORY

PARAMS = {
    "conv": {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)},
    "norm": {"scale": np.array([1.0, 1.5], np.float32), "bias": np.array([0.2, 0.0], np.float32)},
}


def section(**fields):
    config = default().optimizer
    config.update(fields)
    return config


def run(config, params, gradients, rate=lambda step: 0.1):
    """The parameters after one update per gradient."""
    optimizer = create_optimizer(config)
    state = optimizer.init(params)
    for step, grads in enumerate(gradients):
        updates, state = optimizer.update(grads, state, params)
        updates = jax.tree.map(lambda update, step=step: -rate(step) * update, updates)
        params = optax.apply_updates(params, updates)
    return params


def random_gradients(steps=10):
    random = np.random.RandomState(0)
    return [
        jax.tree.map(lambda p: random.normal(size=p.shape).astype(np.float32), PARAMS)
        for _ in range(steps)
    ]


@pytest.mark.parametrize("name", ["sgd", "sgdw"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_on", ["all", "kernels"])
def test_sgd_is_the_papers_over_ten_steps(name, nesterov, decay_on):
    config = section(
        name=name, momentum=0.9, nesterov=nesterov, weight_decay=0.01, weight_decay_mask=decay_on
    )
    rate = lambda step: 0.1 if step < 5 else 0.01  # noqa: E731
    gradients = random_gradients()
    params = run(config, PARAMS, gradients, rate)
    for path, found in jax.tree_util.tree_leaves_with_path(params):
        leaf = path[-1].key
        decay = 0.01 if decay_on == "all" or leaf == "kernel" else 0.0
        p, velocity = PARAMS[path[0].key][leaf].astype(np.float64), 0.0
        for step, grads in enumerate(gradients):
            grad = grads[path[0].key][leaf] + (decay * p if name == "sgd" else 0)
            velocity = 0.9 * velocity + grad
            direction = grad + 0.9 * velocity if nesterov else velocity
            p = p - rate(step) * (direction + (decay * p if name == "sgdw" else 0))
        np.testing.assert_allclose(found, p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "golden, fields",
    [
        ("sgd", {"momentum": 0.9, "weight_decay": 0.01}),
        ("sgd_nesterov", {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
        (
            "adamw",
            {"name": "adamw", "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3, "weight_decay": 0.01},
        ),
        ("clipped", {"momentum": 0.9, "weight_decay": 0.01, "clip_global_norm": 2.0}),
    ],
)
def test_ten_updates_are_pytorchs(golden, fields):
    expected = json.loads((REPOSITORY / "tests" / "goldens" / "optimizers.json").read_text())
    torch_side = runpy.run_path(str(REPOSITORY / "scripts" / "goldens" / "make_torch_goldens.py"))
    gradients = [{"kernel": torch_side["gradients"](step)} for step in range(10)]
    params = run(section(**fields), {"kernel": np.ones((3, 4), np.float32)}, gradients)
    np.testing.assert_allclose(params["kernel"], expected[golden], rtol=2e-5, atol=1e-6)


def test_clipping_scales_long_gradients_alone():
    config = section(momentum=0.0, weight_decay=0.0, clip_global_norm=5.0)
    params = {"a": {"kernel": np.zeros(1, "f")}, "b": {"kernel": np.zeros(1, "f")}}
    for gradient, expected in ((3.0, 4.0), (3.0, 4.0)), ((6.0, 8.0), (3.0, 4.0)):
        gradient = {
            name: {"kernel": np.array([g], "f")} for name, g in zip("ab", gradient, strict=True)
        }
        after = run(config, params, [gradient], rate=lambda step: 1.0)
        found = [-float(after[name]["kernel"][0]) for name in "ab"]
        assert found == pytest.approx(expected)


def test_the_loss_scale_halves_at_once_and_doubles_after_2000_finite_steps():
    scale = LossScale.create()
    assert float(scale.scale) == 65_536
    scale = scale.update(jnp.array(False))
    assert (float(scale.scale), int(scale.finite_steps)) == (32_768, 0)
    update = jax.jit(lambda scale: scale.update(jnp.array(True)))
    for _ in range(1999):
        scale = update(scale)
    assert (float(scale.scale), int(scale.finite_steps)) == (32_768, 1999)
    scale = update(scale)
    assert (float(scale.scale), int(scale.finite_steps)) == (65_536, 0)
    tiny = LossScale(jnp.float32(1), jnp.int32(5)).update(jnp.array(False))
    assert (float(tiny.scale), int(tiny.finite_steps)) == (1, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_single_non_finite_number_is_found(bad, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    tree = {"a": jnp.zeros(3), "b": jnp.array([1.0, 2.0])}
    assert all_finite(tree)
    assert not all_finite({**tree, "b": jnp.array([1.0, bad])})
    assert not all_finite({**tree, "c": jnp.zeros((2, 2, 3, 4)).at[1, 0, 2, 3].set(bad)})
    large = jnp.zeros(2**16)
    assert all_finite([large])
    assert not all_finite([large.at[-1].set(bad)])
