"""CIFAR as arrays: stored, from archives, from TFDS, and with TensorFlow not installed."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxcifar.config import default
from jaxcifar.data import cifar, cifar_tfds, datasets
from jaxcifar.data.cifar_format import CIFAR10, CIFAR100, FORMATS
from jaxcifar.data.split import Split, hold_out
from jaxcifar.errors import InputError
from tests.data.test_cifar_archives import python_version, small_set, tar
from tests.helpers import REPOSITORY

# Prepended to a program, makes it run as if TensorFlow were not installed.
WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
"""
LOAD = """
from jaxcifar.config import default
from jaxcifar.data import datasets
config = default().dataset
config.name, config.data_dir = sys.argv[1:]
splits = datasets.load(config)
print(splits["test"].labels.sum(), splits["train"].images.sum())
"""
PREPARE = """
import runpy
script = sys.argv[1]
del sys.argv[0]
runpy.run_path(script, run_name="__main__")
"""


def section(**fields):
    config = default().dataset
    config.update(fields)
    return config


def python(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def records_of(path, fmt, names):
    records = [np.fromfile(path / fmt.folders[0] / name, np.uint8) for name in names]
    return np.concatenate(records).reshape(-1, fmt.record_bytes)


@pytest.fixture(scope="module")
def published(cifar_archives):
    """CIFAR-10's arrays, read from the binary version without `cifar`."""
    arrays = {}
    *train, test = CIFAR10.records
    for name, files in (("train", train), ("test", [test])):
        records = records_of(cifar_archives, CIFAR10, files)
        arrays[f"{name}_image"] = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        arrays[f"{name}_label"] = records[:, 0].astype(np.int32)
    return arrays


@pytest.fixture(scope="module")
def stored(published, tmp_path_factory):
    """A data directory that has nothing but CIFAR-10's stored arrays."""
    directory = tmp_path_factory.mktemp("data")
    (directory / "jaxcifar").mkdir()
    np.savez(directory / "jaxcifar" / "cifar10.npz", **published)
    return directory


def sums_of(arrays):
    return [str(arrays["test_label"].sum()), str(arrays["train_image"].sum())]


def small_formats(monkeypatch):
    """Puts small data sets in place of the published ones; returns their formats and files."""
    sets = {fmt.name: small_set(fmt) for fmt in FORMATS}
    monkeypatch.setattr(cifar, "FORMATS", {name: fmt for name, (fmt, _) in sets.items()})
    return sets


def test_stored_arrays_are_read_without_importing_tensorflow(stored, published):
    check = "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)\n"
    done = python(f"import sys\n{LOAD}{check}", "cifar10", stored)
    assert done.stdout.split() == sums_of(published), done.stderr


def test_changed_stored_arrays_are_not_used(published, tmp_path, monkeypatch):
    images = published["train_image"].copy()
    images[31_415, 9, 2, 1] ^= 4
    (tmp_path / "jaxcifar").mkdir()
    file = tmp_path / "jaxcifar" / "cifar10.npz"
    np.savez(file, **{**published, "train_image": images})
    monkeypatch.setattr(cifar_tfds, "load", lambda name, data_dir: dict(published))
    splits = datasets.load(section(name="cifar10", data_dir=str(tmp_path)))
    np.testing.assert_array_equal(splits["train"].images, published["train_image"])
    with np.load(file) as repaired:
        np.testing.assert_array_equal(repaired["train_image"], published["train_image"])
    assert [path.name for path in file.parent.iterdir()] == [file.name]

    monkeypatch.setattr(cifar_tfds, "load", lambda *_: {**published, "train_image": images})
    file.unlink()
    with pytest.raises(InputError, match="cifar10 in .* not the published images and labels"):
        datasets.load(section(name="cifar10", data_dir=str(tmp_path)))
    assert not file.exists()


@pytest.mark.parametrize("place", ["folder", "archive", "files", "python version"])
def test_archives_in_the_data_directory_are_read(cifar_archives, tmp_path, published, place):
    folder = cifar_archives / CIFAR10.folders[0]
    if place == "folder":
        (tmp_path / folder.name).symlink_to(folder)
    elif place == "archive":
        contents = {f"{folder.name}/{p.name}": p.read_bytes() for p in folder.iterdir()}
        tar(tmp_path / CIFAR10.archives[0], contents)
    elif place == "python version":
        contents = {path.name: path.read_bytes() for path in folder.iterdir()}
        (tmp_path / CIFAR10.folders[1]).mkdir()
        for name, data in python_version(CIFAR10, contents).items():
            (tmp_path / CIFAR10.folders[1] / name).write_bytes(data)
    else:
        for path in folder.iterdir():
            (tmp_path / path.name).symlink_to(path)
    done = python(WITHOUT_TENSORFLOW + LOAD, "cifar10", tmp_path)
    assert done.stdout.split() == sums_of(published), done.stderr
    with np.load(tmp_path / "jaxcifar" / "cifar10.npz") as arrays:
        assert cifar.digest(dict(arrays)) == CIFAR10.arrays_sha256


def test_cifar100_is_read_without_tensorflow(cifar_archives, tmp_path):
    (tmp_path / CIFAR100.folders[0]).symlink_to(cifar_archives / CIFAR100.folders[0])
    splits = datasets.load(section(name="cifar100", data_dir=str(tmp_path)))
    coarse = datasets.load(section(name="cifar100", data_dir=str(tmp_path), labels="coarse"))
    records = records_of(cifar_archives, CIFAR100, ["test.bin"])
    np.testing.assert_array_equal(splits["test"].labels, records[:, 1])
    np.testing.assert_array_equal(coarse["test"].labels, records[:, 0])
    images = records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(splits["test"].images, images)


def test_a_data_directory_that_cannot_be_written_is_read(cifar_archives, tmp_path, published):
    (tmp_path / CIFAR10.folders[0]).symlink_to(cifar_archives / CIFAR10.folders[0])
    (tmp_path / "jaxcifar").write_text("not a directory")
    splits = datasets.load(section(name="cifar10", data_dir=str(tmp_path)))
    np.testing.assert_array_equal(splits["test"].labels, published["test_label"])


def test_a_damaged_archive_is_named(tmp_path, monkeypatch):
    fmt, files = small_formats(monkeypatch)["cifar10"]
    files = {**files, "test_batch.bin": files["test_batch.bin"][:-1]}
    tar(tmp_path / fmt.archives[0], files)
    with pytest.raises(InputError, match="test_batch.bin: 61459 bytes"):
        datasets.load(section(name="cifar10", data_dir=str(tmp_path)))


def test_missing_data_is_explained(tmp_path, monkeypatch):
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens: no network
    with pytest.raises(InputError) as caught:
        datasets.load(section(name="cifar10", data_dir=str(tmp_path)))
    message = str(caught.value)
    assert str(tmp_path / "cifar10") in message
    assert "network" in message and "scripts/prepare_data.py" in message
    assert "dataset.data_dir" in message
    assert len(message.splitlines()) < 8


@pytest.mark.parametrize("has_tfds_data", [False, True])
def test_missing_data_is_explained_without_tensorflow(tmp_path, monkeypatch, has_tfds_data):
    monkeypatch.setattr(cifar_tfds, "is_installed", lambda: False)
    if has_tfds_data:
        (tmp_path / "cifar10").mkdir()
    with pytest.raises(InputError) as caught:
        datasets.load(section(name="cifar10", data_dir=str(tmp_path)))
    message = str(caught.value)
    assert str(tmp_path) in message and "dataset.data_dir" in message
    for archive in CIFAR10.archives:
        assert archive in message
    assert "scripts/prepare_data.py" in message and "pip install 'jaxcifar[tf]'" in message
    assert ("TFDS data there" in message) is has_tfds_data
    assert len(message.splitlines()) < 8


@pytest.mark.parametrize(
    "use",
    [
        "from jaxcifar.data import host_pipeline\n"
        "host_pipeline.train_batches(split, default().augment, batch_size=2, seed=0, first_step=0, "
        "num_steps=1)",
        "from jaxcifar.data import folder_pipeline\n"
        "folder_pipeline.eval_batches(split, image_size=8, batch_size=2)",
    ],
    ids=["tf", "image_folder"],
)
def test_pipelines_that_need_tensorflow_name_the_extra(use):
    program = (
        f"{WITHOUT_TENSORFLOW}\n"
        "from jaxcifar.config import default\n"
        "from jaxcifar.data import datasets\n"
        "from jaxcifar.errors import InputError\n"
        "config = default().dataset\n"
        "config.name, config.pipeline = 'digits', 'tf'\n"
        "split = datasets.load(config)['train']\n"
        "try:\n"
        + "".join(f"    {line}\n" for line in use.splitlines())
        + "except InputError as error:\n"
        "    print(error)"
    )
    done = python(program)
    assert "pip install 'jaxcifar[tf]'" in done.stdout, done.stderr


def test_the_script_stores_the_arrays_without_tensorflow(cifar_archives, tmp_path):
    source = cifar_archives / CIFAR10.folders[0]
    script = REPOSITORY / "scripts" / "prepare_data.py"
    arguments = (script, source, f"--data_dir={tmp_path / 'new'}")
    done = python(WITHOUT_TENSORFLOW + PREPARE, *arguments)
    file = tmp_path / "new" / "jaxcifar" / "cifar10.npz"
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"prepared: {file}"
    assert "TensorFlow Datasets is not installed" in done.stdout
    with np.load(file) as arrays:
        assert cifar.digest(dict(arrays)) == CIFAR10.arrays_sha256


@pytest.mark.parametrize("index", [0, 1], ids=["cifar10", "cifar100"])
def test_tfds_loads_the_prepared_directory(tmp_path, monkeypatch, index):
    import tensorflow_datasets as tfds

    name = FORMATS[index].name
    fmt, files = small_formats(monkeypatch)[name]
    source, directory = tar(tmp_path / "a.tar.gz", files), tmp_path / "tfds"
    stored, path = cifar.prepare(source, str(directory))
    assert stored == directory / "jaxcifar" / f"{name}.npz"
    assert path.is_relative_to(directory / name)
    assert cifar.prepare(source, str(directory)) == [stored, path]

    with np.load(stored) as arrays:
        arrays = dict(arrays)
    for key, values in cifar_tfds.load(name, str(directory)).items():
        np.testing.assert_array_equal(values, arrays.pop(key))
    assert not arrays
    builder = tfds.builder(name, data_dir=str(directory))
    for labels in fmt.labels:
        assert tuple(builder.info.features[labels.key].names) == labels.class_names


def test_arrays_are_those_of_the_records():
    fmt, files = small_set(CIFAR100)
    arrays = cifar.to_arrays(fmt, files)
    for split, name in (("train", "train.bin"), ("test", "test.bin")):
        for index, record in enumerate(np.frombuffer(files[name], np.uint8).reshape(-1, 3074)):
            assert arrays[f"{split}_coarse_label"][index] == record[0]
            assert arrays[f"{split}_label"][index] == record[1]
            pixel = arrays[f"{split}_image"][index, 5, 7]
            assert pixel.tolist() == [record[2 + 1024 * c + 32 * 5 + 7] for c in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("fmt", FORMATS, ids=["cifar10", "cifar100"])
def test_tfds_gives_the_real_archives_byte_for_byte(cifar_archives, tmp_path, fmt):
    cifar.prepare(cifar_archives / fmt.folders[0], str(tmp_path))
    shutil.rmtree(tmp_path / "jaxcifar")
    config = section(name=fmt.name, data_dir=str(tmp_path), validation_size=5000)
    splits = datasets.load(config)
    *train, test = fmt.records
    labels = len(fmt.labels)
    for split, names in {"train": train, "test": [test]}.items():
        records = records_of(cifar_archives, fmt, names)
        whole = Split(
            records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1),
            records[:, labels - 1].astype(np.int32),
        )
        parts = {split: whole}
        if split == "train":
            parts["train"], parts["validation"] = hold_out(whole, 5000, seed=0)
        for part, expected in parts.items():
            np.testing.assert_array_equal(splits[part].images, expected.images)
            np.testing.assert_array_equal(splits[part].labels, expected.labels)
    num_classes = len(fmt.labels[-1].class_names)
    assert set(np.bincount(splits["validation"].labels)) == {5000 // num_classes}
