from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxcifar import models
from jaxcifar.errors import InputError
from jaxcifar.models import layers
from jaxcifar.models.blocks import BasicBlock, drop_rates, stochastic_depth
from jaxcifar.models.counting import count
from jaxcifar.models.layers import he_normal_fan_out
from jaxcifar.models.resnet_cifar import ResNetCifar
from tests.models.helpers import SMALL_DENSENET, drawn


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


def parameters(name, size=32, **fields):
    return count(models.create(name, **fields), (size, size, 3)).parameters


@pytest.mark.parametrize(
    "name, cifar10, cifar100, million_macs",
    [
        ("resnet20", 269_722, 275_572, 40.55),
        ("resnet32", 464_154, 470_004, 68.86),
        ("resnet44", 658_586, 664_436, 97.17),
        ("resnet56", 853_018, 858_868, 125.49),
        ("resnet110", 1_727_962, 1_733_812, 252.89),
        ("resnet18", 11_173_962, 11_220_132, 555.42),
        ("resnet34", 21_282_122, 21_328_292, 1159.40),
        ("resnet50", 23_520_842, 23_705_252, 1297.83),
        ("densenet_bc_100_12", 769_162, 800_032, 287.93),
        slow("densenet_bc_190_40", 25_624_430, 25_821_620, 9301.95),
        ("densenet121", 6_956_298, 7_048_548, 888.35),
        slow("densenet169", 12_493_322, 12_643_172, 1059.80),
        slow("densenet201", 18_104_330, 18_277_220, 1363.89),
        slow("densenet264", 30_667_786, 30_909_796, 1840.47),
    ],
)
def test_published_parameters_and_multiply_adds(name, cifar10, cifar100, million_macs):
    counts = count(models.create(name, num_classes=10), (32, 32, 3))
    assert (counts.parameters, round(counts.macs / 1e6, 2)) == (cifar10, million_macs)
    # Only the classifier depends on the number of classes.
    per_class = models.create(name, num_classes=1)
    assert cifar10 + 90 * (cifar10 - count(per_class, (8, 8, 3)).parameters) // 9 == cifar100


def test_every_registered_network_names_its_classifier():
    """The classifier is what depends on the number of classes."""
    fields = {"resnet8": {}, "resnet18": {}, "densenet_bc_100_12": {"depth": 16}, "speedrun94": {}}
    modules = {(entry.module, entry.head) for entry in models.registered.values()}
    entries = {name: models.registered[name] for name in fields}
    assert {(entry.module, entry.head) for entry in entries.values()} == modules
    for name, entry in entries.items():
        few, many = (
            jax.eval_shape(
                partial(models.create(name, num_classes=classes, **fields[name]).init, train=False),
                jax.random.key(0),
                jnp.zeros((1, 16, 16, 3)),
            )
            for classes in (10, 100)
        )
        same = jax.tree.map(lambda one, other: one.shape == other.shape, few, many)
        depends = [path for path, fits in jax.tree_util.tree_leaves_with_path(same) if not fits]
        assert {(path[0].key, path[1].key) for path in depends} == {("params", entry.head)}
        assert len(depends) == len(few["params"][entry.head])


@pytest.mark.parametrize("name, expected", [("resnet20", 272_474), ("resnet56", 855_770)])
def test_parameter_counts_with_projection_shortcuts(name, expected):
    assert parameters(name, num_classes=10, shortcut="B") == expected


@pytest.mark.parametrize(
    "name, expected",
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("densenet121", 7_978_856),
        slow("densenet169", 14_149_480),
        slow("densenet201", 20_013_928),
        slow("densenet264", 33_337_704),
    ],
)
def test_parameter_counts_on_imagenet(name, expected):
    assert parameters(name, size=224, num_classes=1000, stem="imagenet") == expected


@pytest.mark.parametrize("name", ["resnet20", "resnet110"])
def test_preactivation_moves_normalisations_and_adds_none(name):
    assert parameters(name, num_classes=10, preactivation=True) == parameters(name, num_classes=10)


