"""The tf.data pipeline: permutations, crops, mirrors and evaluation batches."""

import itertools

import numpy as np
import pytest

from jaxcifar.config import default
from jaxcifar.data.host_pipeline import eval_batches, train_batches
from jaxcifar.data.split import Split

SIZE = 50


@pytest.fixture(scope="module")
def split():
    """Random images, each with its index as the label."""
    images = np.random.RandomState(0).randint(1, 256, (SIZE, 8, 8, 3), np.uint8)
    return Split(images, np.arange(SIZE, dtype=np.int32))


def batches(split, padding=2, flip=True, mode="zeros", **kwargs):
    augment = default().augment
    augment.crop_padding, augment.horizontal_flip = padding, flip
    augment.crop_padding_mode = mode
    arguments = {"batch_size": 16, "seed": 0, "first_step": 0, "num_steps": 20, **kwargs}
    return list(train_batches(split, augment, **arguments))


def labels(found):
    return np.concatenate([batch["label"] for batch in found])


def images(found):
    return np.concatenate([batch["image"] for batch in found])


def test_batches_keep_the_contract(split):
    for batch in batches(split):
        assert batch["image"].shape == (16, 8, 8, 3) and batch["image"].dtype == np.uint8
        assert batch["label"].shape == (16,) and batch["label"].dtype == np.int32
        assert batch["mask"].shape == (16,) and batch["mask"].dtype == bool and batch["mask"].all()


def test_batches_write_no_temporary_files(split, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # a kill would leave them there
    assert batches(split)
    assert not list(tmp_path.iterdir())


def test_every_epoch_is_another_permutation(split):
    order = labels(batches(split))[: 6 * SIZE].reshape(6, SIZE)
    for epoch in order:
        assert sorted(epoch) == list(range(SIZE))
    assert len({tuple(epoch) for epoch in order}) == 6
    assert tuple(order[0]) != tuple(range(SIZE))


def test_a_run_can_start_anywhere(split):
    whole = batches(split)
    for first in (1, 3, 7, 19):
        part = batches(split, first_step=first)
        assert len(part) == 20 - first
        for one, other in zip(part, whole[first:], strict=True):
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])


def test_starting_late_is_quick_and_in_range(split):
    far = batches(split, first_step=10**9, num_steps=10**9 + 2)
    assert len(far) == 2 and labels(far).min() >= 0 and labels(far).max() < SIZE


def test_processes_share_the_same_batches(split):
    whole = batches(split)
    for processes in (2, 4):
        shares = [batches(split, process=p, num_processes=processes) for p in range(processes)]
        for step, batch in enumerate(whole):
            for name in batch:
                joined = np.concatenate([share[step][name] for share in shares])
                np.testing.assert_array_equal(joined, batch[name])


def test_augmentation_follows_the_position_not_the_batch(split):
    np.testing.assert_array_equal(
        images(batches(split, batch_size=16, num_steps=10)),
        images(batches(split, batch_size=40, num_steps=4)),
    )


def test_seeds_give_other_orders_and_crops(split):
    one, other = batches(split, seed=0), batches(split, seed=1)
    assert not np.array_equal(labels(one), labels(other))
    # The order and the augmentation have different streams.
    plain = batches(split, padding=0, flip=False)
    np.testing.assert_array_equal(labels(one), labels(plain))
    np.testing.assert_array_equal(images(plain), split.images[labels(plain)])


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_images_are_padded_crops_and_mirrors_uniformly_drawn(split, mode):
    padding = 2
    found = batches(split, padding=padding, num_steps=60, mode=mode)
    widths = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(split.images, widths, "reflect" if mode == "reflect" else "constant")
    counts = np.zeros((2 * padding + 1, 2 * padding + 1, 2), int)
    for image, label in zip(images(found), labels(found), strict=True):
        matches = [
            (y, x, flip)
            for y, x, flip in itertools.product(range(5), range(5), (0, 1))
            if np.array_equal(
                image[:, ::-1] if flip else image, padded[label, y : y + 8, x : x + 8]
            )
        ]
        assert len(matches) == 1
        counts[matches[0]] += 1
    expected = counts.sum() / counts.size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 85.4  # exceeded with probability 0.001 by 49 degrees of freedom


@pytest.mark.parametrize(
    "batch_size, processes", [(1, 1), (16, 1), (50, 1), (64, 2), (7, 1), (8, 4)]
)
def test_evaluation_sees_every_example_once(split, batch_size, processes):
    shares = [
        list(eval_batches(split, batch_size=batch_size, process=p, num_processes=processes))
        for p in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    seen = []
    for batch in itertools.chain(*shares):
        assert len(batch["label"]) == len(batch["mask"]) == batch_size // processes
        seen += batch["label"][batch["mask"]].tolist()
        np.testing.assert_array_equal(batch["image"], split.images[batch["label"]])
    assert sorted(seen) == list(range(SIZE))
