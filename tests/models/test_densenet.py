"""The fast training form of a dense block against the plain layers of the paper."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar import models
from jaxcifar.models.densenet import DenseNet
from tests.helpers import COMPILED_QUICKLY
from tests.models.helpers import SMALL_DENSENET, drawn, gradients


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(0).normal(size=(4, 8, 8, 3))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_fast_block_trains_like_its_plain_layers(images, recompute, monkeypatch):
    with jax.enable_x64(True):
        model = models.create(
            "densenet121",
            num_classes=10,
            block_layers=(3, 2),
            growth_rate=4,
            recompute=recompute,
            dtype=jnp.float64,
        )
        random = np.random.RandomState(1)
        variables = jax.tree.map(
            lambda x: x.astype(jnp.float64) + random.uniform(0, 0.5, x.shape), drawn(model, images)
        )

        def loss(params):
            logits, updates = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(jnp.square(logits - jnp.arange(10))), (logits, updates)

        blocks = []

        def train_plainly(network, x, dense_layers):
            blocks.append(len(dense_layers))
            for layer in dense_layers:
                x = layer(x, train=True)
            return x

        def compute():
            # A new function each time, or jit would reuse the program of the other form.
            step = jax.grad(lambda params: loss(params), has_aux=True)
            return jax.jit(step, compiler_options=COMPILED_QUICKLY)(variables["params"])

        fast = compute()
        monkeypatch.setattr(DenseNet, "_train_block", train_plainly)
        plain = compute()
        assert blocks == [3, 2]
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-11), fast, plain)


def test_initialisation_is_the_same_in_training_and_evaluation(images):
    model = models.create("densenet_bc_100_12", **SMALL_DENSENET)
    trained, evaluated = (model.init(jax.random.key(0), images, train=t) for t in (True, False))
    jax.tree.map(np.testing.assert_array_equal, trained, evaluated)


def test_recomputing_a_densenet_changes_no_gradient(images):
    plain = models.create("densenet_bc_100_12", **SMALL_DENSENET)
    saving = models.create("densenet_bc_100_12", recompute=True, **SMALL_DENSENET)
    images = images[:, :8, :8]
    variables = drawn(plain, images)
    assert jax.tree.structure(variables) == jax.tree.structure(
        jax.eval_shape(lambda: saving.init(jax.random.key(0), images, train=False))
    )
    one, other = (gradients(model, variables, images) for model in (plain, saving))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, other)
    for path, grad in jax.tree_util.tree_leaves_with_path(one):
        assert jnp.all(jnp.isfinite(grad)) and jnp.any(grad != 0), jax.tree_util.keystr(path)
