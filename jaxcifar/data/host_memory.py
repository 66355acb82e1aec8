"""The limit on data sets that are loaded into memory."""

import math
import os

from jaxcifar.errors import InputError


def check_fits(what: str, shape: tuple[int, ...]) -> None:
    """Checks that uint8 images of this shape fit in the machine's memory.

    Args:
      what: the images, for the error message.
      shape: shape of the whole array, [N, H, W, C].

    Raises:
      InputError: if they take more than three quarters of it.
    """
    needed, memory = math.prod(shape), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.75 * memory:
        raise InputError(
            f"{what}: {shape[0]:,} images of {shape[1]}x{shape[2]} pixels take "
            f"{needed / 2**30:,.1f} GiB, more than this machine's memory of {memory / 2**30:,.1f} "
            "GiB holds; set a smaller dataset.image_size or, for an image_folder, "
            "dataset.pipeline = 'tf'"
        )
