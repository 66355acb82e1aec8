"""Users' own data: decoded folders, sizes, channels, statistics and splits."""

import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxcifar.config import default
from jaxcifar.config.validation import validate
from jaxcifar.data import batches, datasets, fitting, own_data
from jaxcifar.errors import InputError
from tests.helpers import make_config

CLASSES = ("cat", "dog")
SIZE = 12


def section(path, name="arrays", **fields):
    config = default().dataset
    config.update({"name": name, "data_dir": str(path), **fields})
    return config


def picture(height, width, seed):
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two classes of pictures of many sizes and kinds: ten training and three test images each."""
    root = tmp_path_factory.mktemp("images")
    for part, count in (("train", 10), ("val", 3)):
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                image = picture(20 + 4 * index, 50 - 3 * index, 100 * label + index)
                image.save(folder / f"{index}.png")
    train = root / "train" / "cat"
    picture(30, 20, 50).save(train / "1.jpg", quality=95)
    picture(30, 20, 51).convert("RGBA").save(train / "2.png")
    picture(30, 20, 52).convert("P").save(train / "3.png")
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 70).save(train / "4.png")
    (train / "1.png").unlink()
    return root


@pytest.fixture
def copy(root, tmp_path):
    return shutil.copytree(root, tmp_path / "images")


def on_device(root, **fields):
    return section(root, "image_folder", pipeline="device", image_size=SIZE, **fields)


def test_a_decoded_folder_has_pillows_pixels_in_the_order_of_the_files(root):
    splits = datasets.load(on_device(root))
    for name, count in ("train", 10), ("test", 3):
        split, part = splits[name], {"train": "train", "test": "val"}[name]
        assert split.on_device and split.labels.tolist() == [0] * count + [1] * count
        files = [file for c in CLASSES for file in sorted((root / part / c).iterdir())]
        for file, image in zip(files, split.images, strict=True):
            if file.name != "4.png" or "cat" not in str(file):
                expected = fitting.fit(Image.open(file).convert("RGB"), SIZE)
                np.testing.assert_array_equal(image, np.asarray(expected), str(file))
    deep = splits["train"].images[4]  # 16 bits per pixel
    levels = (np.arange(900, dtype=np.uint16).reshape(30, 30) * 70) >> 8
    assert np.abs(deep[..., 0] - np.resize(levels, (30, 30)).mean()).max() < 130
    assert deep.max() > 200 and deep.std() > 50
    info = datasets.info(on_device(root))
    assert info.image_shape == (SIZE, SIZE, 3) and info.num_classes == 2
    assert datasets.class_names(on_device(root)) == CLASSES
    np.testing.assert_allclose(info.mean, (splits["train"].images / 255).mean((0, 1, 2)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_decoded_folder_is_turned_if_asked_for(copy, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = copy / "train" / "cat" / "1.jpg"
    Image.open(file).save(file, quality=95, exif=exif)
    stored = Image.open(file)
    for turned in (False, True):
        image = ImageOps.exif_transpose(stored) if turned else stored
        found = datasets.load(on_device(copy, exif_orientation=turned))["train"].images
        index = [f.name for f in sorted((copy / "train" / "cat").iterdir())].index("1.jpg")
        np.testing.assert_array_equal(found[index], fitting.fit(image.convert("RGB"), SIZE))


def test_a_decoded_folder_needs_no_tensorflow(root, monkeypatch):
    fields = {"dataset__name": "image_folder", "dataset__data_dir": str(root)}
    config = make_config(**fields, dataset__pipeline="device", train__batch_size=1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config.log.tensorboard = False
    validate(config)
    config.dataset.pipeline = "auto"
    with pytest.raises(InputError, match="without dataset.pipeline = 'device' needs TensorFlow"):
        validate(config)


def test_both_pipelines_hold_out_the_same_files(root):
    fields = {"validation_size": 6, "validation_seed": 2}
    files = datasets.load(section(root, "image_folder", **fields))
    decoded = datasets.load(on_device(root, **fields))
    whole = datasets.load(on_device(root))["train"]
    names = datasets.load(section(root, "image_folder"))["train"].names
    for name in ("train", "validation"):
        index = [names.index(file) for file in files[name].names]
        np.testing.assert_array_equal(decoded[name].images, whole.images[index])
        np.testing.assert_array_equal(decoded[name].labels, files[name].labels)


def test_bad_images_are_named_or_left_out(copy, caplog):
    for part in ("train", "val"):
        file = copy / part / "dog" / "2.png"
        file.write_bytes(file.read_bytes()[:100])
    (copy / "train" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"train/(cat/0|dog/2).png cannot be decoded.*=skip"):
        datasets.load(on_device(copy))
    with pytest.raises(InputError, match="2 of its 20 images cannot .* = 0.05 of them may be skip"):
        datasets.load(on_device(copy, on_bad_image="skip", max_bad_images=0.05))
    skip = {"on_bad_image": "skip", "max_bad_images": 0.2}
    splits = datasets.load(on_device(copy, **skip))
    assert [split.size for split in splits.values()] == [18, 5]
    assert splits["train"].labels.tolist() == [0] * 9 + [1] * 9
    assert datasets.info(on_device(copy, **skip)).train_size == 18
    named = {record.getMessage() for record in caplog.records}
    assert len(named) == 3 and all("cannot be decoded: left out" in line for line in named)


def test_a_class_of_bad_images_and_a_missing_file_are_errors(copy):
    for file in (copy / "train" / "dog").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match="train/dog: none of the images can be decoded"):
        datasets.load(on_device(copy, on_bad_image="skip", max_bad_images=1.0))
    for file in (copy / "val").glob("*/*"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="none of its 6 images can be decoded"):
        datasets.load(on_device(copy, on_bad_image="skip", max_bad_images=1.0, channels=1))
    own_data.scan_folder.cache_clear()
    files = own_data.scan_folder(str(copy), 0)
    (copy / files["train"].names[3]).unlink()
    with pytest.raises(InputError, match=r"3.png cannot be read: No such file"):
        datasets.load(on_device(copy, on_bad_image="skip"))


@pytest.mark.parametrize("pipeline", ["auto", "device"])
def test_a_folder_without_test_images_has_them_split_off_if_asked_for(copy, pipeline):
    fields = {"pipeline": pipeline, "image_size": SIZE}
    with pytest.raises(InputError, match="dataset.test_size = 4: must be 0, as .* has the test sp"):
        datasets.info(section(copy, "image_folder", test_size=4, **fields))
    shutil.rmtree(copy / "val")
    own_data.scan_folder.cache_clear()
    with pytest.raises(InputError, match=r"images/val: No such file.*set dataset.test_size"):
        datasets.info(section(copy, "image_folder", **fields))
    with pytest.raises(InputError, match="dataset.test_size = 19: must be at most 18 of the 20"):
        datasets.info(section(copy, "image_folder", test_size=19, **fields))
    dataset = section(copy, "image_folder", test_size=6, validation_size=4, **fields)
    splits = datasets.load(dataset)
    assert {name: split.size for name, split in splits.items()} == {
        "train": 10,
        "validation": 4,
        "test": 6,
    }
    for split in splits.values():
        assert np.ptp(np.bincount(split.labels)) == 0
    info = datasets.info(dataset)
    assert (info.train_size, info.test_size) == (14, 6)


def test_grey_batches_of_a_streamed_folder(root):
    config = make_config(
        dataset__name="image_folder",
        dataset__data_dir=str(root),
        dataset__image_size=SIZE,
        train__batch_size=4,
    )
    with pytest.raises(InputError, match="dataset.channels = 1: set dataset.mean and dataset.std"):
        config.dataset.channels = 1
        datasets.info(config.dataset)
    config.dataset.mean, config.dataset.std = (0.5,), (0.25,)
    assert datasets.info(config.dataset).image_shape == (SIZE, SIZE, 1)
    split = datasets.load(config.dataset)["train"]
    grey = next(batches.train_batches(split, config, first_step=0, num_steps=1))["image"]
    config.dataset.channels = 3
    colour = next(batches.train_batches(split, config, first_step=0, num_steps=1))["image"]
    np.testing.assert_array_equal(grey, fitting.convert(colour, 1))


# Arrays -------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    """Arrays of 30 training and 8 test images of two classes, in an .npz file."""
    return write(tmp_path / "data.npz")


def write(path, *, channels=3, seed=0, **changes):
    random = np.random.RandomState(seed)
    arrays = {
        "train_image": random.randint(0, 256, (30, 10, 10, channels), np.uint8),
        "train_label": np.arange(30) % 2,
        "test_image": random.randint(0, 256, (8, 10, 10, channels), np.uint8),
        "test_label": np.arange(8) % 2,
    }
    np.savez(path, **{k: v for k, v in {**arrays, **changes}.items() if v is not None})
    return path


def test_statistics_are_of_the_images_that_are_trained_on(file):
    dataset = section(file, validation_size=10)
    info, splits = datasets.info(dataset), datasets.load(dataset)
    pixels = splits["train"].images / 255
    assert len(pixels) == 20 and (info.train_size, info.test_size) == (30, 8)
    assert info.mean == pytest.approx(pixels.mean((0, 1, 2)))
    assert info.std == pytest.approx(pixels.std((0, 1, 2)))
    assert info.is_measured and info.mean != datasets.info(section(file)).mean


def test_statistics_can_be_set(file):
    dataset = section(file, mean=(0, 0.5, 1), std=(0.25, 0.5, 1))
    info = datasets.info(dataset)
    assert (info.mean, info.std, info.is_measured) == ((0.0, 0.5, 1.0), (0.25, 0.5, 1.0), False)
    digits = datasets.info(section("", "digits", mean=(0.5,), std=(0.5,)))
    assert (digits.mean, digits.std) == ((0.5,), (0.5,))
    for fields, message in [
        ({"mean": (0.5, 0.5, 0.5)}, "must be set together"),
        ({"std": (0.5, 0.5, 0.5)}, "must be set together"),
        ({"mean": (0.5,), "std": (0.5,)}, r"mean = \(0.5,\): must have one number per channel, 3"),
    ]:
        with pytest.raises(InputError, match=message):
            datasets.info(section(file, **fields))


@pytest.mark.parametrize("stored, asked_for", [(1, 3), (3, 1), (1, 0), (3, 0)])
def test_channels_and_size_are_those_of_the_config(tmp_path, stored, asked_for):
    path = write(tmp_path / "a.npz", channels=stored)
    dataset = section(path, channels=asked_for, image_size=8)
    info, splits = datasets.info(dataset), datasets.load(dataset)
    channels = asked_for or stored
    assert info.image_shape == (8, 8, channels) == splits["test"].images.shape[1:]
    assert len(info.mean) == len(info.std) == channels


def test_data_is_loaded_once_until_the_file_changes(file, monkeypatch):
    calls = []
    read = own_data.arrays.read
    monkeypatch.setattr(own_data.arrays, "read", lambda path: calls.append(path) or read(path))
    first = datasets.info(section(file))
    datasets.load(section(file))
    datasets.class_names(section(file))
    assert len(calls) == 1
    write(file, seed=1)
    assert datasets.info(section(file)).mean != first.mean
    assert len(calls) == 2


def test_a_test_split_is_split_off_only_where_there_is_none(file, tmp_path):
    with pytest.raises(
        InputError, match="dataset.test_size = 4: must be 0, as .*data.npz has a te"
    ):
        datasets.info(section(file, test_size=4))
    write(file, test_image=None, test_label=None)
    with pytest.raises(InputError, match="dataset.test_size = 0: .*data.npz has no test split"):
        datasets.info(section(file))
    splits = datasets.load(section(file, test_size=6, validation_size=4))
    assert [splits[name].size for name in ("train", "validation", "test")] == [20, 4, 6]
    images = np.concatenate([split.images for split in splits.values()])
    with np.load(file) as arrays:
        assert sorted(map(bytes, images)) == sorted(map(bytes, arrays["train_image"]))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"dataset__channels": 2}, "dataset.channels = 2: must be one of 0, 1, 3"),
        ({"dataset__image_size": 5000}, "dataset.image_size = 5000: must be from 0 to 4096"),
        ({"dataset__mean": (0.5, 2)}, r"dataset.mean = \(0.5, 2\): must be numbers from 0 to 1"),
        ({"dataset__std": (0,)}, r"dataset.std = \(0,\): must be numbers from 0.001 to 1"),
        (
            {"dataset__image_size": 3, "augment__crop_padding": 0},
            "dataset.image_size: images of 3x3 pixels are too small for ",
        ),
        (
            {"model__name": "resnet18", "model__stem": "imagenet"},
            "10x10 .*resnet18' with model.stem = 'imagenet', which needs at least 32x32",
        ),
        ({"model__name": "densenet121", "dataset__image_size": 7}, "needs at least 8x8"),
        ({"dataset__validation_size": 29}, "dataset.validation_size = 29: must be at most 28"),
        ({"augment__crop_padding": 11}, "augment.crop_padding = 11: must be at most 10"),
        ({"dataset__on_bad_image": "skip"}, "on_bad_image = 'skip' has no effect"),
    ],
)
def test_fields_that_do_not_fit_the_data_are_refused(file, fields, message):
    common = {"dataset__name": "arrays", "dataset__data_dir": str(file), "train__batch_size": 5}
    validate(make_config(**common))
    with pytest.raises(InputError, match=message):
        validate(make_config(**common, **fields))


def test_an_image_too_small_for_the_network_names_the_data_set():
    with pytest.raises(InputError, match="dataset.name = 'digits': images of 8x8 pixels are too"):
        validate(
            make_config(dataset__name="digits", model__name="resnet18", model__stem="imagenet")
        )


def test_data_that_exceeds_the_memory_is_refused(root, monkeypatch):
    monkeypatch.setattr(
        "os.sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 10_000}[name]
    )
    with pytest.raises(InputError, match="20 images of 12x12 pixels take .* more than"):
        datasets.load(on_device(root, validation_size=1))
