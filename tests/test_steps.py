from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxcifar import devices
from jaxcifar.augment import basic
from jaxcifar.config import default, durations
from jaxcifar.config.validation import validate
from jaxcifar.data import datasets
from jaxcifar.data.host_pipeline import train_batches
from jaxcifar.optim.optimizers import with_learning_rate
from jaxcifar.program import create_program, create_state
from jaxcifar.steps import TrainStep

pytestmark = pytest.mark.usefixtures("tiny")


class Linear(nn.Module):
    """Logits that are linear in the pixels: its gradient is known in closed form."""

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(3, kernel_init=nn.initializers.normal(0.1))(images.reshape(len(images), -1))


def batch(size=8, shape=(4, 4, 3), classes=3, seed=0):
    random = np.random.RandomState(seed)
    return {
        "image": random.randint(0, 256, (size, *shape), np.uint8),
        "label": random.randint(0, classes, size, np.int32),
        "mask": np.ones(size, bool),
    }


def test_normalized_images_have_mean_zero_and_deviation_one():
    images = np.random.RandomState(0).randint(0, 256, (64, 8, 8, 3), np.uint8)
    pixels = images.reshape(-1, 3) / 255
    result = basic.normalize(jnp.array(images), tuple(pixels.mean(0)), tuple(pixels.std(0)))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(result.std((0, 1, 2)), 1, rtol=1e-5)
    by_hand = (images[5, 2, 3] / 255 - pixels.mean(0)) / pixels.std(0)
    np.testing.assert_allclose(result[5, 2, 3], by_hand, rtol=1e-4, atol=1e-5)


def linear_step(data, num_devices=2, optimizer=None, state_fields=(), **fields):
    """The state before and after one step of a linear model, its sums and its layers."""
    model, optimizer = Linear(), with_learning_rate(optimizer or optax.identity())
    state = create_state(model, optimizer, (4, 4, 3), seed=0, **dict(state_fields))

    def normalize(key, device, images, labels, mask):
        return basic.normalize(images, (0.5,) * 3, (0.25,) * 3), None

    step = jax.pmap(
        TrainStep(
            model=model,
            optimizer=optimizer,
            learning_rate=lambda step: 0.5,
            augment=normalize,
            seed=0,
            axis_name="b",
            **fields,
        ),
        axis_name="b",
        devices=jax.devices()[:num_devices],
    )
    after, sums, layers = step(
        jax.tree.map(lambda x: jnp.stack([x] * num_devices), state),
        jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), data),
    )
    return state, after, sums, layers


def test_a_step_is_gradient_descent_on_the_mean_cross_entropy():
    data = batch()
    assert jax.device_count() == 2
    state, after, sums, _ = linear_step(data)

    x = ((data["image"] / 255 - 0.5) / 0.25).reshape(8, -1)
    kernel = np.array(state.params["Dense_0"]["kernel"], np.float64)
    logits = x @ kernel
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = np.eye(3)[data["label"]]
    expected = kernel - 0.5 * x.T @ (probabilities - targets) / 8
    for device in range(2):
        np.testing.assert_allclose(
            after.params["Dense_0"]["kernel"][device], expected, rtol=1e-4, atol=1e-6
        )
        assert float(sums["count"][device]) == 8
        assert float(sums["loss"][device]) == pytest.approx(
            -np.log(probabilities[range(8), data["label"]]).sum(), rel=1e-5
        )
        assert float(sums["correct"][device]) == (logits.argmax(1) == data["label"]).sum()
        assert int(after.step[device]) == 1


def kernel_of(state):
    return np.array(state.params["Dense_0"]["kernel"])


