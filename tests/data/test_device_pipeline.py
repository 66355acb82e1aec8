"""The device pipeline: permutations, crops, mirrors and evaluation batches."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.augment import basic
from jaxcifar.config import default
from jaxcifar.data.device_pipeline import Order, Resident, eval_batch, train_batch

SIZE, BATCH = 50, 8  # 6.25 steps per epoch


def numbered(size=SIZE, shape=(1, 1, 1)):
    """A split whose images have their own index as pixels."""
    labels = np.arange(size, dtype=np.int32)
    return Resident(
        np.broadcast_to(labels[:, None, None, None], (size, *shape)).astype(np.uint8), labels
    )


def section(**fields):
    config = default().augment
    config.update({"crop_padding": 0, "horizontal_flip": False, **fields})
    return config


@cache
def maker(share, seed, **fields):
    """Returns `train_batch`, compiled once per combination of arguments."""
    return jax.jit(partial(train_batch, share=share, config=section(**fields), seed=seed))


def batches(steps, split=None, first_step=0, devices=1, seed=0, max_steps=1, **fields):
    """Returns the batches of some steps, the devices' shares joined; `fields` are config fields."""
    split = split or numbered()
    order = Order(seed, len(split.labels), BATCH, max_steps)
    make = maker(BATCH // devices, seed, **fields)
    found = []
    for step in range(first_step, steps):
        permutations, _, position = order.at(step)
        shares = [make(split, permutations, position, device) for device in range(devices)]
        found.append(jax.tree.map(lambda *parts: np.concatenate(parts), *shares))
    return found


def labels_of(found):
    return np.concatenate([batch["label"] for batch in found])


def test_every_epoch_is_a_permutation_and_batches_cross_its_end():
    labels = labels_of(batches(25))  # four epochs
    epochs = labels.reshape(4, SIZE)
    for epoch in epochs:
        assert sorted(epoch) == list(range(SIZE))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_images_stay_with_their_labels():
    for batch in batches(7):
        np.testing.assert_array_equal(batch["image"].ravel(), batch["label"])
        assert batch["image"].dtype == np.uint8 and batch["mask"].all()


def test_the_seed_orders_the_examples():
    assert not np.array_equal(labels_of(batches(6)), labels_of(batches(6, seed=1)))


IMAGES = Resident(
    np.random.RandomState(0).randint(0, 256, (SIZE, 6, 6, 3), np.uint8),
    np.arange(SIZE, dtype=np.int32),
)
AUGMENTED = {"crop_padding": 2, "horizontal_flip": True}


def test_a_batch_follows_from_the_step_alone():
    whole = batches(16, IMAGES, **AUGMENTED)
    for first in (1, 6, 7, 13, 15):
        later = batches(16, IMAGES, first_step=first, **AUGMENTED)
        jax.tree.map(np.testing.assert_array_equal, later, whole[first:])
    for other in ({"devices": 2}, {"devices": 4}, {"max_steps": 20}):
        same = batches(16, IMAGES, **AUGMENTED, **other)
        jax.tree.map(np.testing.assert_array_equal, same, whole)


def test_steps_within_a_call_continue_across_epochs():
    whole = labels_of(batches(20))
    order = Order(0, SIZE, BATCH, max_steps=15)
    permutations, _, position = order.at(5)
    for index in range(15):
        here = position._replace(first=position.first + index * BATCH)
        found = train_batch(
            numbered(), permutations, here, 0, share=BATCH, config=section(), seed=0
        )
        start = (5 + index) * BATCH
        np.testing.assert_array_equal(found["label"], whole[start : start + BATCH])


def test_positions_do_not_overflow():
    order = Order(0, SIZE, 4096, 1)
    permutations, _, position = order.at(10**7)
    epoch, first = divmod(10**7 * 4096, SIZE)
    assert (int(position.epoch), int(position.first)) == (epoch, first)
    assert sorted(np.array(permutations[:SIZE])) == list(range(SIZE))


def test_permutations_are_made_once_per_epoch():
    order = Order(0, SIZE, BATCH, 1)
    changed = [order.at(step)[1] for step in range(14)]
    assert [step for step, new in enumerate(changed) if new] == [0, 7, 13]


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_crops_are_those_of_the_padded_image(mode):
    corners = set()
    for batch in batches(40, IMAGES, crop_padding=2, crop_padding_mode=mode):
        for image, label in zip(batch["image"], batch["label"], strict=True):
            numpys = {"zeros": "constant", "reflect": "reflect"}[mode]
            padded = np.pad(IMAGES.images[label], ((2, 2), (2, 2), (0, 0)), numpys)
            windows = np.lib.stride_tricks.sliding_window_view(padded, (6, 6), axis=(0, 1))
            match = (windows == image.transpose(2, 0, 1)).all((2, 3, 4))
            assert match.sum() == 1
            corners.add(tuple(np.argwhere(match)[0]))
    assert corners == {(row, column) for row in range(5) for column in range(5)}


def mirrored(steps, **fields):
    found = []
    for batch in batches(steps, IMAGES, horizontal_flip=True, **fields):
        for image, label in zip(batch["image"], batch["label"], strict=True):
            whole = IMAGES.images[label]
            flipped = np.array_equal(image, whole[:, ::-1])
            assert flipped or np.array_equal(image, whole)
            found.append((label, flipped))
    return found


def test_half_of_the_images_are_mirrored():
    share = np.mean([flipped for _, flipped in mirrored(100)])
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / 800)


def test_alternating_flips_show_both_sides_in_two_epochs():
    found = mirrored(25, alternating_flip=True)
    by_epoch = [dict(found[epoch * SIZE : (epoch + 1) * SIZE]) for epoch in range(4)]
    for label in range(SIZE):
        sides = [epoch[label] for epoch in by_epoch]
        assert sides == [sides[0], not sides[0]] * 2
    assert 10 < sum(by_epoch[0].values()) < 40


def test_a_crop_without_padding_is_the_image():
    image = IMAGES.images[0]
    np.testing.assert_array_equal(basic.crop(jnp.zeros(2, int), jnp.array(image), 0), image)


@pytest.mark.parametrize("share", [5, 7, 25])
def test_evaluation_sees_every_example_once(share):
    devices = jax.device_count()
    seen = []
    for number in range(-(-SIZE // (share * devices))):
        for device in range(devices):
            batch = eval_batch(numbered(), number, device, share=share)
            assert len(batch["label"]) == share
            np.testing.assert_array_equal(batch["image"].ravel(), batch["label"])
            seen += list(np.array(batch["label"])[np.array(batch["mask"])])
    assert seen == list(range(SIZE))
