"""The network that picks examples: against closed forms, and against training it alone."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxcifar.config import default, durations
from jaxcifar.config.validation import validate
from jaxcifar.errors import InputError
from jaxcifar.optim.optimizers import create_optimizer
from jaxcifar.program import create_state
from jaxcifar.selection import Selector
from jaxcifar.steps import TrainStep
from jaxcifar.train import train
from tests.helpers import assert_same_bits, make_config, restore

pytestmark = pytest.mark.usefixtures("tiny")

AXIS = "b"


class Small(nn.Module):
    """Convolution, normalisation, linear layer: all kinds of state that are trained."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(4, (3, 3))(images)
        x = nn.BatchNorm(use_running_average=not train, axis_name=AXIS)(x)
        return nn.Dense(3)(nn.relu(x).mean((1, 2)))


def sgd():
    config = default()
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.01
    config.train.num_steps = 10
    return create_optimizer(config.optimizer, durations(config, 100))


def examples(size=8, seed=0):
    random = np.random.RandomState(seed)
    return {
        "image": jnp.array(random.normal(size=(size, 6, 6, 3)), jnp.float32),
        "label": jnp.array(random.randint(0, 3, size), jnp.int32),
        "mask": jnp.ones(size, bool),
    }


def on_devices(function, state, batch, devices):
    """Calls function(state, share) on each device; returns its results with the device axis."""
    shares = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    mapped = jax.pmap(function, axis_name=AXIS, in_axes=(None, 0), devices=jax.devices()[:devices])
    return mapped(state, shares)


def select(selector, state, batch, devices=1, step=0):
    return on_devices(
        lambda state, share: selector(
            state,
            share,
            learning_rate=jnp.float32(0.1),
            step=jnp.int32(step),
            key=jax.random.key(0),
        ),
        state,
        batch,
        devices,
    )


@pytest.fixture(scope="module")
def selector():
    return Selector(Small(), sgd(), keep=0.5, axis_name=AXIS)


@pytest.fixture(scope="module")
def state(selector):
    return selector.create_state(0, jnp.zeros((1, 6, 6, 3)))


def losses_of(state, batch):
    """Cross-entropies by NumPy of the logits in training."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}

    def logits(variables, share):
        return Small().apply(variables, share["image"], train=True, mutable=["batch_stats"])[0]

    found = np.asarray(on_devices(logits, variables, batch, 1)[0], np.float64)
    chosen = found[np.arange(len(found)), np.asarray(batch["label"])]
    return np.log(np.exp(found).sum(1)) - chosen


def test_the_examples_with_the_greatest_losses_are_kept_in_their_order(selector, state):
    batch = examples()
    kept, _ = select(selector, state, batch)
    expected = np.sort(np.argsort(losses_of(state, batch))[4:])
    for name, array in batch.items():
        np.testing.assert_array_equal(kept[name][0], array[expected])


def test_padding_is_kept_last(selector, state):
    batch = examples()
    hardest = int(np.argmax(losses_of(state, batch)))
    batch["mask"] = batch["mask"].at[hardest].set(False)
    kept, _ = select(selector, state, batch)
    assert bool(kept["mask"].all())
    batch["mask"] = jnp.arange(8) == hardest
    kept, _ = select(selector, state, batch)
    assert int(kept["mask"].sum()) == 1


def test_each_device_keeps_a_share_of_its_own(selector, state):
    kept, after = select(selector, state, examples(), devices=2)
    assert kept["image"].shape == (2, 4 // 2, 6, 6, 3)
    assert_same_bits(*(jax.tree.map(lambda x, i=i: x[i], after) for i in range(2)))


@pytest.mark.parametrize("devices", [1, 2])
def test_the_small_network_trains_as_it_would_alone(selector, state, devices):
    step = TrainStep(
        model=Small(),
        optimizer=sgd(),
        learning_rate=lambda step: 0.1,
        augment=lambda key, device, images, labels, mask: (images, None),
        seed=0,
        axis_name=AXIS,
    )
    alone = create_state(Small(), sgd(), (6, 6, 3), seed=0).replace(
        params=state.params, batch_stats=state.batch_stats
    )
    for index in range(3):
        batch = examples(seed=index)
        batch["mask"] = batch["mask"].at[2].set(False)
        _, state = select(selector, state, batch, devices, index)
        alone = on_devices(lambda state, share: step(state, share)[0], alone, batch, devices)
        state, alone = (jax.tree.map(lambda x: x[0], tree) for tree in (state, alone))
    for name in ("params", "batch_stats", "opt_state"):
        one, other = (jax.tree.leaves(getattr(tree, name)) for tree in (state, alone))
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_skipped_update_leaves_the_small_network_as_it_was(selector, state):
    step = TrainStep(
        model=Small(),
        optimizer=sgd(),
        learning_rate=lambda step: 0.1,
        augment=lambda key, device, images, labels, mask: (images, None),
        seed=0,
        axis_name=AXIS,
        skip_nonfinite=True,
        selector=selector,
    )
    whole = create_state(Small(), sgd(), (6, 6, 3), seed=0, selector=selector)
    for value, same in ((jnp.nan, True), (1.0, False)):
        batch = examples()
        batch["image"] = batch["image"].at[0, 0, 0, 0].set(value)
        after = on_devices(lambda state, share: step(state, share)[0], whole, batch, 1)
        after = jax.tree.map(lambda x: x[0], after)
        assert int(after.step) == 1
        for one, other in ((after.selector, whole.selector), (after.params, whole.params)):
            leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
            assert all((a == b).all() for a, b in leaves) == same


def test_a_run_trains_on_the_share_and_resumes_to_the_bit(tmp_path):
    config = make_config(
        dataset__name="digits",
        model__name="resnet8",
        optimizer__learning_rate=0.05,
        train__num_steps=6,
        train__batch_size=32,
        train__selector="resnet8",
        train__selector_keep=0.25,
        checkpoint__every_steps=3,
        checkpoint__keep_every_steps=3,
    )
    train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "6")
    train(config, tmp_path / "resumed")
    whole, resumed = (restore(config, tmp_path / run, 6).state for run in ("whole", "resumed"))
    assert_same_bits(whole, resumed)
    assert jax.tree.structure(whole.selector.params) == jax.tree.structure(whole.params)
    first = restore(config, tmp_path / "whole", 3).state
    for part in (first.params, first.selector.params):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(part))
    assert any(
        (a != b).any()
        for a, b in zip(
            jax.tree.leaves(first.selector.params),
            jax.tree.leaves(whole.selector.params),
            strict=True,
        )
    )


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"train__selector": "resnet21x"}, "unknown train.selector 'resnet21x'"),
        ({"train__selector_keep": 0.25}, "train.selector_keep = 0.25 has no effect"),
        (
            {"train__selector": "resnet8", "train__selector_keep": 0.001},
            "train.selector_keep = 0.001: keeps 0 of 128",
        ),
        (
            {"train__selector": "resnet8", "train__accumulation_steps": 128},
            "a multiple of train.accumulation_steps = 128",
        ),
    ],
)
def test_a_selection_that_is_not_possible_is_refused(fields, message):
    with pytest.raises(InputError) as error:
        validate(make_config(dataset__name="digits", **fields))
    assert message in str(error.value)