def test_networks_without_normalisation_have_biases_and_factors():
    plain = parameters("resnet18", num_classes=10)
    # 20 convolutions with 64 to 512 channels: a bias in place of a scale and a bias; 8 branches.
    channels = 5 * 64 + 5 * 128 + 5 * 256 + 5 * 512
    assert parameters("resnet18", num_classes=10, norm="none") == plain - channels + 8


@pytest.fixture(scope="module")
def images():
    return jnp.array(np.random.RandomState(0).normal(size=(4, 32, 32, 3)), jnp.float32)


@pytest.fixture(scope="module")
def variables(images):
    return models.create("resnet8", num_classes=10).init(jax.random.key(0), images, train=False)


def test_only_training_changes_the_statistics(images, variables):
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


def test_bfloat16_computation_keeps_float32_parameters(images, variables):
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
        # A normal distribution that is not truncated reaches beyond 2 deviations in 4.6 % of draws.
        assert abs(np.mean(np.abs(kernel) > 2 * std) - 0.0455) < 5 * np.sqrt(0.0455 / kernel.size)
        like = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        key = jax.random.key(size)
        drawn = he_normal_fan_out(key, kernel.shape)
        np.testing.assert_allclose(drawn, like(key, kernel.shape), rtol=1e-6)
    head = params["head"]["kernel"]
    assert np.abs(head).max() <= 1 / np.sqrt(64) and abs(head.std() * np.sqrt(3 * 64) - 1) < 0.1
    assert not params["head"]["bias"].any()


def basic_block(width):
    return BasicBlock(
        width,
        stride=2,
        shortcut="A",
        drop_rate=0.0,
        conv=partial(layers.conv, dtype=jnp.float32),
        norm=partial(layers.norm, train=False, dtype=jnp.float32),
    )


def test_shortcut_a_subsamples_and_pads_channels():
    block = basic_block(width=4)
    x = jnp.arange(1.0, 1 + 4 * 4 * 2).reshape(1, 4, 4, 2)
    variables = block.init(jax.random.key(0), x, train=False)
    # With the last BatchNorm's scale at zero only the shortcut remains.
    variables["params"]["norm2"]["scale"] *= 0
    y = block.apply(variables, x, train=False)
    assert y.shape == (1, 2, 2, 4)
    np.testing.assert_array_equal(y[0, ..., 0], 0)
    np.testing.assert_array_equal(y[0, ..., 3], 0)
    np.testing.assert_array_equal(y[0, ..., 1], [[1, 5], [17, 21]])
    np.testing.assert_array_equal(y[0, ..., 2], [[2, 6], [18, 22]])


def test_strided_convolutions_pad_both_sides():
    block = basic_block(width=1)
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(1.0)
    variables = block.init(jax.random.key(0), x, train=False)
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    variables["params"]["conv1"]["kernel"] = kernel
    _, state = block.apply(
        variables, x, train=False, capture_intermediates=True, mutable="intermediates"
    )
    convolved = state["intermediates"]["conv1"]["__call__"][0]
    # Output (i, j) reads rows 2i - 1 to 2i + 1; the pixel at (1, 1) is the last that (0, 0) reads.
    np.testing.assert_array_equal(convolved[0, ..., 0], [[8, 6], [2, 0]])


@pytest.mark.parametrize(
    "name, fields",
    [("densenet_bc_100_12", SMALL_DENSENET), ("resnet8", {"num_classes": 10})],
    ids=["dense", "res"],
)
def test_dropout_acts_only_in_training_and_follows_its_key(images, name, fields):
    model = models.create(name, dropout_rate=0.5, **fields)
    images = images[:, :8, :8]
    variables = drawn(model, images)
    plain = models.create(name, **fields)
    logits = [jax.jit(partial(m.apply, train=False))(variables, images) for m in (model, plain)]
    np.testing.assert_array_equal(*logits)

    @jax.jit
    def train(key):
        rngs = {"dropout": jax.random.key(key)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    np.testing.assert_array_equal(train(1), train(1))
    assert not np.array_equal(train(1), train(2))


def test_resnet_dropout_zeroes_inputs_of_the_classifier():
    def logits(model, key):
        rngs = {"dropout": key}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    images = jnp.linspace(-1, 1, 2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
    plain, dropped = (models.create("resnet8", num_classes=64, dropout_rate=r) for r in (0.0, 0.75))
    variables = plain.init(jax.random.key(0), images, train=False)
    # With the identity as classifier, the logits are the pooled features.
    variables["params"]["head"] = {"kernel": jnp.eye(64), "bias": jnp.zeros(64)}
    features = np.array(jax.jit(partial(logits, plain))(jax.random.key(1)))
    keys = jax.random.split(jax.random.key(2), 200)
    found = np.array(jax.jit(jax.vmap(partial(logits, dropped)))(keys))
    kept = found != 0
    np.testing.assert_allclose(found[kept], np.tile(4 * features, (200, 1, 1))[kept], rtol=1e-4)
    share = kept[:, features != 0].mean()
    assert share == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / kept[:, features != 0].size))


