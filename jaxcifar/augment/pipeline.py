"""From the uint8 images of a batch to what the network is fed, in JAX, inside the jitted step.

Cropping and flipping come before, in the input pipeline.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxcifar.augment import mixing, policies
from jaxcifar.data.datasets import DatasetInfo
from jaxcifar.errors import InputError, unknown

# (key, device, images, labels, mask) -> (float images, float targets or None), `create_augment`'s.
Augment = Callable[..., tuple[jax.Array, jax.Array | None]]


def create_augment(config: ConfigDict, info: DatasetInfo) -> Augment:
    """Returns the function that makes a device's share of a batch ready for training.

    It takes a key, the same on all devices and another at each step; the index of the device;
    images, uint8 [B, H, W, C]; labels, int32 [B]; and a mask, bool [B], of those that are examples,
    or None. It returns float32 images [B, H, W, C], after the policy, normalisation, erasing and
    mixing, and float32 targets [B, classes], or None where the labels say it all. A policy and an
    erasure depend on the image's place in the whole batch, not on the number of devices; images are
    mixed with those of the same device.
    """
    policy = create_policy(config.augment)
    augment, classes = config.augment, info.num_classes
    smoothing = config.train.label_smoothing

    def run(
        key: jax.Array,
        device: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        places = device * len(images) + jnp.arange(len(images))

        def keys(use: int) -> jax.Array:
            return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, use), places)

        if policy:
            images = jax.vmap(policy)(keys(0), images)
        images = normalize(images, info.mean, info.std)
        if augment.cutout_size:
            images = jax.vmap(cutout, (0, 0, None))(keys(1), images, augment.cutout_size)
        if augment.erasing_probability:
            images = jax.vmap(erase, (0, 0, None))(keys(2), images, augment.erasing_probability)

        mixes = augment.mixup_alpha or augment.cutmix_alpha
        targets = jax.nn.one_hot(labels, classes) if mixes or smoothing else None
        if mixes:
            images, targets = mixing.mix(
                jax.random.fold_in(key, 3),
                device,
                images,
                targets,
                mask,
                mixup_alpha=augment.mixup_alpha,
                cutmix_alpha=augment.cutmix_alpha,
                probability=augment.mix_probability,
                cutmix_share=augment.cutmix_share,
            )
        if smoothing:
            # Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
            targets = optax.smooth_labels(targets, smoothing)
        return images, targets

    return run


def create_policy(augment: ConfigDict) -> policies.Policy | None:
    """Returns the policy that the config's `augment` section names, or None.

    Raises:
      InputError: if there is no such policy, or its fields cannot be.
    """
    fill = augment.fill
    makers: dict[str, Callable[[], policies.Policy | None]] = {
        "none": lambda: None,
        "autoaugment_cifar10": lambda: policies.auto_augment("cifar10", fill),
        "autoaugment_imagenet": lambda: policies.auto_augment("imagenet", fill),
        "randaugment": lambda: policies.rand_augment(augment.num_ops, augment.magnitude, fill),
        "trivialaugment": lambda: policies.trivial_augment_wide(fill),
        "one_of_groups": lambda: policies.one_of_groups(
            augment.groups or policies.DEFAULT_GROUPS, fill
        ),
    }
    if augment.policy not in makers:
        raise unknown("augment.policy", augment.policy, makers)
    try:
        return makers[augment.policy]()
    except InputError as error:
        raise InputError(f"augment.policy = {augment.policy!r}: {error}") from error


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Returns float32 images with the data set's mean taken off and its deviation made one.

    Args:
      images: uint8 [B, H, W, C].
      mean: of each channel, on the scale from 0 to 1.
      std: standard deviation of each channel over all pixels, on the same scale.
    """
    scale = 255.0 * jnp.array(std, jnp.float32)
    offset = jnp.array(mean, jnp.float32) / jnp.array(std, jnp.float32)
    return images.astype(jnp.float32) / scale - offset


def crop_corner(key: jax.Array, padding: int) -> jax.Array:
    """Draws the first row and column, int32 [2], that `crop` keeps.

    He et al. 2015, section 4.2.
    """
    return jax.random.randint(key, (2,), 0, 2 * padding + 1)


def crop(corner: jax.Array, image: jax.Array, padding: int) -> jax.Array:
    """Returns an image [H, W, C] padded with zeros on all sides and cropped back.

    Args:
      corner: the first row and column of the padded image that are kept, from 0 to 2 * padding.
      image: to crop.
      padding: pixels on a side.
    """
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return jax.lax.dynamic_slice(padded, (*corner, 0), image.shape)


def cutout(key: jax.Array, image: jax.Array, size: int) -> jax.Array:
    """Returns a normalised image [H, W, C] with a square of `size` pixels at the mean, 0.

    DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout",
    section 3: the square's centre is any pixel, so part of it may lie outside.
    """
    height, width, _ = image.shape
    centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    top, left = centre - size // 2
    return jnp.where(rectangle(image, top, left, size, size), 0.0, image)


def erase(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Returns a normalised image [H, W, C], by chance with a rectangle at the mean, 0.

    Zhong et al. 2017, "Random Erasing Data Augmentation", section 3.2: 2 to 40 % of the area, with
    an aspect ratio from 0.3 to 1 / 0.3, here evenly on the logarithm as in torchvision. A side that
    would be longer than the image's is cut, where the paper draws again.
    """
    height, width, _ = image.shape
    chance, shape, place = jax.random.split(key, 3)
    area, ratio = jax.random.uniform(shape, (2,))
    area = (0.02 + 0.38 * area) * height * width
    ratio = jnp.exp((2 * ratio - 1) * jnp.log(1 / 0.3))
    sides = jnp.sqrt(area * jnp.array([ratio, 1 / ratio]))
    sides = jnp.clip(jnp.round(sides), 1, jnp.array([height, width])).astype(jnp.int32)
    corner = jax.random.randint(place, (2,), 0, jnp.array([height, width]) - sides + 1)
    erased = jnp.where(rectangle(image, *corner, *sides), 0.0, image)
    return jnp.where(jax.random.bernoulli(chance, probability), erased, image)


def rectangle(
    image: jax.Array, top: jax.Array, left: jax.Array, height: jax.Array, width: jax.Array
) -> jax.Array:
    """Returns bool [H, W, 1] for an image [H, W, C]: whether a pixel lies in the rectangle."""
    row, column = jnp.arange(image.shape[-3])[:, None], jnp.arange(image.shape[-2])
    inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    return inside[..., None]
