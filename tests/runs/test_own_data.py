"""Whole runs on users' own data: the bits of the set it was made of, resumed and evaluated."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxcifar.data import datasets, own_data
from jaxcifar.errors import InputError
from jaxcifar.evaluate import evaluate_run
from jaxcifar.resilience.files import write_json
from jaxcifar.train import train
from tests.helpers import assert_same_bits, make_config, read_metrics, restore

pytestmark = pytest.mark.usefixtures("tiny")


def small_run(**fields):
    common = {
        "model__name": "tiny",
        "augment__crop_padding": 1,
        "train__num_steps": 6,
        "train__batch_size": 32,
        "eval__every_steps": 6,
        "eval__batch_size": 200,
        "checkpoint__every_steps": 3,
        "checkpoint__keep_every_steps": 3,
        "log__every_steps": 2,
        "log__tensorboard": False,
        "dataset__validation_size": 30,
    }
    return make_config(**{**common, **fields})


def write(path, splits):
    """Writes the splits of a data set as arrays, without the axis of a single channel."""
    arrays = {}
    for name, split in splits.items():
        arrays[f"{name}_image"] = np.squeeze(split.images)
        arrays[f"{name}_label"] = split.labels
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The bundled digits as an .npz file."""
    splits = datasets.load(make_config(dataset__name="digits").dataset)
    return write(tmp_path_factory.mktemp("arrays") / "digits.npz", splits)


def assert_same_run(workdir, other, config, other_config):
    assert read_metrics(workdir) == read_metrics(other)
    states = (restore(config, workdir, 6).state, restore(other_config, other, 6).state)
    assert_same_bits(*states)


def compare(name, path, tmp_path, **fields):
    """Asserts that a set and arrays made of it give the same run."""
    info = datasets.info(make_config(dataset__name=name, **fields).dataset)
    whole = small_run(dataset__name=name, **fields)
    own = small_run(
        dataset__name="arrays",
        dataset__data_dir=path,
        dataset__mean=info.mean,
        dataset__std=info.std,
    )
    train(whole, tmp_path / "whole")
    train(own, tmp_path / "own")
    assert_same_run(tmp_path / "whole", tmp_path / "own", whole, own)
    data = [
        json.loads((tmp_path / w / "manifest.json").read_text())["data"] for w in ("own", "whole")
    ]
    assert data[0] == data[1]


def test_arrays_made_of_the_digits_give_the_bits_of_the_digits(digits, tmp_path):
    compare("digits", digits, tmp_path)


def test_arrays_made_of_cifar10_give_the_bits_of_cifar10(cifar_archives, tmp_path):
    fields = {"dataset__name": "cifar10", "dataset__data_dir": str(cifar_archives)}
    path = write(tmp_path / "cifar10.npz", datasets.load(make_config(**fields).dataset))
    compare("cifar10", path, tmp_path, dataset__data_dir=str(cifar_archives))


@pytest.fixture(scope="module")
def own_run(digits, tmp_path_factory):
    """Config and workdir of an undisturbed run on arrays; a test that writes must copy it."""
    config = small_run(dataset__name="arrays", dataset__data_dir=digits)
    workdir = tmp_path_factory.mktemp("own") / "run"
    train(config, workdir)
    return config, workdir


def test_measured_statistics_are_recorded(own_run):
    config, workdir = own_run
    recorded = json.loads((workdir / "manifest.json").read_text())["normalization"]
    pixels = datasets.load(config.dataset)["train"].images / 255
    assert recorded["measured"]
    assert recorded["mean"] == pytest.approx([pixels.mean()])
    assert recorded["std"] == pytest.approx([pixels.std()])


def test_a_run_resumes_with_the_statistics_that_it_recorded(own_run, tmp_path, monkeypatch):
    config, workdir = own_run
    broken = shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(broken / "checkpoints" / "6")
    monkeypatch.setattr(own_data.fitting, "statistics", lambda images: ((0.1,), (0.9,)))
    own_data._load.cache_clear()
    train(config, broken)
    own_data._load.cache_clear()
    assert_same_run(workdir, broken, config, config)


def test_evaluation_uses_the_statistics_of_the_training_run(own_run, digits, tmp_path):
    config, workdir = own_run
    with np.load(digits) as stored:
        arrays = dict(stored)
    arrays["train_image"] = 255 - arrays["train_image"]
    np.savez(tmp_path / "other.npz", **arrays)
    copy = shutil.copytree(workdir, tmp_path / "run")
    other = config.copy_and_resolve_references()
    other.dataset.data_dir = str(tmp_path / "other.npz")
    expected = json.loads((workdir / "manifest.json").read_text())["end"]["metrics"]["test"]
    assert evaluate_run(other, copy)["test"] == pytest.approx(expected, rel=1e-5)
    run = json.loads((copy / "manifest.json").read_text())
    run["normalization"] = {"mean": [0.1] * 3, "std": [0.5] * 3, "measured": True}
    write_json(copy / "manifest.json", run)
    with pytest.raises(InputError, match="trained on images of 3 channels, and these have 1"):
        evaluate_run(config, copy)


def test_changed_arrays_are_refused(own_run, digits, tmp_path):
    config, workdir = own_run
    copy = shutil.copytree(workdir, tmp_path / "run")
    with np.load(digits) as stored:
        arrays = dict(stored)
    arrays["train_image"][700, 3, 4] ^= 1
    np.savez(tmp_path / "other.npz", **arrays)
    other = config.copy_and_resolve_references()
    other.dataset.data_dir = str(tmp_path / "other.npz")
    with pytest.raises(InputError, match="the (train|validation) split differs from the one"):
        train(other, copy)


def test_a_decoded_folder_gives_the_bits_of_its_pixels_as_arrays(digits, tmp_path):
    splits = datasets.load(make_config(dataset__name="digits").dataset)
    parts = {"train": splits["train"].images[:200], "test": splits["test"].images[:50]}
    arrays = {}
    for part, images in parts.items():
        labels = splits[part].labels[: len(images)]
        order = np.argsort(labels, kind="stable")
        arrays[f"{part}_image"], arrays[f"{part}_label"] = images[order], labels[order]
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "images" / {"train": "train", "test": "val"}[part] / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(folder / f"{index:03}.png")
    np.savez(tmp_path / "arrays.npz", **arrays)
    folder = small_run(
        dataset__name="image_folder",
        dataset__data_dir=str(tmp_path / "images"),
        dataset__pipeline="device",
        dataset__image_size=8,
    )
    same = small_run(
        dataset__name="arrays",
        dataset__data_dir=str(tmp_path / "arrays.npz"),
        dataset__channels=3,
    )
    train(folder, tmp_path / "folder")
    train(same, tmp_path / "same")
    assert_same_run(tmp_path / "folder", tmp_path / "same", folder, same)
    shutil.rmtree(tmp_path / "folder" / "checkpoints" / "6")
    train(folder, tmp_path / "folder")
    assert_same_run(tmp_path / "folder", tmp_path / "same", folder, same)
    picture = (
        tmp_path
        / "images"
        / "train"
        / "3"
        / next(name.name for name in (tmp_path / "images" / "train" / "3").iterdir())
    )
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    own_data._load.cache_clear()
    with pytest.raises(InputError, match="the (train|validation) split differs from the one"):
        train(folder, tmp_path / "folder")
