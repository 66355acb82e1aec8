"""MixUp and CutMix: mixing the images and targets of a batch in pairs."""

import jax
import jax.numpy as jnp

from jaxcifar.traced import is_on


def mix(
    key: jax.Array,
    device: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    mask: jax.Array | None = None,
    *,
    mixup_alpha: float | jax.Array,
    cutmix_alpha: float | jax.Array,
    probability: float | jax.Array,
    cutmix_share: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the images and targets of a device's share of a batch, mixed or unchanged.

    One draw for the global batch decides whether it is mixed, by which of the two methods, and how
    strongly; the partners are a permutation of the device's share. A pair is not mixed if one of
    the two is not an example.

    Args:
      key: key of the step, the same on all devices.
      device: index of the device.
      images: float [B, H, W, C].
      targets: float [B, classes].
      mask: bool [B], True where there is an example; None if there is one everywhere.
      mixup_alpha, cutmix_alpha: parameters of the two beta distributions; 0 disables the method,
        and at least one is above 0.
      probability: probability that a batch is mixed.
      cutmix_share: share of the mixed batches that CutMix mixes, if both methods are enabled.
    """
    # fold_in(key, i) is split(key)[i]: the partners need a key of their own to fold in.
    mixed, which, draw, partners = jax.random.split(key, 4)
    order = jax.random.permutation(jax.random.fold_in(partners, device), len(images))
    if mask is not None:
        order = jnp.where(mask & mask[order], order, jnp.arange(len(images)))
    methods = []
    if is_on(mixup_alpha):
        methods.append(lambda: mixup(draw, images, targets, order, mixup_alpha))
    if is_on(cutmix_alpha):
        methods.append(lambda: cutmix(draw, images, targets, order, cutmix_alpha))
    method = jax.random.bernoulli(which, cutmix_share).astype(int) if len(methods) == 2 else 0
    acts = jax.random.bernoulli(mixed, probability)
    return jax.lax.switch(jnp.where(acts, 1 + method, 0), [lambda: (images, targets), *methods])


def mixup(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    order: jax.Array,
    alpha: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns lambda * x + (1 - lambda) * x[order] for both, lambda from Beta(alpha, alpha).

    Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", section 2.
    """
    share = jax.random.beta(key, alpha, alpha)
    return _blend(images, images[order], share), _blend(targets, targets[order], share)


def cutmix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    order: jax.Array,
    alpha: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns images [B, H, W, C] with a box from their partners, and targets mixed by its area.

    Yun et al. 2019, "CutMix", section 3.1 and algorithm 1: the box covers about 1 - lambda of the
    area, lambda from Beta(alpha, alpha), and its centre is any pixel. The part outside the image is
    cut off, and the targets are weighted by the share of pixels actually replaced.
    """
    height, width = images.shape[1:3]
    beta, centre = jax.random.split(key)
    side = jnp.sqrt(1 - jax.random.beta(beta, alpha, alpha))
    size = jnp.array([height, width])
    half = (size * side).astype(jnp.int32) // 2
    middle = jax.random.randint(centre, (2,), 0, size)
    low, high = jnp.clip(middle - half, 0, size), jnp.clip(middle + half, 0, size)
    row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    box = (row >= low[0]) & (row < high[0]) & (column >= low[1]) & (column < high[1])
    share = 1 - jnp.prod(high - low) / (height * width)
    return jnp.where(box, images[order], images), _blend(targets, targets[order], share)


def _blend(x: jax.Array, y: jax.Array, share: jax.Array) -> jax.Array:
    return share * x + (1 - share) * y
