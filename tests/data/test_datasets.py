"""The catalogue: facts, statistics, validation splits and class names."""

import numpy as np
import pytest

from jaxcifar.config import default
from jaxcifar.data import datasets


def section(**fields):
    config = default().dataset
    config.update(fields)
    return config


@pytest.mark.parametrize("name", ["digits", "fake"])
def test_splits_match_the_facts(name):
    facts, splits = datasets.info(section(name=name)), datasets.load(section(name=name))
    assert list(splits) == ["train", "test"]
    for split, size in ((splits["train"], facts.train_size), (splits["test"], facts.test_size)):
        assert split.size == size
        assert split.images.shape == (size, *facts.image_shape)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert set(split.labels) == set(range(facts.num_classes))


def test_digits_are_scikit_learns_split_in_five():
    from sklearn.datasets import load_digits

    splits = datasets.load(section(name="digits"))
    images = np.concatenate([splits["train"].images, splits["test"].images])[..., 0]
    source = load_digits().images
    assert sorted(map(bytes, images)) == sorted(
        map(bytes, np.round(source * 255 / 16).astype("u1"))
    )
    assert splits["test"].size / len(source) == pytest.approx(0.2, abs=1e-3)
    pixels = splits["train"].images / 255
    facts = datasets.info(section(name="digits"))
    assert pixels.mean() == pytest.approx(facts.mean[0], abs=2e-3)
    assert pixels.std() == pytest.approx(facts.std[0], abs=2e-3)


def test_validation_images_leave_the_training_split():
    whole = datasets.load(section(name="digits"))
    parts = datasets.load(section(name="digits", validation_size=200, validation_seed=3))
    assert list(parts) == ["train", "validation", "test"]
    images = np.concatenate([parts["train"].images, parts["validation"].images])
    assert sorted(map(bytes, images)) == sorted(map(bytes, whole["train"].images))
    np.testing.assert_array_equal(parts["test"].images, whole["test"].images)


@pytest.mark.parametrize("name, per_class", [("cifar10", 5000), ("cifar100", 500)])
def test_statistics_of_the_real_images(cifar_archives, name, per_class):
    folder, labels = {
        "cifar10": ("cifar-10-batches-bin/data_batch_*.bin", 1),
        "cifar100": ("cifar-100-binary/train.bin", 2),
    }[name]
    records = np.concatenate(
        [np.fromfile(p, np.uint8).reshape(-1, labels + 3072) for p in cifar_archives.glob(folder)]
    )
    pixels = records[:, labels:].reshape(-1, 3, 1024).transpose(1, 0, 2).reshape(3, -1)
    facts = datasets.info(section(name=name))
    assert len(records) == facts.train_size
    assert set(np.bincount(records[:, labels - 1])) == {per_class}
    for channel, mean, std in zip(pixels, facts.mean, facts.std, strict=True):
        histogram = np.bincount(channel, minlength=256)
        levels = np.arange(256) / 255
        measured = np.average(levels, weights=histogram)
        deviation = np.sqrt(np.average((levels - measured) ** 2, weights=histogram))
        assert measured == pytest.approx(mean, abs=6e-5)
        assert deviation == pytest.approx(std, abs=6e-5)


@pytest.mark.parametrize(
    "name, pipeline, expected",
    [
        ("digits", "auto", True),
        ("digits", "device", True),
        ("digits", "tf", False),
        ("image_folder", "auto", False),
        ("image_folder", "device", True),
    ],
)
def test_the_pipeline_follows_from_the_section(name, pipeline, expected):
    dataset = section(name=name, pipeline=pipeline)
    assert datasets.uses_device_pipeline(dataset) is expected
    if name == "digits":
        dataset.validation_size = 100
        assert {split.on_device for split in datasets.load(dataset).values()} == {expected}


@pytest.mark.parametrize(
    "fields, count, some",
    [
        ({"name": "cifar10"}, 10, {0: "airplane", 6: "frog", 9: "truck"}),
        ({"name": "cifar100"}, 100, {0: "apple", 99: "worm"}),
        ({"name": "cifar100", "labels": "coarse"}, 20, {0: "aquatic_mammals", 19: "vehicles_2"}),
        ({"name": "digits"}, 10, {3: "3"}),
    ],
)
def test_classes_have_their_published_names(fields, count, some):
    names = datasets.class_names(section(**fields))
    assert len(names) == count == datasets.info(section(**fields)).num_classes
    assert {index: names[index] for index in some} == some
