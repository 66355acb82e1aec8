from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar import models
from jaxcifar.models import ternary

# Mean size 0.5, so the threshold is 0.35; the mean size of the three above it is 0.9.
KERNEL = jnp.array([1.2, -0.9, 0.6, -0.1, 0.1, 0.1]).reshape(1, 1, 3, 2)


def test_twn_equals_a_case_computed_by_hand():
    np.testing.assert_array_equal(ternary.twn_levels(KERNEL, False).ravel(), [1, -1, 1, 0, 0, 0])
    np.testing.assert_allclose(
        ternary.twn(KERNEL, False).ravel(), [0.9, -0.9, 0.9, 0, 0, 0], rtol=1e-6
    )
    # Filter 0 has 1.2, 0.6, 0.1: threshold 0.4433, scale 0.9. Filter 1 has -0.9, -0.5, 0.1:
    # threshold 0.35, scale 0.7.
    by_filter = KERNEL.at[0, 0, 1, 1].set(-0.5)
    np.testing.assert_allclose(
        ternary.twn(by_filter, True)[0, 0], [[0.9, -0.7], [0.9, -0.7], [0, 0]], rtol=1e-6
    )


def test_a_kernel_of_zeros_stays_zero():
    assert not ternary.twn(jnp.zeros((3, 3, 2, 2)), True).any()
    assert not ternary.ttq(jnp.zeros((3, 3, 2, 2)), jnp.ones(()), jnp.ones(())).any()


@pytest.mark.parametrize("per_filter", [False, True])
def test_twn_passes_the_gradient_straight_through(per_filter):
    weights = jax.random.normal(jax.random.key(0), KERNEL.shape)
    gradient = jax.grad(lambda kernel: jnp.sum(weights * ternary.twn(kernel, per_filter)))(KERNEL)
    np.testing.assert_array_equal(gradient, weights)


def test_ttq_equals_a_case_computed_by_hand():
    kernel = jnp.array([2.0, 0.09, -0.5, 0.11]).reshape(1, 1, 2, 2)  # threshold 0.1
    positive, negative = jnp.array(3.0), jnp.array(5.0)
    np.testing.assert_array_equal(ternary.ttq(kernel, positive, negative).ravel(), [3, 0, -5, 3])
    weights = jnp.array([1.0, 10.0, 100.0, 1000.0]).reshape(kernel.shape)
    gradients = jax.grad(lambda *args: jnp.sum(weights * ternary.ttq(*args)), (0, 1, 2))(
        kernel, positive, negative
    )
    np.testing.assert_array_equal(gradients[0].ravel(), [3, 10, 500, 3000])
    assert (gradients[1], gradients[2]) == (1001, -100)


def test_ttq_scales_have_the_gradient_of_finite_differences():
    layer = ternary.TernaryConv(5, 3, 2, "ttq", False, False, jnp.float32)
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 4))
    params = layer.init(jax.random.key(1), x)["params"]
    params |= {"positive_scale": jnp.array(0.7), "negative_scale": jnp.array(1.3)}

    def loss(scales):
        return jnp.sum(jnp.sin(layer.apply({"params": {**params, **scales}}, x)))

    scales = {name: params[name] for name in ("positive_scale", "negative_scale")}
    with jax.enable_x64(True):
        layer = layer.clone(dtype=jnp.float64)
        scales, params, x = jax.tree.map(lambda a: a.astype(jnp.float64), (scales, params, x))
        exact = jax.grad(loss)(scales)
        for name in scales:
            step = 1e-5
            up, down = ({**scales, name: scales[name] + sign * step} for sign in (1, -1))
            np.testing.assert_allclose(exact[name], (loss(up) - loss(down)) / (2 * step), rtol=1e-4)


def convolve(x, kernel, strides):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        [(kernel.shape[0] // 2,) * 2] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize("scheme", ["twn", "ttq"])
@pytest.mark.parametrize("strides, size", [(1, 3), (2, 3), (2, 1)])
def test_a_layer_convolves_with_three_levels_per_filter(scheme, strides, size):
    layer = ternary.TernaryConv(6, size, strides, scheme, scheme == "twn", False, jnp.float32)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 64))
    variables = layer.init(jax.random.key(1), x)
    assert variables.keys() == {"params"}
    params = variables["params"]
    y, found = layer.apply(variables, x, mutable=[ternary.LEVELS])

    kernel = np.array(params["kernel"])
    if scheme == "twn":
        size_of = np.abs(kernel)
        threshold = 0.7 * size_of.mean((0, 1, 2))
        scale = [size_of[..., f][size_of[..., f] > threshold[f]].mean() for f in range(6)]
    else:
        threshold, scale = 0.05 * np.abs(kernel).max(), 1.0
    weights = np.where(kernel > threshold, scale, np.where(kernel < -threshold, -1.0, 0) * scale)
    for index in range(6):
        assert len(np.unique(weights[..., index])) == 3
    np.testing.assert_allclose(y, convolve(x, weights, strides), rtol=1e-4, atol=1e-4)
    counts = {name: int(value[0]) for name, value in found[ternary.LEVELS].items()}
    assert counts == {
        "negative": np.sum(weights < 0),
        "zero": np.sum(weights == 0),
        "positive": np.sum(weights > 0),
    }


@pytest.mark.parametrize("scheme, scale", [("twn", "layer"), ("twn", "filter"), ("ttq", "layer")])
def test_all_layers_except_the_first_and_the_last_are_ternary(scheme, scale):
    fields = {"num_classes": 10, "ternary": scheme, "ternary_scale": scale}
    model = models.create("resnet8", shortcut="B", **fields)
    key, images = jax.random.key(0), jnp.zeros((1, 8, 8, 3))
    variables = jax.eval_shape(partial(model.init, train=False), key, images)
    _, found = jax.eval_shape(
        partial(model.apply, train=False, mutable=[ternary.LEVELS]), variables, images
    )
    counted = {
        "/".join(e.key for e in path[:-2]): None for path, _ in leaves(found[ternary.LEVELS])
    }
    kernels = {
        "/".join(e.key for e in path[:-1])
        for path, x in leaves(variables["params"])
        if path[-1].key == "kernel"
    }
    assert counted.keys() == kernels - {"conv", "head"} and len(counted) == 8
    # The float network's weights fit.
    plain = models.create("resnet8", shortcut="B", num_classes=10)
    shapes = {jax.tree_util.keystr(p): x.shape for p, x in leaves(variables["params"])}
    for path, x in leaves(jax.eval_shape(partial(plain.init, train=False), key, images)["params"]):
        assert shapes[jax.tree_util.keystr(path)] == x.shape


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


@pytest.mark.parametrize("scheme, scale", [("twn", "layer"), ("twn", "filter"), ("ttq", "layer")])
def test_a_ternary_network_overfits_a_batch(scheme, scale):
    random = np.random.RandomState(0)
    images = jnp.array(random.normal(size=(16, 8, 8, 3)), jnp.float32)
    labels = jnp.array(random.randint(0, 10, 16))
    model = models.create("resnet8", num_classes=10, ternary=scheme, ternary_scale=scale)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images)
    params, batch_stats = variables["params"], variables["batch_stats"]
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = optimizer.init(params)

    def loss_fn(params):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, state):
        loss, gradients = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(100):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[0] > 2 and losses[-1] < 0.05
