"""What holds for every registered network: types, shapes, determinism, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar import models
from tests.helpers import COMPILED_QUICKLY
from tests.models.helpers import drawn, gradients

QUICK = ("resnet8",)
# XLA needs more than twenty minutes for each; resnet101 and resnet110 cover their classes.
DEEPEST = ("resnet152", "resnet1202")
# Variants of the networks that are selected by fields.
FORMS = [
    ("resnet8", {"preactivation": True}),
    ("resnet8", {"norm": "group"}),
    ("resnet8", {"norm": "layer"}),
    ("resnet8", {"norm": "none"}),
    ("resnet8", {"ternary": "twn"}),
    ("resnet8", {"ternary": "ttq"}),
    ("densenet_bc_100_12", {"depth": 16}),
]


@pytest.mark.parametrize("name, fields", [*[(name, {}) for name in QUICK], *FORMS])
def test_a_registered_network_keeps_the_contract_quickly(name, fields):
    check_contract(name, fields)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in models.registered if n not in (*QUICK, *DEEPEST)])
def test_a_registered_network_keeps_the_contract(name):
    check_contract(name, {})


def check_contract(name, fields):
    """Checks the gradients, types and determinism of a network."""
    images = jnp.array(np.random.RandomState(0).normal(size=(8, 16, 16, 3)), jnp.float32)
    model = models.create(name, num_classes=10, **fields)
    variables = drawn(model, images)
    for path, grad in jax.tree_util.tree_leaves_with_path(gradients(model, variables, images)):
        assert jnp.all(jnp.isfinite(grad)) and jnp.any(grad != 0), jax.tree_util.keystr(path)

    def logits_of(dtype):
        model = models.create(name, num_classes=10, dtype=dtype, **fields)
        apply = jax.jit(
            lambda v, x: model.apply(v, x, train=False, mutable=["batch_stats"]),
            compiler_options=COMPILED_QUICKLY,
        )
        logits, updates = apply(variables, images)
        before = variables.get("batch_stats", {})
        jax.tree.map(np.testing.assert_array_equal, updates.get("batch_stats", {}), before)
        np.testing.assert_array_equal(apply(variables, images)[0], logits)
        assert logits.shape == (8, 10) and logits.dtype == jnp.float32
        return np.array(logits)

    exact, rounded = logits_of(jnp.float32), logits_of(jnp.bfloat16)
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.05
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
