"""Packed networks compute what the ternary networks do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar import models
from jaxcifar.errors import InputError
from jaxcifar.models import packing
from tests.models.helpers import drawn

NETWORKS = {
    "twn": ("resnet20", {"ternary": "twn"}),
    "twn per filter": ("resnet20", {"ternary": "twn", "ternary_scale": "filter"}),
    "ttq": ("resnet20", {"ternary": "ttq"}),
    "shortcuts B": ("resnet8", {"ternary": "ttq", "shortcut": "B"}),
    "bottlenecks": ("resnet50", {"ternary": "twn"}),
    "imagenet stem": ("resnet18", {"ternary": "twn", "stem": "imagenet"}),
    "preactivated": ("resnet20", {"ternary": "twn", "preactivation": True}),
    "group norm": ("resnet20", {"ternary": "ttq", "norm": "group"}),
    "no norm": ("resnet20", {"ternary": "twn", "norm": "none"}),
}


def create(name):
    """A network whose normalisations, biases and scales are not those of the start."""
    model, fields = NETWORKS[name]
    module = models.create(model, num_classes=10, **fields)
    variables = drawn(module, jnp.zeros((1, 32, 32, 3)))
    random = np.random.RandomState(1)

    def change(path, value):
        if path[-1].key in ("scale", "bias", "mean", "var", "positive_scale", "negative_scale"):
            noise = random.uniform(0.5, 1.5, value.shape)
            return jnp.asarray(value + noise - 1 if path[-1].key != "var" else noise, jnp.float32)
        return value

    variables = jax.tree_util.tree_map_with_path(change, variables)
    return module, {"batch_stats": {}, **{k: variables[k] for k in variables if k != "levels"}}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n == "bottlenecks" else []) for n in NETWORKS],
)
def test_logits_are_the_same_and_weights_take_few_bits(name):
    module, variables = create(name)
    packed, small = packing.pack(module, variables, (32, 32, 3))
    images = np.random.RandomState(2).normal(size=(2, 32, 32, 3)).astype(np.float32)
    expected = module.apply(variables, images, train=False)
    found = packed.apply(small, images, train=False)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (variables, small)]
    assert sizes[1] < sizes[0] / (7 if name != "shortcuts B" else 5)
    template = jax.eval_shape(
        lambda: packing.packed_module(module).init(jax.random.key(0), images, train=False)
    )
    assert jax.tree.structure(template["params"]) == jax.tree.structure(small["params"])


def test_batch_normalisation_is_folded_where_it_follows_a_convolution():
    for name in NETWORKS:
        packed, small = packing.pack(*create(name), (32, 32, 3))
        folds = name not in ("preactivated", "group norm", "no norm")
        assert (packed.norm == "folded") == folds, name
        assert bool(small["batch_stats"]) == (name == "preactivated"), name


def test_float_networks_are_refused():
    module = models.create("resnet8", num_classes=10)
    variables = drawn(module, jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(InputError, match="has no ternary weights; model.ternary must be twn or"):
        packing.pack(module, variables, (32, 32, 3))
