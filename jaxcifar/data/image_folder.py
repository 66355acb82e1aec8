"""Lists the images of a folder in ImageNet's layout.

There is one folder per class, with image files in it, and training and evaluation have the same
classes:

    ROOT/train/CLASS/*.JPEG    ROOT/val/CLASS/*.JPEG    (or .jpg, .jpeg, .png in any case)

Labels number the class names in sorted order. `folder_pipeline` makes batches of the images.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from jaxcifar.data.split import Split, hold_out
from jaxcifar.errors import InputError

_EXTENSIONS = (".jpeg", ".jpg", ".png")
_LAYOUT = "ROOT/train/CLASS/*.JPEG and ROOT/val/CLASS/*.JPEG"


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

    def fingerprint(self) -> str:
        """A SHA-256 over all file names and sizes, in hexadecimal; looks up each file's size."""
        digest = hashlib.sha256()
        for index, name in enumerate(self.names):
            digest.update(os.fsencode(f"{name}\0{os.path.getsize(self.path(index))}\n"))
        return digest.hexdigest()


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
    classes = _list(os.path.join(root, part), os.DirEntry.is_dir)
    if not classes:
        raise InputError(
            f"{os.path.join(root, part)} has no class folders; expected {_LAYOUT} (the official "
            f"validation archive has none either: sort its images into one folder per class)"
        )
    names, labels = [], []
    for label, class_name in enumerate(classes):
        folder = os.path.join(root, part, class_name)
        files = _list(folder, lambda entry: entry.name.lower().endswith(_EXTENSIONS))
        if not files:
            raise InputError(f"{folder} has no images ({', '.join(_EXTENSIONS)})")
        names += [os.path.join(part, class_name, file) for file in files]
        labels += [label] * len(files)
    return FolderSplit(root, tuple(names), np.array(labels, np.int32), tuple(classes))


def _list(folder: str, wanted: Callable[[os.DirEntry], bool]) -> list[str]:
    """The sorted names of the entries of a folder that are wanted and not hidden."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and wanted(e))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; expected {_LAYOUT}") from error