def test_zero_init_residual_makes_every_block_the_identity(images):
    model = models.create("resnet20", num_classes=10, zero_init_residual=True)
    variables = model.init(jax.random.key(0), images, train=False)
    _, found = model.apply(
        variables, images, train=False, capture_intermediates=True, mutable=["intermediates"]
    )
    blocks = found["intermediates"]
    stem = jax.nn.relu(blocks["norm"]["__call__"][0])
    np.testing.assert_array_equal(blocks["stage1_block3"]["__call__"][0], stem)
    by_norm = {
        name: bool(x["norm2"]["scale"].any())
        for name, x in variables["params"].items()
        if name.startswith("stage")
    }
    assert len(by_norm) == 9 and not any(by_norm.values())
    assert variables["params"]["stage1_block1"]["norm1"]["scale"].all()


def test_stochastic_depth_matches_the_paper():
    # Huang et al. 2016, figure 2: survival from 1 at the input to 0.5 at the last block.
    assert drop_rates(0.5, 5) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    branch = jnp.ones((2, 3, 3, 1))
    np.testing.assert_allclose(stochastic_depth(branch, 0.2, None), 0.8)
    keys = jax.random.split(jax.random.key(0), 2000)
    kept = jax.vmap(lambda key: stochastic_depth(branch, 0.2, key))(keys)
    assert set(np.unique(kept)) == {0, 1}
    np.testing.assert_array_equal(kept.min((1, 2, 3, 4)), kept.max((1, 2, 3, 4)))
    assert abs(kept.mean() - 0.8) < 4 * np.sqrt(0.16 / 2000)


@pytest.mark.parametrize("name", ["resnet14"])
def test_stochastic_depth_acts_only_in_training_and_follows_its_key(images, name):
    model = models.create(name, num_classes=10, stochastic_depth=0.9)
    images = images[:, :8, :8]
    variables = model.init(jax.random.key(0), images, train=False)

    @jax.jit
    def train(key):
        rngs = {"dropout": key}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    first, other = train(jax.random.key(1)), train(jax.random.key(2))
    np.testing.assert_array_equal(first, train(jax.random.key(1)))
    assert not np.array_equal(first, other)
    model.apply(variables, images, train=False)  # needs no key


@pytest.mark.parametrize(
    "name, rate",
    [
        ("resnet20", 0.02),
        pytest.param("resnet110", 0.02, marks=pytest.mark.slow),
        pytest.param("resnet18", 0.01, marks=pytest.mark.slow),
    ],
)
def test_networks_without_normalisation_train(name, rate):
    random = np.random.RandomState(0)
    images = jnp.array(random.normal(size=(16, 8, 8, 3)), jnp.float32)
    labels = jnp.array(random.randint(0, 10, 16))
    model = models.create(name, num_classes=10, norm="none")
    params = jax.jit(partial(model.init, train=False))(jax.random.key(0), images)["params"]
    optimizer = optax.sgd(rate, momentum=0.9)
    state = optimizer.init(params)

    def loss_fn(params):
        logits = model.apply({"params": params}, images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, state):
        loss, gradients = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    for _ in range(150):
        params, state, loss = step(params, state)
    assert loss < 0.5


