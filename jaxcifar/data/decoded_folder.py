"""Decodes a folder of images into memory with Pillow, so that batches can be made on the device.

Each image is resized once to `image_size`, see `fitting.fit`. TensorFlow is not needed.
"""

import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import logging
from PIL import Image

from jaxcifar.data import bad_images, exif, fitting
from jaxcifar.data.host_memory import check_fits
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.data.split import Split
from jaxcifar.errors import InputError

# By EXIF orientation: what makes the upright image of the stored one.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    split: FolderSplit,
    image_size: int,
    *,
    on_bad_image: str,
    max_bad_images: float = 1.0,
    exif_orientation: bool = False,
) -> Split:
    """Returns the images of a split, decoded and resized, in the split's order.

    Args:
      split: the files.
      image_size: height and width of the result, in pixels.
      on_bad_image: "error" or "skip", which leaves images out that cannot be decoded, with a
        warning that names the file.
      max_bad_images: largest share of the split's images that may be left out.
      exif_orientation: whether images are first turned as their EXIF data says.

    Raises:
      InputError: if the images do not fit in memory, a file cannot be read, one cannot be decoded
        and is not skipped, or too many cannot.
    """
    shape = (split.size, image_size, image_size, 3)
    check_fits(split.root, shape)
    images, good = np.zeros(shape, np.uint8), np.ones(split.size, bool)

    def decode_one(index: int) -> None:
        path = split.path(index)
        try:
            with open(path, "rb") as file:
                contents = file.read()
        except OSError as error:
            # Never skipped: storage that is no longer reachable is not a set of corrupt images.
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        try:
            images[index] = _decode(contents, image_size, exif_orientation)
        except Exception:  # Pillow's decoders raise many types
            bad_images.check_image(path, on_bad_image)
            good[index] = False

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # it would warn; `_decode` has a limit of its own
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                for _ in pool.map(decode_one, range(split.size)):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    if good.all():
        return Split(images, split.labels)
    bad = [split.path(index) for index in np.flatnonzero(~good)]
    for path in bad:
        logging.warning("%s cannot be decoded: left out", path)
    bad_images.check_share(split.root, bad, split.size, split.size, max_bad_images)
    return Split(images[good], split.labels[good])


def _decode(contents: bytes, image_size: int, exif_orientation: bool) -> np.ndarray:
    """Returns an image file's contents as uint8 [S, S, 3]."""
    with Image.open(io.BytesIO(contents)) as image:
        if image.width * image.height > fitting.MAX_PIXELS:
            raise ValueError("too many pixels")
        if image.mode == "F":
            raise ValueError("its levels have no known range")
        if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow would clip to 8
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("RGB")
        if exif_orientation and (turn := _TURNS.get(exif.orientation(contents))) is not None:
            image = image.transpose(turn)
        return np.asarray(fitting.fit(image, image_size))