def test_examples_that_are_masked_have_no_gradient_wherever_they_are():
    data = batch()
    whole = kernel_of(linear_step({k: v[:6] for k, v in data.items()}, num_devices=1)[1])[0]
    data["mask"][[1, 5]] = False  # one of each device
    data["image"][[1, 5]] = 255
    kept = {k: v[data["mask"]] for k, v in data.items()}
    expected = kernel_of(linear_step(kept, num_devices=1)[1])[0]
    assert not np.allclose(expected, whole)
    np.testing.assert_allclose(kernel_of(linear_step(data)[1])[0], expected, rtol=1e-5, atol=1e-7)
    data["mask"][:4] = False  # all of the first device
    kept = {k: v[data["mask"]] for k, v in data.items()}
    expected = kernel_of(linear_step(kept, num_devices=1)[1])[0]
    np.testing.assert_allclose(kernel_of(linear_step(data)[1])[0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_are_those_of_the_large_batch(parts):
    data = batch()
    data["mask"][3] = False
    _, once, sums, _ = linear_step(data)
    _, parted, same_sums, _ = linear_step(data, accumulation_steps=parts)
    np.testing.assert_allclose(kernel_of(once), kernel_of(parted), rtol=1e-5, atol=1e-7)
    assert int(parted.step[0]) == 1
    for name, value in sums.items():
        np.testing.assert_allclose(value, same_sums[name], rtol=1e-6)


def test_each_part_of_a_batch_updates_the_statistics():
    config, built = program(train__accumulation_steps=2)
    split = datasets.load(config.dataset)["train"]
    data = next(
        train_batches(split, config.augment, batch_size=32, seed=0, first_step=0, num_steps=1)
    )
    step = jax.pmap(built.train_step, axis_name=devices.AXIS, devices=jax.devices()[:1])
    state = jax.tree.map(lambda x: x[None], built.create_state())
    after, _, _ = step(state, jax.tree.map(lambda x: x[None], data))
    variables = built.create_state().variables()
    for part in np.split(data["image"], 2):
        images, _ = built.train_step.augment(jax.random.key(0), 0, part, np.zeros(16, np.int32))
        _, updates = built.train_step.model.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        variables |= updates
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
        jax.tree.map(lambda x: x[0], after.batch_stats),
        variables["batch_stats"],
    )


def test_the_moving_average_is_the_closed_form():
    data, decay = batch(), 0.5
    state, after, _, _ = linear_step(data, ema_decay=decay, state_fields={"ema": True})
    # At step 0 the decay is at most 1 / 10.
    expected = 0.1 * kernel_of(state) + 0.9 * kernel_of(after)[0]
    found = after.ema["params"]["Dense_0"]["kernel"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_loss_scale_changes_no_update_and_skips_what_is_not_finite():
    data = batch()
    plain = kernel_of(linear_step(data)[1])[0]
    fields = {"optimizer": optax.trace(0.9), "state_fields": {"loss_scale": True}}
    state, after, _, _ = linear_step(data, **fields)
    np.testing.assert_allclose(kernel_of(after)[0], plain, rtol=1e-6)
    assert (float(after.loss_scale.scale[0]), int(after.loss_scale.finite_steps[0])) == (65536, 1)

    model = Linear()
    scaled = create_state(model, optax.trace(0.9), (4, 4, 3), seed=0, loss_scale=True)
    step = jax.pmap(
        TrainStep(
            model=model,
            optimizer=with_learning_rate(optax.trace(0.9)),
            learning_rate=lambda step: 0.5,
            augment=lambda key, device, images, labels, mask: (images * jnp.inf, None),
            seed=0,
            axis_name="b",
        ),
        axis_name="b",
        devices=jax.devices()[:1],
    )
    after, _, _ = step(
        jax.tree.map(lambda x: x[None], scaled), jax.tree.map(lambda x: x[None], batch())
    )
    np.testing.assert_array_equal(kernel_of(after)[0], kernel_of(scaled))
    assert not jax.tree.leaves(after.opt_state)[0].any()
    assert (int(after.step[0]), float(after.loss_scale.scale[0])) == (1, 32768)


def test_watched_layers_are_those_of_the_update():
    data = batch()
    state, after, _, layers = linear_step(data, with_statistics=True, with_gradients=True)
    found = jax.tree.map(lambda x: float(x[0]), layers["statistics"]["Dense_0"])
    gradient = np.array(layers["gradients"]["Dense_0"]["kernel"][0])
    bias = np.array(layers["gradients"]["Dense_0"]["bias"][0])
    np.testing.assert_allclose(kernel_of(after)[0], kernel_of(state) - 0.5 * gradient, rtol=1e-5)
    norm = np.sqrt((gradient**2).sum() + (bias**2).sum())
    assert found["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert found["update_ratio"] == pytest.approx(
        0.5 * norm / np.linalg.norm(kernel_of(state)), rel=1e-5
    )
    assert linear_step(data)[3] == {}


def program(**fields):
    config = default()
    config.dataset.name = "digits"
    config.model.name = "tiny"
    config.train.num_steps = 20
    config.train.batch_size = 32
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    validate(config)
    info = datasets.info(config.dataset)
    return config, create_program(config, info, durations(config, info.train_size))


def run(built, num_devices, steps=4):
    """The state and the losses after some steps on the first `num_devices` devices."""
    config, built = built
    split = datasets.load(config.dataset)["train"]
    step = jax.pmap(built.train_step, axis_name=devices.AXIS, devices=jax.devices()[:num_devices])
    state = jax.tree.map(lambda x: jnp.stack([x] * num_devices), built.create_state())
    losses = []
    for data in train_batches(
        split, config.augment, batch_size=32, seed=0, first_step=0, num_steps=steps
    ):
        shares = jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), data)
        state, sums, _ = step(state, shares)
        losses.append(float(sums["loss"][0]) / 32)
    return jax.tree.map(lambda x: np.array(x[0]), state), losses


