"""NumPy files: what is read, and what each kind of unsuitable content is told."""

import numpy as np
import pytest

from jaxcifar.data.arrays import read
from jaxcifar.errors import InputError


def contents(**changes):
    """Arrays of two classes; None leaves one out."""
    random = np.random.RandomState(0)
    arrays = {
        "train_image": random.randint(0, 256, (10, 8, 8, 3), np.uint8),
        "train_label": np.arange(10) % 2,
        "test_image": random.randint(0, 256, (4, 8, 8, 3), np.uint8),
        "test_label": np.arange(4) % 2,
    }
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


def write(path, arrays):
    """Writes an .npz file, or the .npy files of a folder."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    return str(path)


@pytest.mark.parametrize("name", ["data.npz", "folder"])
def test_arrays_are_read_as_they_were_written(tmp_path, name):
    arrays = contents(class_names=np.array(["cat", "dög"]))
    train, test, class_names = read(write(tmp_path / name, arrays))
    for split, part in (train, "train"), (test, "test"):
        np.testing.assert_array_equal(split.images, arrays[f"{part}_image"])
        np.testing.assert_array_equal(split.labels, arrays[f"{part}_label"])
        assert split.labels.dtype == np.int32
    assert class_names == ("cat", "dög")
    assert isinstance(train.images, np.memmap) == (name == "folder")


def test_other_forms_of_the_same_arrays_are_read_alike(tmp_path):
    plain = contents()
    grey = plain["train_image"][..., 0]
    expected = read(write(tmp_path / "a.npz", contents(train_image=grey, test_image=grey[:4])))
    other = {
        "x_train": np.asfortranarray(grey[..., None]),
        "y_train": plain["train_label"].astype(np.uint8)[:, None],
        "test_images": grey[:4],
        "test_labels": plain["test_label"].astype(np.int16),
        "class_names": np.array([b"0", b"1"]),
        "notes": np.zeros(3),
    }
    found = read(write(tmp_path / "b.npz", other))
    assert found.class_names == expected.class_names == ("0", "1")
    for one, two in zip(found[:2], expected[:2], strict=True):
        assert one.fingerprint() == two.fingerprint()


def test_the_test_arrays_may_be_missing(tmp_path):
    path = write(tmp_path / "a.npz", contents(test_image=None, test_label=None))
    assert read(path).test is None


class Exploit:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


IMAGES, LABELS = contents()["train_image"], contents()["train_label"]
UNSUITABLE = {
    "float images": (
        {"train_image": IMAGES / 255},
        r"train_image: .* float64, must be uint8.*\* 2",
    ),
    "wide images": ({"train_image": IMAGES.astype(int)}, "int64, must be uint8; .*astype"),
    "bool images": ({"test_image": np.ones((4, 8, 8, 3), bool)}, "test_image: .* bool, must be ui"),
    "channels first": ({"train_image": IMAGES.transpose(0, 3, 1, 2)}, r"transpose\(0, 2, 3, 1\)"),
    "flat images": ({"train_image": IMAGES.reshape(10, -1)}, r"\(10, 192\), must be .*reshape"),
    "RGBA": ({"train_image": np.zeros((10, 8, 8, 4), np.uint8)}, r"fourth channel out"),
    "other shape": ({"test_image": np.zeros((4, 9, 9, 3), np.uint8)}, r"\(8, 8, 3\).*\(9, 9, 3\)"),
    "no training images": ({"train_image": IMAGES[:0]}, "train_image: is empty"),
    "no pixels": ({"train_image": IMAGES[:, :0]}, "train_image: is empty"),
    "no labels": ({"train_label": LABELS[:0]}, "train_label: is empty"),
    "one label less": ({"train_label": LABELS[1:]}, "10 images in train_image, but 9 labels"),
    "text labels": ({"train_label": LABELS.astype(str)}, r"np.unique\(labels, return_inverse=Tru"),
    "float labels": ({"train_label": LABELS / 1}, r"float64, must be integers; .*astype"),
    "one-hot": ({"train_label": np.eye(2, dtype=int)[LABELS]}, r"\(10, 2\), must be \[N\].*argmax"),
    "negative": ({"train_label": LABELS - 1}, "has label -1, must be from 0 on"),
    "from 1": ({"train_label": LABELS + 1, "test_label": None, "test_image": None}, "subtract 1"),
    "gap": ({"train_label": 2 * LABELS}, "no image has label 1, though labels go up to 2"),
    "huge": ({"train_label": LABELS * 2**40}, f"has label {2**40}; labels must number"),
    "unseen": ({"test_label": np.array([0, 1, 2, 1])}, "has label 2, but those of train_label go"),
    "names": ({"class_names": np.array(["a", "b", "c"])}, "3 class_names, but labels up to 1"),
    "numbers": ({"class_names": np.arange(2)}, r"class_names: has type int64 .* must be text"),
    "latin names": ({"class_names": np.array([b"a", b"\xff"])}, "class_names: not UTF-8"),
    "no images": ({"train_image": None}, "has no train_image; dataset.data_dir must be an .npz"),
    "no test labels": ({"test_label": None}, "has no test_label"),
    "both names": ({"x_train": IMAGES}, "has both train_image and x_train"),
    "objects": ({"train_label": np.array([Exploit()] * 10)}, "holds Python objects, which are ne"),
    "object text": ({"class_names": np.array(["a", "b"], object)}, "class_names.*Python objects"),
}


@pytest.mark.parametrize("name", UNSUITABLE)
@pytest.mark.parametrize("file", ["a.npz", "a"])
def test_unsuitable_arrays_are_named(tmp_path, name, file):
    changes, message = UNSUITABLE[name]
    path = write(tmp_path / file, contents(**changes))
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert path in str(caught.value)


def test_paths_that_hold_no_arrays_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("text")
    write(tmp_path / "texts", contents())
    (tmp_path / "texts" / "train_image.npy").write_text("text")
    (tmp_path / "images.npy").write_bytes(b"")
    np.savez(tmp_path / "others.npz", a=np.zeros(1), b=np.zeros(1))
    for path, message in {
        "": "needs a path, --config.dataset.data_dir=PATH, of an .npz file",
        "nowhere": "no such file or folder",
        "images.npy": "not an .npz file",
        "empty": "has nothing; dataset.data_dir must be",
        "others.npz": "has a, b; dataset.data_dir must be",
        "text.npz": "not a readable NumPy file",
        "texts": "train_image.npy: not a readable NumPy file",
    }.items():
        with pytest.raises(InputError, match=message):
            read(str(tmp_path / path) if path else "")


@pytest.mark.parametrize("share", [0.2, 0.9])
@pytest.mark.parametrize("name", ["a.npz", "a"])
def test_truncated_files_are_named(tmp_path, name, share):
    path = tmp_path / name
    write(path, contents())
    file = path if path.is_file() else path / "train_image.npy"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(InputError, match="not a readable NumPy file"):
        read(str(path))


def test_a_flipped_bit_in_an_npz_file_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    write(path, contents())
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a readable NumPy file"):
        read(str(path))
