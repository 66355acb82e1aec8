"""Randomly damaged files are read correctly or refused, within limited time."""

import gzip
import io
import time

import numpy as np
import pytest
from PIL import Image

from jaxcifar.data.cifar_archives import read, verify
from jaxcifar.data.cifar_format import CIFAR10, CIFAR100
from jaxcifar.data.folder_pipeline import eval_batches
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.errors import InputError
from tests.data.test_cifar_archives import python_version, sheets, small_set, tar

SECONDS = 20  # limit in processor time, for work that takes milliseconds


def mutated(data: bytes, seed: int) -> bytes:
    """Returns the data with bits flipped, or bytes removed, inserted, overwritten or swapped."""
    random = np.random.RandomState(seed)
    # Headers are short: half of the damage is at the start.
    reach = min(len(data), 1024) if random.rand() < 0.5 else len(data)
    at, size = random.randint(reach), random.randint(1, 200)
    other = random.randint(len(data))
    kind = random.randint(6)
    if kind == 0:
        flipped = bytearray(data)
        for place in random.randint(0, reach, random.randint(1, 9)):
            flipped[place] ^= 1 << random.randint(8)
        return bytes(flipped)
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + random.bytes(size) + data[at:]
    if kind == 3:
        return data[:at] + data[at + size :]
    if kind == 4:
        return data[:at] + bytes([random.choice([0, 255])]) * size + data[at + size :]
    low, high = sorted((at, other))
    size = min(size, high - low, len(data) - high)
    swapped = bytearray(data)
    swapped[low : low + size], swapped[high : high + size] = (
        data[high : high + size],
        data[low : low + size],
    )
    return bytes(swapped)


def test_nearly_all_mutations_change_the_data():
    data = np.random.RandomState(0).bytes(5000)
    assert sum(mutated(data, seed) != data for seed in range(1000)) > 990


@pytest.fixture(scope="module")
def sets():
    return small_set(CIFAR10), small_set(CIFAR100)


@pytest.fixture
def read_bytes(sets, tmp_path):
    """Reads an archive from its bytes; returns the files in it, or None if it is refused."""
    path = tmp_path / "archive"

    def call(data):
        path.write_bytes(data)
        try:
            (files,) = read(path, [fmt for fmt, _ in sets]).values()
            return files
        except InputError as error:
            assert str(path) in str(error) or any(name in str(error) for name in FILES)
            assert len(str(error).splitlines()) < 8
            return None

    return call


FILES = ["batch", "meta", "train", "test", "names", "lables"]


def original(sets, tmp_path, form):
    """Returns the bytes of an intact archive, and the files of the binary version that it holds."""
    (fmt, files), (fmt100, files100) = sets
    held = files
    if form == "npm":
        contents = sheets(fmt, files)
    elif form == "python":
        contents, held = python_version(fmt100, files100), files100
    else:
        contents = files
    data = tar(tmp_path / "original", contents).read_bytes()
    return (data if form == "tar.gz" else gzip.decompress(data)), held


# The compressed form has a checksum over everything; without one, damage reaches the inner readers.
@pytest.mark.parametrize(
    "form, count", [("tar.gz", 150), ("tar", 200), ("python", 200), ("npm", 150)]
)
def test_mutated_archives_are_refused_or_read_alike(sets, tmp_path, read_bytes, form, count):
    data, held = original(sets, tmp_path, form)
    assert read_bytes(data) == held
    refused = 0
    for seed in range(count):
        start = time.process_time()
        try:
            found = read_bytes(mutated(data, seed))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        # An archive that is not refused differs only in bytes that are not used, such as padding.
        assert found in (None, held), f"seed {seed}: not what was published"
        assert time.process_time() - start < SECONDS, f"seed {seed}"
        refused += found is None
    assert refused > count / 2


def test_mutated_records_are_refused(sets):
    fmt, files = sets[0]
    for seed in range(100):
        data = mutated(files["test_batch.bin"], seed)
        if data != files["test_batch.bin"]:
            with pytest.raises(InputError, match="test_batch.bin: "):
                verify(fmt, "test_batch.bin", data)
                pytest.fail(f"seed {seed} is accepted")


@pytest.fixture
def folder(tmp_path):
    """Writes files; returns the images and masks of an evaluation that skips bad images."""

    def call(files):
        for number, data in enumerate(files):
            (tmp_path / f"{number}.jpg").write_bytes(data)
        names = tuple(f"{number}.jpg" for number in range(len(files)))
        split = FolderSplit(str(tmp_path), names, np.zeros(len(files), np.int32), ("class",))
        found = eval_batches(split, image_size=24, resize=24, batch_size=20, on_bad_image="skip")
        found = list(found)
        return tuple(
            np.concatenate([batch[name] for batch in found])[: len(files)]
            for name in ("image", "mask")
        )

    return call


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_mutated_images_are_decoded_or_masked(folder, form):
    pixels = np.random.RandomState(0).randint(0, 256, (24, 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    data = buffer.getvalue()
    files = [data, *(mutated(data, seed) for seed in range(100))]
    start = time.process_time()
    images, masks = folder(files)
    assert time.process_time() - start < 2 * SECONDS
    assert masks[0] and not images[~masks].any()
    assert masks.sum() < 90 and (form == "PNG" or masks.sum() > 20)
    for seed in np.flatnonzero(masks[1:]):
        if form == "PNG":  # which has checksums
            np.testing.assert_array_equal(images[1 + seed], images[0], f"seed {seed}")
        elif len(files[1 + seed]) < 0.9 * len(data):  # which has none, but an end
            assert not data.startswith(files[1 + seed]), f"seed {seed}: cut short"
