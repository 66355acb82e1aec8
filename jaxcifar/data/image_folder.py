"""Lists the images of a folder in ImageNet's layout.

There is one folder per class, with image files in it, and training and evaluation have the same
classes:

    ROOT/train/CLASS/*.JPEG    ROOT/val/CLASS/*.JPEG    (or another of EXTENSIONS, in any case)

Labels number the class names in sorted order. Hidden entries and what operating systems leave
behind, such as `__MACOSX` and `Thumbs.db`, are passed over; a warning counts all other files that
are not read. `folder_pipeline` makes batches of the images.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import ClassVar

import numpy as np
from absl import logging

from jaxcifar.data import file_hashes
from jaxcifar.data.split import Split, hold_out
from jaxcifar.errors import InputError
from jaxcifar.regular_files import check_regular

EXTENSIONS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif")

_LAYOUT = "ROOT/train/CLASS/*.JPEG and ROOT/val/CLASS/*.JPEG"
_LEFT_BEHIND = (
    "__macosx thumbs.db ehthumbs.db desktop.ini icon\r @eadir $recycle.bin lost+found __pycache__"
).split(" ")
_MANY = 100  # entries of a folder that are looked at for a hint


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSplit:
    """The files of a split; images are decoded only as batches need them.

    Attributes:
      root: the folder that `names` are relative to.
      names: N files, sorted by class, then by name.
      labels: int32 [N], indices into `class_names`.
      class_names: the names of the class folders, sorted.
      on_device: always False: the images do not fit on a device.
    """

    root: str
    names: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    on_device: ClassVar[bool] = False

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.names)

    def path(self, index: int) -> str:
        """The path of one example's file."""
        return os.path.join(self.root, self.names[index])

    def subset(self, indices: np.ndarray) -> "FolderSplit":
        """The split that has only the examples at `indices`, int [M], in that order."""
        names = tuple(self.names[index] for index in indices)
        return dataclasses.replace(self, names=names, labels=self.labels[indices])

    def has_at_most(self, num_bytes: int) -> bool:
        """Returns whether the files have at most so many bytes together; stops where they do."""
        sizes = accumulate(os.path.getsize(self.path(index)) for index in range(self.size))
        return all(size <= num_bytes for size in sizes)

    def fingerprint(self, kind: str = "contents") -> str:
        """Returns a kind, a colon and a SHA-256 over what it covers of the files.

        Args:
          kind: one of `file_hashes.KINDS`.

        Raises:
          OSError: if a file cannot be read.
        """
        return f"{kind}:{file_hashes.hash_files(self.root, self.names, kind)}"


def scan(root: str, test_size: int = 0) -> dict[str, FolderSplit]:
    """Returns the folder's images as the splits "train" and "test"; the latter is ROOT/val.

    Args:
      root: the folder.
      test_size: for a folder without ROOT/val, the number of images of ROOT/train that become the
        test split, stratified by class; 0 otherwise.

    Raises:
      InputError: if a folder is missing, unreadable or without images, if the classes of the two
        splits differ, or if there is a ROOT/val although `test_size` is set.
    """
    root = os.path.expanduser(os.fspath(root))
    train = _scan_split(root, "train")
    has_val = os.path.lexists(os.path.join(root, "val"))
    if test_size:
        if has_val:
            raise InputError(
                f"dataset.test_size = {test_size}: must be 0, as {root} has the test split val/"
            )
        train, test = hold_out_files(train, test_size, 0, "dataset.test_size")
        return {"train": train, "test": test}
    try:
        test = _scan_split(root, "val")
    except InputError as error:
        if has_val:
            raise
        raise InputError(
            f"{error}; or set dataset.test_size to the number of images of train/ that become the "
            "test split"
        ) from error
    for part, other, lacking in (("train", train, test), ("val", test, train)):
        missing = sorted(set(other.class_names) - set(lacking.class_names))
        if missing:
            raise InputError(
                f"{root}: {len(missing)} classes are only in {part}/: {', '.join(missing[:5])}"
                f"{', ...' if len(missing) > 5 else ''}; expected {_LAYOUT} with the same classes"
            )
    return {"train": train, "test": test}


def hold_out_files(
    split: FolderSplit, size: int, seed: int, field: str = "dataset.validation_size"
) -> tuple[FolderSplit, FolderSplit]:
    """Divides a split in two as `hold_out` does, with the same arguments and errors."""
    indices = Split(np.arange(split.size), split.labels)
    kept, held_out = hold_out(indices, size, seed, field)
    return split.subset(kept.images), split.subset(held_out.images)


