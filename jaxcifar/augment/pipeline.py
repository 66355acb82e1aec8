"""Augmentation inside the compiled step: uint8 images to normalised float32 network input.

Cropping and flipping come before it, in the input pipeline, see `data.device_pipeline`.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxcifar.augment import basic, mixing, policies
from jaxcifar.errors import InputError, unknown
from jaxcifar.traced import is_on

# (key, device, images, labels, mask) -> (images, targets or None), see `create_augment`.
Augment = Callable[..., tuple[jax.Array, jax.Array | None]]

# The uses of a step's key; each has a key of its own.
_POLICY, _CUTOUT, _ERASING, _MIXING = range(4)


def create_augment(
    augment: ConfigDict,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int,
    label_smoothing: float | jax.Array = 0.0,
) -> Augment:
    """Returns the function that makes a device's share of a batch ready for training.

    Its arguments are a key, the same on all devices but different at each step; the index of the
    device; images, uint8 [B, H, W, C]; labels, int32 [B]; and a mask, bool [B], that is True where
    there is an example, or None if there is one everywhere. It returns

    - float32 images [B, H, W, C], after the policy, normalisation, cutout, erasing and mixing;
    - float32 targets [B, classes], or None where the labels alone are the targets.

    Policy, cutout and erasing depend on the image's place in the global batch, not on the number of
    devices. Images are mixed with others of the same device.

    Args:
      augment: the config's `augment` section.
      mean: mean of each channel over the data set, see `basic.normalize`.
      std: standard deviation of each channel.
      num_classes: number of classes.
      label_smoothing: share of the target that is spread over all classes.

    Raises:
      InputError: as `create_policy`.
    """
    policy = create_policy(augment)
    mixes = is_on(augment.mixup_alpha) or is_on(augment.cutmix_alpha)
    smooths = is_on(label_smoothing)
    mix = partial(
        mixing.mix,
        mixup_alpha=augment.mixup_alpha,
        cutmix_alpha=augment.cutmix_alpha,
        probability=augment.mix_probability,
        cutmix_share=augment.cutmix_share,
    )

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
            images = jax.vmap(policy)(keys(_POLICY), images)
        images = basic.normalize(images, mean, std)
        if is_on(size := augment.cutout_size):
            images = jax.vmap(basic.cutout, (0, 0, None))(keys(_CUTOUT), images, size)
        if is_on(probability := augment.erasing_probability):
            images = jax.vmap(basic.erase, (0, 0, None))(keys(_ERASING), images, probability)

        targets = jax.nn.one_hot(labels, num_classes) if mixes or smooths else None
        if mixes:
            images, targets = mix(jax.random.fold_in(key, _MIXING), device, images, targets, mask)
        if smooths:
            # Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
            targets = optax.smooth_labels(targets, label_smoothing)
        return images, targets

    return run


def create_policy(augment: ConfigDict) -> policies.Policy | None:
    """Returns the policy that the config's `augment` section names, or None.

    Raises:
      InputError: if there is no such policy, or a field of it is invalid.
    """
    fill = augment.fill
    policy_makers: dict[str, Callable[[], policies.Policy | None]] = {
        "none": lambda: None,
        "autoaugment_cifar10": lambda: policies.auto_augment("cifar10", fill),
        "autoaugment_imagenet": lambda: policies.auto_augment("imagenet", fill),
        "randaugment": lambda: policies.rand_augment(augment.num_ops, augment.magnitude, fill),
        "trivialaugment": lambda: policies.trivial_augment_wide(fill),
        "one_of_groups": lambda: policies.one_of_groups(
            augment.groups or policies.DEFAULT_GROUPS, fill
        ),
    }
    if augment.policy not in policy_makers:
        raise unknown("augment.policy", augment.policy, policy_makers)
    try:
        return policy_makers[augment.policy]()
    except InputError as error:
        # The ranges of all other fields have been checked by the table of fields.
        raise InputError(f"augment.groups of {augment.policy}: {error}") from error
