"""Near-duplicates between two sets of images, by a perceptual hash.

Barz and Denzler 2020, "Do We Train on Test Data? Purging CIFAR of Near-Duplicates", found 3.3 % of
CIFAR-10's test images and 10 % of CIFAR-100's to have one among the training images, by features of
a network and the judgement of people.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dctn

_SIDE, _LOW = 32, 8  # of the image that is hashed, and of the frequencies that are kept
_CHUNK = 200


class Pair(NamedTuple):
    """Two images that are nearly the same.

    Attributes:
      first, second: their indices.
      distance: number of bits in which their hashes differ, out of 63.
      correlation: of their pixels.
    """

    first: int
    second: int
    distance: int
    correlation: float


def hashes(images: np.ndarray) -> np.ndarray:
    """Returns the perceptual hash of each image, uint64 [N].

    Each bit tells whether one of the 63 lowest frequencies of the cosine transform of the grey
    image is above their median (Zauner 2010, "Implementation and Benchmarking of Perceptual Image
    Hash Functions", section 3.2.1); the mean brightness is left out.

    Args:
      images: uint8 [N, H, W, C].
    """
    grey = _small(images.mean(axis=-1))
    low = dctn(grey, axes=(1, 2), norm="ortho")[:, :_LOW, :_LOW].reshape(len(grey), -1)[:, 1:]
    bits = low > np.median(low, axis=1, keepdims=True)
    return bits @ (np.uint64(1) << np.arange(bits.shape[1], dtype=np.uint64))


def find(
    first: np.ndarray,
    second: np.ndarray,
    *,
    max_distance: int = 10,
    min_correlation: float = 0.9,
) -> list[Pair]:
    """Returns for each image of the first set the most similar one of the second, if it is near.

    A pair must pass both tests: hashes alone take many pairs of smooth images for the same.

    Args:
      first: uint8 [N, H, W, C].
      second: uint8 [M, H, W, C].
      max_distance: largest number of different bits.
      min_correlation: least correlation of the pixels.
    """
    ours, theirs = hashes(first), hashes(second)
    pixels = [_centred(images) for images in (first, second)]
    pairs = []
    for start in range(0, len(first), _CHUNK):
        distances = np.bitwise_count(ours[start : start + _CHUNK, None] ^ theirs)
        for row, column_distances in enumerate(distances):
            near = np.flatnonzero(column_distances <= max_distance)
            if not len(near):
                continue
            correlations = pixels[1][near] @ pixels[0][start + row]
            best = int(correlations.argmax())
            if correlations[best] >= min_correlation:
                index = int(near[best])
                distance = int(column_distances[index])
                pairs.append(Pair(start + row, index, distance, float(correlations[best])))
    return pairs


def _small(grey: np.ndarray) -> np.ndarray:
    """Grey images [N, H, W] as float32 [N, 32, 32]."""
    if grey.shape[1:] == (_SIDE, _SIDE):
        return grey.astype(np.float32)
    size = (_SIDE, _SIDE)
    return np.array(
        [
            np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BOX))
            for image in grey
        ]
    )


def _centred(images: np.ndarray) -> np.ndarray:
    """Pixels [N, H * W * C] less their mean, with length 1, so that products are correlations."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
