"""What Pillow and OpenCV make of eight images, see scripts/goldens/make_image_goldens.py."""

import runpy

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar.augment import pillow_ops
from tests.helpers import REPOSITORY

script = runpy.run_path(str(REPOSITORY / "scripts" / "goldens" / "make_image_goldens.py"))
PILLOW, OPENCV, FILL = script["PILLOW"], script["OPENCV"], script["FILL"]


def load():
    """Images and outputs [cases, 2, 32, 32, 3] of every case, in the order of the script."""
    with np.load(REPOSITORY / "tests" / "goldens" / "images.npz") as arrays:
        images, outputs = arrays["images"], arrays["outputs"]
    assert len(outputs) == len(PILLOW) + len(OPENCV)
    return images[[script["sources"](i) for i in range(len(outputs))]], outputs


def deviation(found, expected):
    """The differences in grey levels, of results that have the expected type and shape."""
    assert found.dtype == jnp.uint8 and found.shape == expected.shape
    return np.abs(np.asarray(found, np.int32) - expected)


def apply(image, name, magnitude=0.0, fill=0):
    """One operation of the AutoAugment family on one image."""
    operation = pillow_ops.operation(name, magnitude, *image.shape[:2])
    return np.asarray(jax.jit(pillow_ops.apply_operation, static_argnums=2)(image, operation, fill))