@pytest.fixture(scope="module")
def one_device():
    return run(program(), num_devices=1)


DENSENET = {
    "model__name": "densenet121",
    "model__block_layers": (2,),
    "model__growth_rate": 4,
    "optimizer__learning_rate": 0.01,
}


@pytest.mark.parametrize("network", [{}, DENSENET], ids=["tiny", "densenet"])
def test_sync_batch_norm_makes_two_devices_equal_to_one(network):
    one_state, one_losses = run(program(**network), num_devices=1)
    state, losses = run(program(**network, model__sync_batch_norm=True), num_devices=2)
    np.testing.assert_allclose(losses, one_losses, rtol=1e-3)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-2, atol=2e-3), state.params, one_state.params
    )


def test_without_sync_batch_norm_statistics_are_per_device_and_then_averaged(one_device):
    _, losses = run(program(), num_devices=2)
    assert losses[0] != pytest.approx(one_device[1][0], rel=1e-5)
    np.testing.assert_allclose(losses[0], one_device[1][0], rtol=0.2)


def test_the_same_seed_gives_the_same_bits(one_device):
    state, losses = run(program(), num_devices=1)
    assert losses == one_device[1]
    jax.tree.map(np.testing.assert_array_equal, state, one_device[0])


def test_another_seed_gives_another_network():
    one = program()[1].create_state().params
    other = program(train__seed=1)[1].create_state().params
    assert not np.array_equal(one["conv1"]["kernel"], other["conv1"]["kernel"])


def test_bfloat16_follows_float32(one_device):
    state, losses = run(program(train__precision="bfloat16"), num_devices=1)
    np.testing.assert_allclose(losses, one_device[1], rtol=0.1)
    assert losses != one_device[1]
    floats = {x.dtype for x in jax.tree.leaves(state) if x.dtype != np.int32}
    assert floats == {np.dtype("float32")}


def test_float16_follows_float32(one_device):
    state, losses = run(program(train__precision="float16"), num_devices=1)
    np.testing.assert_allclose(losses, one_device[1], rtol=0.1)
    assert losses != one_device[1]
    assert int(state.loss_scale.finite_steps) == 4


def test_the_old_state_is_donated():
    config, built = program()
    split = datasets.load(config.dataset)["train"]
    batches = devices.prefetch(
        train_batches(split, config.augment, batch_size=32, seed=0, first_step=0, num_steps=1)
    )
    before = devices.replicate(built.create_state())
    after, _, _ = devices.map_train_step(built.train_step)(before, next(batches))
    assert all(x.is_deleted() for x in jax.tree.leaves(before))
    assert int(devices.fetch(after).step) == 1


def test_the_model_gets_the_configs_fields():
    state = jax.eval_shape(program(model__name="resnet8", model__shortcut="B")[1].create_state)
    assert "conv_shortcut" in state.params["stage2_block1"]
