"""Checks that a resumed run has the data that it was started with.

The fingerprint of arrays covers all of their bytes. That of a folder of images begins with its
kind, one of `file_hashes.KINDS`, as reading all files may take long.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import jax

from jaxcifar.data import datasets, file_hashes, image_folder
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.split import Split
from jaxcifar.errors import InputError
from jaxcifar.resilience import manifest

_CHEAP = 2 * 2**30  # bytes that can be read in some seconds
_NOTICEABLE = 1.0  # seconds
_STRENGTH = {kind: strength for strength, kind in enumerate(file_hashes.KINDS)}
_OLD_EXTENSIONS = (".jpeg", ".jpg", ".png")


def check_splits(
    workdir: Path, splits: Mapping[str, Split | FolderSplit], kind: str
) -> dict[str, str]:
    """Returns the fingerprint of each split, to be recorded, once it agrees with the run's.

    A folder of images is compared in the kind that the run's manifest has. If the kind that is
    wanted covers more, the fingerprint that is returned is of that kind.

    Args:
      workdir: directory of the run.
      splits: splits of the data set by name.
      kind: `dataset.fingerprint` of the config.

    Raises:
      InputError: if a split differs from that of the run.
      OSError: if a file cannot be read.
    """
    saved = manifest.read(workdir).get("data", {})
    folders = {name: split for name, split in splits.items() if isinstance(split, FolderSplit)}
    wanted = {name: _resolve(split, kind) for name, split in folders.items()}
    kinds = {name: _kind(workdir, saved[name]) for name in folders if name in saved}
    found = _fingerprints(splits, wanted | kinds)
    # Before there were kinds, the fingerprint was that of the names without its kind.
    comparable = {
        name: found[name].removeprefix("names:") if ":" not in value else found[name]
        for name, value in saved.items()
        if name in found
    }
    try:
        manifest.check_data(workdir, comparable)
    except InputError as error:
        raise InputError(f"{error}{_passed_over_before(folders, saved)}") from error
    weaker = {name for name in kinds if _STRENGTH[kinds[name]] < _STRENGTH[wanted[name]]}
    if weaker:
        covered = file_hashes.KINDS[kinds[min(weaker)]]
        _print(
            f"the run in {workdir} was started with a fingerprint of {covered} only: they agree; "
            f"from now on the fingerprint is of {file_hashes.KINDS[wanted[min(weaker)]]}"
        )
        stronger = {name: split for name, split in splits.items() if name in weaker}
        found |= _fingerprints(stronger, wanted)
    return found


def _resolve(split: FolderSplit, kind: str) -> str:
    """The kind that `dataset.fingerprint` means for a split."""
    if kind == "auto":
        return "contents" if split.has_at_most(_CHEAP) else "sample"
    return kind


def _kind(workdir: Path, fingerprint: str) -> str:
    kind = fingerprint.rpartition(":")[0] or "names"
    if kind not in _STRENGTH:
        raise InputError(
            f"{workdir}/manifest.json has a fingerprint of the kind {kind!r}, which is unknown; "
            f"known: {', '.join(_STRENGTH)}"
        )
    return kind


def _fingerprints(
    splits: Mapping[str, Split | FolderSplit], kinds: Mapping[str, str]
) -> dict[str, str]:
    """The fingerprint of each split; prints what takes long."""
    found: dict[str, str] = {}
    for name, split in splits.items():
        what = f"{split.size:,} {name} images"
        if kinds.get(name) == "contents" and not split.has_at_most(_CHEAP):
            _print(f"reading all of the {what} for their fingerprint (dataset.fingerprint)")
        start = time.perf_counter()
        found |= datasets.fingerprints({name: split}, kinds)
        seconds = time.perf_counter() - start
        if name in kinds and seconds > _NOTICEABLE:
            covered = file_hashes.KINDS[kinds[name]]
            _print(f"fingerprint of the {what} in {seconds:.1f} s, of {covered}")
    return found


def _passed_over_before(folders: Mapping[str, FolderSplit], saved: Mapping[str, str]) -> str:
    """What to do if the run was started when fewer kinds of files were read; "" otherwise."""
    old = [folders[name] for name, value in saved.items() if name in folders and ":" not in value]
    count = sum(not name.lower().endswith(_OLD_EXTENSIONS) for s in old for name in s.names)
    if not count:
        return ""
    kinds = ", ".join(sorted(set(image_folder.EXTENSIONS) - set(_OLD_EXTENSIONS)))
    return (
        f"\nThe run was started by a version that did not read {kinds} files ({count:,} here): to "
        "resume it, move them to another folder."
    )


def _print(line: str) -> None:
    if jax.process_index() == 0:
        print(line, flush=True)
