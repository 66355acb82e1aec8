import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar.config import default, durations
from jaxcifar.errors import InputError
from jaxcifar.optim.finite import all_finite
from jaxcifar.optim.loss_scale import LossScale
from jaxcifar.optim.optimizers import create_optimizer
from tests.helpers import REPOSITORY, make_config

PARAMS = {
    "conv": {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)},
    "norm": {"scale": np.array([1.0, 1.5], np.float32), "bias": np.array([0.2, 0.0], np.float32)},
}
# 20 steps, of which an epoch has 10.
PLAN = durations(make_config(train__num_steps=20, train__batch_size=10), train_size=100)


def section(**fields):
    config = default().optimizer
    config.update(fields)
    return config


def run(config, params, gradients, rate=lambda step: 0.1):
    """The parameters after one update per gradient."""
    optimizer = create_optimizer(config, PLAN)
    state = optimizer.init(params)
    for step, grads in enumerate(gradients):
        updates, state = optimizer.update(
            grads, state, params, learning_rate=jnp.float32(rate(step)), step=jnp.int32(step)
        )
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


def test_each_group_has_its_own_rate_and_decay_and_may_be_frozen():
    groups = (("norm/bias", 10.0, 0.5, 0.0), ("norm", 1.0, 0.0, 0.3))
    config = section(momentum=0.0, weight_decay=0.1, groups=groups)
    ones = jax.tree.map(np.ones_like, PARAMS)
    after = run(config, PARAMS, [ones] * 5)
    kernel, scale, bias = PARAMS["conv"]["kernel"], PARAMS["norm"]["scale"], PARAMS["norm"]["bias"]
    for step in range(5):
        kernel = kernel - 0.1 * (1 + 0.1 * kernel)
        bias = bias - 10 * 0.1 * (1 + 0.5 * bias)
        if step < 3:  # 0.3 epochs of 10 steps
            scale = scale - 0.1
    np.testing.assert_allclose(after["conv"]["kernel"], kernel, rtol=1e-5)
    np.testing.assert_allclose(after["norm"]["bias"], bias, rtol=1e-5)
    np.testing.assert_allclose(after["norm"]["scale"], scale, rtol=1e-5)


@pytest.mark.parametrize("groups", [["nrom"], ["norm/bias", "bias"]])
def test_a_group_without_parameters_is_named(groups):
    config = section(groups=tuple((pattern, 1.0, 0.0, 0.0) for pattern in groups))
    with pytest.raises(InputError, match=f"pattern '{groups[-1]}' matches no parameter"):
        create_optimizer(config, PLAN).init(PARAMS)


@pytest.mark.parametrize("power", [0.0, 3.0])
def test_lookahead_is_the_papers(power):
    config = section(
        momentum=0.0,
        weight_decay=0.0,
        lookahead_interval=3,
        lookahead_keep=0.8,
        lookahead_power=power,
    )
    gradients = random_gradients(PLAN.num_steps)
    after = run(config, PARAMS, gradients)["conv"]["kernel"]
    fast = slow = PARAMS["conv"]["kernel"].astype(np.float64)
    for step, gradient in enumerate(gradients, 1):
        fast = fast - 0.1 * gradient["conv"]["kernel"]
        if step % 3 == 0:
            keep = 0.8 * (step / PLAN.num_steps) ** power
            fast = slow = keep * slow + (1 - keep) * fast
    # The last step is no multiple of 3; it ends with the slow weights all the same.
    np.testing.assert_allclose(after, slow, rtol=1e-5)


def newton_schulz(matrix, iterations):
    """The iteration of Jordan et al. 2024, "Muon", in float64."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(iterations):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


@pytest.mark.parametrize("normalize", [False, True])
def test_muon_is_the_published_algorithm(normalize):
    random = np.random.RandomState(0)
    shape = (3, 3, 4, 5)
    params = {
        "conv": {"kernel": random.normal(size=shape).astype(np.float32)},
        "head": {"kernel": random.normal(size=(4, 2)).astype(np.float32)},
    }
    gradients = [
        jax.tree.map(lambda p: random.normal(size=p.shape).astype(np.float32), params)
        for _ in range(6)
    ]
    config = section(
        name="muon",
        momentum=0.9,
        nesterov=True,
        weight_decay=0.01,
        muon_momentum=0.6,
        muon_iterations=3,
        muon_normalize=normalize,
    )
    after = run(config, params, gradients)
    kernel, head = (params[name]["kernel"].astype(np.float64) for name in ("conv", "head"))
    kernel = kernel.reshape(36, 5).T
    momentum, velocity = 0, 0
    for gradient in gradients:
        grad = gradient["conv"]["kernel"].reshape(36, 5).T.astype(np.float64)
        momentum = 0.6 * momentum + grad
        if normalize:
            kernel = kernel * np.sqrt(5) / np.linalg.norm(kernel)
        kernel = kernel - 0.1 * newton_schulz(grad + 0.6 * momentum, 3)
        grad = gradient["head"]["kernel"] + 0.01 * head
        velocity = 0.9 * velocity + grad
        head = head - 0.1 * (grad + 0.9 * velocity)
    # optax corrects the bias of the first averages, which changes their mix with the gradient.
    np.testing.assert_allclose(after["conv"]["kernel"], kernel.T.reshape(shape), atol=0.02)
    np.testing.assert_allclose(after["head"]["kernel"], head, rtol=1e-4)
