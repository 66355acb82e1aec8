"""Each use of the seed has its own draws: switching one on or off changes no other's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxcifar.augment.pipeline import create_augment
from jaxcifar.config import default, durations
from jaxcifar.data import datasets
from jaxcifar.data.device_pipeline import Order, Resident, train_batch
from jaxcifar.optim.optimizers import with_learning_rate
from jaxcifar.program import create_program, create_state
from jaxcifar.steps import TrainStep


def changed(**fields):
    config = default()
    config.dataset.name = "digits"
    config.train.num_steps = 10
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


MIXING = {"augment__mixup_alpha": 1.0, "augment__cutmix_alpha": 1.0}
SMALL_DENSENET = {"model__name": "densenet121", "model__block_layers": (1, 1)}


@pytest.mark.parametrize(
    "network, switched_on",
    [
        ({"model__name": "resnet8"}, {"model__stochastic_depth": 0.5, **MIXING}),
        ({"model__name": "resnet8"}, {"augment__policy": "randaugment", "train__ema_decay": 0.9}),
        (SMALL_DENSENET, {"model__dropout_rate": 0.5}),
    ],
    ids=["stochastic depth, mixing", "policy", "dropout"],
)
def test_the_initial_parameters_are_the_same(network, switched_on):
    def params(config):
        info = datasets.info(config.dataset)
        return create_program(config, info, durations(config, 1438)).create_state().params

    plain, other = params(changed(**network)), params(changed(**network, **switched_on))
    jax.tree.map(np.testing.assert_array_equal, plain, other)


# The pixel at (row, column) is 30 * row + 3 * column, so that its value tells where it was.
INDEX = np.arange(50, dtype=np.int32)
ROW, COLUMN = np.mgrid[1:7, 1:7]
IMAGES = (30 * ROW + 3 * COLUMN + 0 * INDEX[:, None, None])[..., None].astype(np.uint8)


def fed(**fields):
    """Returns the examples of 20 steps, and the row and columns of their middle pixels."""
    config = changed(**fields)
    split, order = Resident(IMAGES, INDEX), Order(0, 50, 16, 1)
    make = jax.jit(partial(train_batch, share=16, config=config.augment, seed=0))
    found = []
    for step in range(20):
        permutation, _, position = order.at(step)
        found.append(make(split, permutation, position, 0))
    images, labels = (np.concatenate([batch[n] for batch in found]) for n in ("image", "label"))
    middle = images[:, 2:4, 2:4, 0].astype(int)  # padding never reaches it
    row = middle // 30
    column = middle % 30 // 3
    return labels, row[:, 0, 0], column


def test_order_crops_and_mirrors_are_the_same():
    labels, row, column = fed(augment__crop_padding=2)
    assert len(set(row)) == 5 and len(np.unique(column)) > 5
    others = ({**MIXING, "augment__policy": "trivialaugment", "augment__cutout_size": 2}, {})
    for other in others:
        for one, same in zip(
            (labels, row, column), fed(augment__crop_padding=2, **other), strict=True
        ):
            np.testing.assert_array_equal(one, same)
    # Mirroring does not change the crops, nor cropping the mirroring.
    same_labels, same_row, plain = fed(augment__crop_padding=2, augment__horizontal_flip=False)
    np.testing.assert_array_equal(labels, same_labels)
    np.testing.assert_array_equal(row, same_row)
    mirrored = column[:, 0, 0] > column[:, 0, 1]
    assert (plain[:, 0, 0] < plain[:, 0, 1]).all() and 0.4 < mirrored.mean() < 0.6
    _, _, uncropped = fed(augment__crop_padding=0)
    np.testing.assert_array_equal(uncropped[:, 0, 0] > uncropped[:, 0, 1], mirrored)


def augmented(**fields):
    """Returns which pixels are at the mean, and the targets, of a batch of uniform grey."""
    augment = create_augment(
        changed(**fields).augment, mean=(0.4,) * 3, std=(0.2,) * 3, num_classes=10
    )
    images, labels = np.full((6, 16, 16, 3), 200, np.uint8), np.arange(6, dtype=np.int32)
    found, targets = jax.jit(augment)(jax.random.key(4), 0, images, labels)
    return np.array(found == 0).all(-1), targets


def test_policy_cutout_erasing_and_mixing_draw_independently():
    policy = {"augment__policy": "randaugment", "augment__magnitude": 3}
    cutout, erasing = {"augment__cutout_size": 6}, {"augment__erasing_probability": 1.0}
    holes = augmented(**cutout)[0]
    assert 0 < holes.mean() < 0.3
    erased = augmented(**erasing)[0]
    np.testing.assert_array_equal(augmented(**erasing, **cutout)[0], erased | holes)
    np.testing.assert_array_equal(augmented(**erasing, **cutout, **policy)[0], erased | holes)
    mixed = augmented(augment__mixup_alpha=1.0)[1]
    assert (np.array(mixed).max(-1) < 1).any()
    other = augmented(augment__mixup_alpha=1.0, **policy, **cutout, **erasing)[1]
    np.testing.assert_array_equal(mixed, other)


class Dropped(nn.Module):
    """Stores the mask of its dropout among its statistics."""

    @nn.compact
    def __call__(self, images, train):
        mask = self.variable("batch_stats", "mask", jnp.zeros, (64,))
        drawn = nn.Dropout(0.5, deterministic=not train)(jnp.ones(64))
        if train:
            mask.value = drawn
        return nn.Dense(10)(images.reshape(len(images), -1))


def test_dropout_draws_independently_of_augmentation():
    masks = []
    for fields in ({}, {"augment__policy": "randaugment", "augment__cutout_size": 3, **MIXING}):
        section, model = changed(**fields).augment, Dropped()
        step = jax.pmap(
            TrainStep(
                model=model,
                optimizer=with_learning_rate(optax.identity()),
                learning_rate=lambda step: 0.1,
                augment=create_augment(section, mean=(0.5,) * 3, std=(0.2,) * 3, num_classes=10),
                seed=0,
                axis_name="b",
            ),
            axis_name="b",
            devices=jax.devices()[:1],
        )
        state = create_state(model, optax.identity(), (8, 8, 3), seed=0)
        images = np.random.RandomState(0).randint(0, 256, (1, 4, 8, 8, 3), np.uint8)
        batch = {"image": images, "label": np.arange(4)[None], "mask": np.ones((1, 4), bool)}
        after, _, _ = step(jax.tree.map(lambda x: x[None], state), batch)
        masks.append(np.array(after.batch_stats["mask"][0]))
    assert 10 < (masks[0] == 0).sum() < 54
    np.testing.assert_array_equal(*masks)