def _scan_split(root: str, part: str) -> FolderSplit:
    base = os.path.join(root, part)
    entries = _list(base, hint=_where_the_data_is(root, part))
    classes = [entry.name for entry in entries if entry.is_dir()]
    if not classes:
        raise InputError(
            f"{base} has no class folders; expected {_LAYOUT} (the official "
            f"validation archive has none either: sort its images into one folder per class)"
        )
    ignored = Counter(
        f"{_kind(entry.name)} outside the class folders" for entry in entries if not entry.is_dir()
    )
    names, labels = [], []
    for label, class_name in enumerate(classes):
        files, others = _scan_class(os.path.join(base, class_name))
        names += [os.path.join(part, class_name, file) for file in files]
        labels += [label] * len(files)
        ignored += others
    if ignored:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in ignored.most_common())
        logging.warning(
            "%s: %s files are ignored: %s; images are %s in %s/CLASS",
            *(base, f"{ignored.total():,}", kinds, ", ".join(EXTENSIONS), part),
        )
    return FolderSplit(root, tuple(names), np.array(labels, np.int32), tuple(classes))


def _scan_class(folder: str) -> tuple[list[str], Counter[str]]:
    """Returns the names of a class's images, and how many other files of which kinds there are."""
    files = []
    ignored: Counter[str] = Counter()
    for entry in _list(folder):
        if entry.name.lower().endswith(EXTENSIONS):
            _check_is_file(entry)
            files.append(entry.name)
        elif entry.is_dir():
            ignored.update(f"{_kind(name)} in subfolders" for name in _images_below(entry.path))
        else:
            ignored[_kind(entry.name)] += 1
    if not files:
        raise InputError(f"{folder} has no images ({', '.join(EXTENSIONS)}){_what_else(folder)}")
    return files, ignored


def _check_is_file(entry: os.DirEntry) -> None:
    """Refuses what cannot be read as a file: a pipe would be waited for without end."""
    if entry.is_file():
        return
    if entry.is_dir():
        raise InputError(
            f"{entry.path} is a directory, but has the name of an image: rename or remove it"
        )
    check_regular(entry.path)
    try:
        os.stat(entry.path)
    except OSError as error:
        raise InputError(f"{entry.path} cannot be read: {error.strerror}") from error


def _images_below(folder: str) -> Iterator[str]:
    """Yields the paths of the images in a folder, its subfolders, and so on."""
    for directory, subfolders, files in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not _is_left_behind(name))
        for name in sorted(files):
            if name.lower().endswith(EXTENSIONS) and not _is_left_behind(name):
                yield os.path.join(directory, name)


def _what_else(folder: str) -> str:
    """Returns what a class folder without images has instead, as the end of a sentence."""
    below = next(_images_below(folder), None)
    if below:
        return (
            f", but {os.path.dirname(below)} has: images must be in the class folder itself; "
            f"expected {_LAYOUT}"
        )
    kinds = Counter(_kind(entry.name) for entry in _list(folder) if entry.is_file())
    if kinds:
        return f", only {', '.join(f'{count:,} {kind}' for kind, count in kinds.most_common())}"
    return ""


def _where_the_data_is(root: str, part: str) -> str:
    """Returns where the data of a folder without ROOT/train or ROOT/val seems to be, or ""."""
    if os.path.isdir(os.path.join(root, part)):
        return ""

    def has_splits(folder: str) -> bool:
        return all(os.path.isdir(os.path.join(folder, name)) for name in ("train", "val"))

    parent = os.path.dirname(os.path.abspath(root))
    above = [parent, os.path.dirname(parent)]
    below = _subfolders(root)
    for relation, folders in (
        ("above it", above),
        ("below it", below),
        ("below it", (path for folder in below for path in _subfolders(folder))),
    ):
        for folder in filter(has_splits, folders):
            return f"; {folder}, {relation}, has train/ and val/: set dataset.data_dir to that"
    names = {"train": ("training",), "val": ("valid", "validation", "test")}[part]
    for name in (part, *names):
        for folder in map(os.path.basename, below):
            if folder.lower() == name:
                return f"; there is {folder}/: rename it to {part}/, or make a link of that name"
    if part == "train" and below and next(_images_below(below[0]), None):
        return "; its folders hold images themselves, and must be in train/ and val/"
    return ""


def _subfolders(folder: str) -> list[str]:
    """The sorted paths of some subfolders of a folder; [] if it cannot be read."""
    try:
        entries = _list(folder)[:_MANY]
    except InputError:
        return []
    return [entry.path for entry in entries if entry.is_dir()]


def _kind(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without extension"


def _is_left_behind(name: str) -> bool:
    """Whether an entry is hidden, or left behind by an operating system or an archiver."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def _list(folder: str, hint: str = "") -> list[os.DirEntry]:
    """The entries of a folder that somebody has put there, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not _is_left_behind(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; expected {_LAYOUT}{hint}") from error
