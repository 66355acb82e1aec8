"""Errors about images that cannot be decoded: which, how many of how many, and what to do."""

from collections.abc import Collection

import numpy as np

from jaxcifar.errors import InputError

_NAMED = 3  # files that a message names


def check_image(path: str, on_bad_image: str) -> None:
    """Checks that an image that was not decoded may be skipped.

    Args:
      path: its file.
      on_bad_image: "error" or "skip".

    Raises:
      InputError: if it may not be skipped, or if the file cannot even be read.
    """
    try:
        open(path, "rb").close()
    except OSError as error:
        # Never skipped: storage that is no longer reachable is not a set of corrupt images.
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if on_bad_image == "error":
        raise InputError(
            f"{path} cannot be decoded: it is empty, truncated, huge, or not a JPEG, PNG, WebP, "
            "BMP or GIF; replace it, or skip such images with --config.dataset.on_bad_image=skip"
        )


def check_share(
    where: str, bad: int | Collection[str], read: int, size: int, max_bad_images: float
) -> None:
    """Checks that not too many images of a split are skipped.

    Args:
      where: the folder or the split.
      bad: the files that cannot be decoded, or their number.
      read: number of images read so far.
      size: number of images in the split.
      max_bad_images: largest share of the split's images that may be skipped.

    Raises:
      InputError: if there are more, or no other images; it says how many of how many, and names
        some of the files.
    """
    names, count = ((), bad) if isinstance(bad, int) else (bad, len(bad))
    if count == size:
        raise InputError(f"{where}: none of its {size:,} images can be decoded{_examples(names)}")
    if count / size <= max_bad_images:
        return
    of = f"its {size:,} images" if read == size else f"the {read:,} images read, of {size:,},"
    raise InputError(
        f"{where}: {count:,} of {of} cannot be decoded{_examples(names)}; at most "
        f"dataset.max_bad_images = {max_bad_images:g} of them may be skipped.\nReplace them, or "
        "allow a larger share."
    )


def check_found(where: str, shown: np.ndarray, bad: Collection[str]) -> None:
    """Checks that another image was found in place of each bad one.

    Args:
      where: the folder.
      shown: index of the image in each slot, int64 [B]; -1 if none was found.
      bad: the files that cannot be decoded.

    Raises:
      InputError: if there is a slot without an image.
    """
    if (shown < 0).any():
        raise InputError(
            f"{where}: nothing to train on: none of the images tried in a row can be decoded"
            f"{_examples(bad)}"
        )


def _examples(names: Collection[str]) -> str:
    if not names:
        return ""
    listed = ", ".join(sorted(names)[:_NAMED])
    return f" ({listed}{', ...' if len(names) > _NAMED else ''})"
