from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar import models
from jaxcifar.errors import InputError
from jaxcifar.models.blocks import BasicBlock
from jaxcifar.models.layers import conv_layer, norm_layer
from jaxcifar.models.resnet_cifar import ResNetCifar


def count(name, size=32, **fields):
    model = models.create(name, **fields)
    images = jnp.zeros((1, size, size, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    "name, cifar10, cifar100",
    [
        ("resnet20", 269_722, 275_572),
        ("resnet32", 464_154, 470_004),
        ("resnet44", 658_586, 664_436),
        ("resnet56", 853_018, 858_868),
        ("resnet110", 1_727_962, 1_733_812),
        ("resnet18", 11_173_962, 11_220_132),
        ("resnet34", 21_282_122, 21_328_292),
        ("resnet50", 23_520_842, 23_705_252),
        ("densenet_bc_100_12", 769_162, 800_032),
        ("densenet_bc_190_40", 25_624_430, 25_821_620),
        ("densenet121", 6_956_298, 7_048_548),
        ("densenet169", 12_493_322, 12_643_172),
        ("densenet201", 18_104_330, 18_277_220),
        ("densenet264", 30_667_786, 30_909_796),
    ],
)
def test_parameter_counts_are_the_published_ones(name, cifar10, cifar100):
    assert count(name, num_classes=10) == cifar10
    assert count(name, num_classes=100) == cifar100


@pytest.mark.parametrize("name, parameters", [("resnet20", 272_474), ("resnet56", 855_770)])
def test_parameter_counts_with_projection_shortcuts(name, parameters):
    assert count(name, num_classes=10, shortcut="B") == parameters


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("densenet121", 7_978_856),
        ("densenet169", 14_149_480),
        ("densenet201", 20_013_928),
        ("densenet264", 33_337_704),
    ],
)
def test_parameter_counts_on_imagenet(name, parameters):
    assert count(name, size=224, num_classes=1000, stem="imagenet") == parameters


@pytest.fixture(scope="module")
def images():
    return jnp.array(np.random.RandomState(0).normal(size=(4, 32, 32, 3)), jnp.float32)


@pytest.fixture(scope="module")
def variables(images):
    return models.create("resnet8", num_classes=10).init(jax.random.key(0), images, train=False)


def test_every_parameter_has_a_gradient(images, variables):
    model = models.create("resnet8", num_classes=10)
    for path, grad in jax.tree_util.tree_leaves_with_path(gradients(model, variables, images)):
        assert jnp.all(jnp.isfinite(grad)) and jnp.any(grad != 0), jax.tree_util.keystr(path)


