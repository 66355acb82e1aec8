"""Any set of TensorFlow Datasets, prepared here from arrays and without a network."""

import numpy as np
import pytest

from jaxcifar.config import default
from jaxcifar.config.validation import validate
from jaxcifar.data import datasets, fitting
from jaxcifar.environment import import_tensorflow
from jaxcifar.errors import InputError
from tests.helpers import make_config

NAMES = ["cat", "dog", "cow"]


def pictures(count, seed, height=28, width=28, channels=1):
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (count, height, width, channels), np.uint8)
    return images, np.arange(count) % len(NAMES)


def prepare(data_dir, name, splits, *, version="1.0.0", shape=(28, 28, 1), features=None):
    """Writes the TFDS directory of a set with these images and labels by split."""
    import_tensorflow()
    import tensorflow_datasets as tfds

    if features is None:
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=NAMES),
        }

    def examples(images, labels):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            values = {"id": str(index), "image": image, "label": label}
            yield index, {key: values[key] for key in features}

    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(version)

            def _info(self):
                return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

            def _split_generators(self, download_manager):
                return {split: examples(*arrays) for split, arrays in splits.items()}

            def _generate_examples(self):
                raise NotImplementedError

    Builder.name = name
    builder = Builder(data_dir=data_dir)
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    import_tensorflow()
    import tensorflow_datasets as tfds

    data_dir = str(tmp_path_factory.mktemp("tfds"))
    prepare(data_dir, "mnist", {"train": pictures(60, 0), "test": pictures(9, 1)}, version="3.0.1")
    coloured = {"train": pictures(30, 2, 20, 31, 3), "validation": pictures(6, 3, 40, 24, 3)}
    prepare(data_dir, "of_many_sizes", coloured, shape=(None, None, 3))
    prepare(data_dir, "train_only", {"train": pictures(30, 4)})
    text = {"id": tfds.features.Text(), "label": tfds.features.ClassLabel(names=NAMES)}
    prepare(data_dir, "texts", {"train": pictures(3, 5)}, features=text)
    return data_dir


def section(data_dir, name, **fields):
    config = default().dataset
    config.update({"name": f"tfds:{name}", "data_dir": data_dir, **fields})
    return config


def assert_same_examples(split, images, labels):
    """Asserts that a split has these examples, in any order."""
    found = sorted((label, bytes(image)) for image, label in zip(*split[:2], strict=True))
    assert found == sorted(
        (label, bytes(image)) for image, label in zip(images, labels, strict=True)
    )


def test_a_stock_set_is_read_as_it_was_prepared(data_dir):
    splits = datasets.load(section(data_dir, "mnist"))
    assert list(splits) == ["train", "test"] and splits["train"].on_device
    for name, arrays in ("train", pictures(60, 0)), ("test", pictures(9, 1)):
        assert (splits[name].images.dtype, splits[name].labels.dtype) == (np.uint8, np.int32)
        assert_same_examples(splits[name], *arrays)
    info = datasets.info(section(data_dir, "mnist"))
    assert (info.image_shape, info.num_classes) == ((28, 28, 1), 3)
    assert datasets.class_names(section(data_dir, "mnist")) == tuple(NAMES)
    pixels = pictures(60, 0)[0] / 255
    assert info.mean == pytest.approx((pixels.mean(),)) and info.std == pytest.approx(pixels.std())
    again = datasets.load(section(data_dir, "mnist:3.0.1"))
    assert datasets.fingerprints(again) == datasets.fingerprints(splits)


def test_images_of_different_sizes_are_resized_or_refused(data_dir):
    with pytest.raises(InputError, match="different sizes; set dataset.image_size"):
        datasets.info(section(data_dir, "of_many_sizes"))
    splits = datasets.load(section(data_dir, "of_many_sizes", image_size=16, channels=1))
    images, labels = pictures(30, 2, 20, 31, 3)
    resized = np.stack([fitting.fit_pixels(image, 16) for image in images])
    assert_same_examples(splits["train"], fitting.convert(resized, 1), labels)
    assert splits["test"].images.shape == (6, 16, 16, 1)  # the set's validation split


def test_a_set_without_a_test_split_needs_its_size(data_dir):
    with pytest.raises(InputError, match=r"dataset.test_size = 0: .* has no test split"):
        datasets.info(section(data_dir, "train_only"))
    splits = datasets.load(section(data_dir, "train_only", test_size=6, validation_size=3))
    assert [split.size for split in splits.values()] == [21, 3, 6]
    assert np.bincount(splits["test"].labels).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "name, message",
    [
        ("texts", "must have an image and a class label, but its features are id, label"),
        ("mnsit", "no such set of TensorFlow Datasets.*; did you mean 'tfds:mnist"),
        ("mnist:9.9.9", "no such set"),
        ("../mnist", "no such set"),
        ("", "such as tfds:mnist"),
    ],
)
def test_unsuitable_sets_are_refused(data_dir, name, message):
    with pytest.raises(InputError, match=message):
        datasets.info(section(data_dir, name))


def test_a_damaged_set_is_named(data_dir, tmp_path):
    prepare(str(tmp_path), "damaged", {"train": pictures(9, 0), "test": pictures(3, 1)})
    (file,) = (tmp_path / "damaged" / "1.0.0").glob("*train*")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match=r"the train split in .*damaged.* cannot be read"):
        datasets.info(section(str(tmp_path), "damaged"))


def test_a_set_that_is_neither_prepared_nor_downloadable(tmp_path, monkeypatch):
    import requests

    def unreachable(*arguments, **keywords):
        raise requests.exceptions.ConnectionError("no network")

    import_tensorflow()
    monkeypatch.setattr("requests.head", unreachable)
    with pytest.raises(InputError, match=r"(?s)not prepared in .*mnist.*data_dir"):
        datasets.info(section(str(tmp_path), "fashion_mnist"))


def test_a_set_needs_tensorflow_datasets(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"dataset.name = 'tfds:mnist' needs TensorFlow Datasets:"):
        validate(make_config(dataset__name="tfds:mnist"))