@pytest.mark.parametrize(
    "name, fields, smallest",
    [
        ("resnet8", {}, 4),
        ("resnet18", {}, 8),
        ("resnet18", {"stem": "imagenet"}, 32),
        ("densenet_bc_100_12", {"depth": 16}, 4),
        ("densenet121", {}, 8),
        ("densenet121", {"stem": "imagenet"}, 32),
    ],
)
def test_square_images_down_to_the_stems_limit(name, fields, smallest):
    model = models.create(name, num_classes=7, **fields)

    def shape_for(height, width):
        images = jnp.zeros((2, height, width, 3))
        return jax.eval_shape(
            lambda: model.init_with_output(jax.random.key(0), images, train=False)[0]
        ).shape

    assert shape_for(smallest, smallest) == shape_for(smallest + 3, smallest + 3) == (2, 7)
    for height, width in (smallest - 1, smallest - 1), (smallest, smallest + 1):
        with pytest.raises(InputError, match=f"{height}x{width} pixels: .* {smallest}x{smallest}"):
            shape_for(height, width)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_unknown_stems_are_refused(name):
    with pytest.raises(InputError, match="stem = 'imagenette': must be .*cifar, imagenet"):
        models.create(name, num_classes=10, stem="imagenette")


@pytest.mark.parametrize("depth", [2, 18, 21, 57, -4])
def test_impossible_depths_are_refused(depth):
    with pytest.raises(InputError, match=f"depth = {depth}: must be 6n"):
        ResNetCifar(depth=depth, num_classes=10)


def test_unknown_names_and_shortcuts_are_refused():
    with pytest.raises(InputError, match="unknown model.name 'resnet55'. Did you mean 'resnet56'"):
        models.create("resnet55", num_classes=10)
    with pytest.raises(InputError, match="shortcut = 'C'"):
        models.create("resnet20", num_classes=10, shortcut="C")


@pytest.mark.parametrize(
    "name, fields, message",
    [
        ("densenet_bc_100_12", {"depth": 41}, "depth = 41: must be 6n \\+ 4"),
        ("densenet121", {"depth": 40}, "depth = 40 and block_layers"),
        ("resnet18", {"norm": "batc"}, "norm = 'batc': must be .*batch, group, layer, none"),
        ("resnet18", {"ternary": "bwn"}, "ternary = 'bwn'"),
        ("resnet18", {"ternary_scale": "row"}, "ternary_scale = 'row'"),
        ("resnet18", {"stochastic_depth": 1.0}, "stochastic_depth = 1.0: must be from 0 to"),
        ("resnet20", {"preactivation": True, "shortcut": "B"}, "preactivation"),
        ("resnet20", {"preactivation": True, "norm": "none"}, "preactivation"),
    ],
)
def test_conflicting_fields_are_refused(name, fields, message):
    with pytest.raises(InputError, match=message):
        models.create(name, num_classes=10, **fields)


def test_names_are_unique():
    with pytest.raises(ValueError, match="two models are named 'resnet20'"):
        models.register({"resnet20": {}}, source="", head="head")(ResNetCifar)


def test_a_plain_network_is_a_chain_of_convolutions():
    """He et al. 2015, section 4.2, "plain nets", written out for 8 layers without normalisation."""
    model = models.create("resnet8", num_classes=10, shortcut="none", norm="none")
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables = model.init(jax.random.key(1), images, train=False)
    params = variables["params"]

    def layer(x, name, stride=1):
        kernel, bias = params[name[0]], None
        for part in name[1:]:
            kernel = kernel[part]
        kernel, bias = kernel["kernel"], kernel.get("bias", 0)
        padding = ((1, 1), (1, 1))
        dimensions = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=dimensions, precision="highest"
        )
        return jax.nn.relu(y + bias)

    x = layer(images, ["conv"])
    for stage in 1, 2, 3:
        block = f"stage{stage}_block1"
        x = layer(x, [block, "conv1"], 1 if stage == 1 else 2)
        x = layer(x, [block, "conv2"])
    expected = x.mean(axis=(1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]
    found = model.apply(variables, images, train=False)
    assert np.allclose(found, expected, atol=1e-4)
    with pytest.raises(InputError, match="shortcut = 'none': needs zero_init_residual = False"):
        models.create("resnet8", num_classes=10, shortcut="none", zero_init_residual=True)
    with pytest.raises(InputError, match="preactivation = True: needs shortcut = 'A'"):
        models.create("resnet8", num_classes=10, shortcut="none", preactivation=True)