def test_evaluation_changes_nothing_and_training_the_statistics(images, variables):
    model = models.create("resnet8", num_classes=10)
    logits, updates = model.apply(variables, images, train=False, mutable=["batch_stats"])
    assert logits.shape == (4, 10) and logits.dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
    again = model.apply(variables, images, train=False)
    np.testing.assert_array_equal(logits, again)

    _, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    first = model.bind(variables).variables["params"]["conv"]["kernel"]
    activations = jax.lax.conv_general_dilated(
        images, first, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(
        updates["batch_stats"]["norm"]["mean"],
        0.1 * activations.mean((0, 1, 2)),
        rtol=1e-4,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        updates["batch_stats"]["norm"]["var"], 0.9 + 0.1 * activations.var((0, 1, 2)), rtol=1e-4
    )


def test_bfloat16_computes_in_it_and_keeps_float32_parameters(images, variables):
    model = models.create("resnet8", num_classes=10, dtype=jnp.bfloat16)
    params = model.init(jax.random.key(0), images, train=False)["params"]
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    assert logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype("float32")}
    exact, _ = models.create("resnet8", num_classes=10).apply(
        variables, images, train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(logits, exact, atol=0.05)
    assert not np.array_equal(logits, exact)


def test_convolutions_start_he_normal_by_fan_out():
    params = models.create("resnet20", num_classes=10).init(
        jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False
    )["params"]
    kernels = {p: x for p, x in jax.tree_util.tree_leaves_with_path(params) if x.ndim == 4}
    assert len(kernels) == 19
    for kernel in kernels.values():
        size, _, _, fan_out = kernel.shape
        std = np.sqrt(2 / (size * size * fan_out))
        assert abs(kernel.std() / std - 1) < 4 / np.sqrt(2 * kernel.size)
        assert abs(kernel.mean() / std) < 4 / np.sqrt(kernel.size)
        # A normal distribution that was not cut off reaches beyond 2 deviations in 4.6 % of draws.
        assert abs(np.mean(np.abs(kernel) > 2 * std) - 0.0455) < 5 * np.sqrt(0.0455 / kernel.size)
    head = params["head"]["kernel"]
    assert np.abs(head).max() <= 1 / np.sqrt(64) and abs(head.std() * np.sqrt(3 * 64) - 1) < 0.1
    assert not params["head"]["bias"].any()


def basic_block(width):
    norm = norm_layer(train=False, dtype=jnp.float32, axis_name=None)
    return BasicBlock(width, stride=2, shortcut="A", conv=conv_layer(jnp.float32), norm=norm)


def test_shortcut_a_subsamples_and_pads_channels():
    block = basic_block(width=4)
    x = jnp.arange(1.0, 1 + 4 * 4 * 2).reshape(1, 4, 4, 2)
    variables = block.init(jax.random.key(0), x)
    # With the last BatchNorm's scale at zero only the shortcut is left.
    variables["params"]["norm2"]["scale"] *= 0
    y = block.apply(variables, x)
    assert y.shape == (1, 2, 2, 4)
    np.testing.assert_array_equal(y[0, ..., 0], 0)
    np.testing.assert_array_equal(y[0, ..., 3], 0)
    np.testing.assert_array_equal(y[0, ..., 1], [[1, 5], [17, 21]])
    np.testing.assert_array_equal(y[0, ..., 2], [[2, 6], [18, 22]])


def test_strided_convolutions_pad_both_sides():
    block = basic_block(width=1)
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(1.0)
    variables = block.init(jax.random.key(0), x)
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    variables["params"]["conv1"]["kernel"] = kernel
    _, state = block.apply(variables, x, capture_intermediates=True, mutable="intermediates")
    convolved = state["intermediates"]["conv1"]["__call__"][0]
    # Output pixel (i, j) sees rows 2i - 1 to 2i + 1: the one at (1, 1) is the last of the first.
    np.testing.assert_array_equal(convolved[0, ..., 0], [[8, 6], [2, 0]])


SMALL_DENSENET = {"num_classes": 10, "block_layers": (2, 2, 2), "growth_rate": 4}


def gradients(model, variables, images):
    def loss(params):
        logits, _ = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.mean(jnp.square(logits[:, 0] - 1))

    return jax.jit(jax.grad(loss))(variables["params"])


def test_recomputing_a_densenet_changes_no_gradient(images):
    plain = models.create("densenet_bc_100_12", **SMALL_DENSENET)
    saving = models.create("densenet_bc_100_12", recompute=True, **SMALL_DENSENET)
    variables = plain.init(jax.random.key(0), images, train=False)
    assert jax.tree.structure(variables) == jax.tree.structure(
        jax.eval_shape(lambda: saving.init(jax.random.key(0), images, train=False))
    )
    one, other = (gradients(model, variables, images) for model in (plain, saving))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, other)
    for path, grad in jax.tree_util.tree_leaves_with_path(one):
        assert jnp.all(jnp.isfinite(grad)) and jnp.any(grad != 0), jax.tree_util.keystr(path)


def test_dropout_acts_in_training_alone_and_follows_its_key(images):
    model = models.create("densenet_bc_100_12", dropout_rate=0.5, **SMALL_DENSENET)
    variables = model.init(jax.random.key(0), images, train=False)
    plain = models.create("densenet_bc_100_12", **SMALL_DENSENET)
    np.testing.assert_array_equal(
        model.apply(variables, images, train=False), plain.apply(variables, images, train=False)
    )

    def train(key):
        rngs = {"dropout": jax.random.key(key)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    np.testing.assert_array_equal(train(1), train(1))
    assert not np.array_equal(train(1), train(2))


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_unknown_stems_are_refused(name):
    with pytest.raises(InputError, match="stem 'imagenette': allowed is cifar or imagenet"):
        models.create(name, num_classes=10, stem="imagenette")


@pytest.mark.parametrize("depth", [2, 18, 21, 57, -4])
def test_impossible_depths_are_refused(depth):
    with pytest.raises(InputError, match=f"depth {depth}: allowed is 6n"):
        ResNetCifar(depth=depth, num_classes=10)


def test_unknown_names_and_shortcuts_are_refused():
    with pytest.raises(InputError, match="unknown model.name 'resnet55'. Did you mean 'resnet56'"):
        models.create("resnet55", num_classes=10)
    with pytest.raises(InputError, match="shortcut 'C'"):
        models.create("resnet20", num_classes=10, shortcut="C")


def test_names_are_unique():
    with pytest.raises(ValueError, match="two models are named 'resnet20'"):
        models.register({"resnet20": {}})(ResNetCifar)
