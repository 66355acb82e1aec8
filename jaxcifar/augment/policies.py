"""Augmentation policies: AutoAugment, RandAugment, TrivialAugment and albumentations' groups.

Each public function here returns a policy, a pure function (key, image) -> image of one uint8
[H, W, C], to be vmapped inside the compiled step.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar.augment import opencv_ops, pillow_ops
from jaxcifar.augment.autoaugment_tables import AUTO_AUGMENT
from jaxcifar.augment.pillow_ops import Fill, Operation
from jaxcifar.errors import InputError, unknown

Policy = Callable[[jax.Array, jax.Array], jax.Array]
Groups = Sequence[tuple[float, Sequence[tuple[str, float]]]]

# The operations that RandAugment and TrivialAugment choose from.
UNIFORM = tuple(name for name in pillow_ops.OPERATIONS if name != "Invert")
# The operations whose magnitude is negated half of the time.
SIGNED = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
SIGNED |= {"Brightness", "Contrast", "Color", "Sharpness"}

DEFAULT_GROUPS = (
    (0.5, (("color_jitter", 0.5), ("to_gray", 0.2), ("clahe", 0.3))),
    (0.5, (("coarse_dropout", 0.5), ("grid_distortion", 0.2), ("elastic_transform", 0.3))),
)


def auto_augment(policy: str = "cifar10", fill: Fill = 0) -> Policy:
    """AutoAugment (Cubuk et al., 2019): one of 25 sub-policies of two operations each.

    Each of the two acts with its own probability. The bins' magnitudes are torchvision's. Unlike in
    the paper, the sign of an enhancement is drawn too, so that factors are on both sides of 1.

    Args:
      policy: "cifar10" or "imagenet", the data set that the policy was found on.
      fill: grey level of pixels from outside the image, or one level per channel.

    Raises:
      InputError: if there is no such policy, or `fill` is invalid.
    """
    if policy not in AUTO_AUGMENT:
        raise unknown("AutoAugment policy", policy, AUTO_AUGMENT)
    _check_fill(fill)
    steps = [step for sub_policy in AUTO_AUGMENT[policy] for step in sub_policy]
    probabilities = np.array([probability for _, probability, _ in steps], np.float32)

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        height, width, _ = image.shape
        rows = [_signed(n, _magnitude(n, m, 9, height, width), height, width) for n, _, m in steps]
        rows = _stack([*rows, [Operation()] * 2])
        choice, chance, sign = jax.random.split(key, 3)
        step = 2 * jax.random.randint(choice, (), 0, len(steps) // 2) + jnp.arange(2)
        acts = jax.random.uniform(chance, (2,)) < jnp.array(probabilities)[step]
        sign = jax.random.randint(sign, (2,), 0, 2)
        for index in 2 * jnp.where(acts, step, len(steps)) + sign:
            image = pillow_ops.apply_operation(image, _row(rows, index), fill)
        return image

    return augment


def rand_augment(num_ops: int = 2, magnitude: int | jax.Array = 9, fill: Fill = 0) -> Policy:
    """RandAugment (Cubuk et al., 2020): `num_ops` of 14 operations, all of one magnitude.

    Args:
      num_ops: number of operations per image, 1 or more; the paper's N.
      magnitude: 0 to 30, as torchvision's 31 bins; 30 is the end of AutoAugment's ranges. The
        paper's M, and timm's, reaches that end at 10 and exceeds it above: multiply it by 3. As an
        array it is not checked.
      fill: grey level of pixels from outside the image, or one level per channel.

    Raises:
      InputError: if an argument is invalid.
    """
    if isinstance(num_ops, bool) or not isinstance(num_ops, int) or num_ops < 1:
        raise InputError(f"num_ops is {num_ops!r}; it must be a whole number of 1 or more")
    is_argument = isinstance(magnitude, jax.Array)
    if not is_argument and (isinstance(magnitude, bool) or magnitude not in range(31)):
        raise InputError(f"magnitude is {magnitude!r}; it must be a whole number from 0 to 30")
    _check_fill(fill)
    bins = range(31) if is_argument else [magnitude]

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        height, width, _ = image.shape
        rows = _stack(
            _signed(name, _magnitude(name, bin, 30, height, width), height, width)
            for bin in bins
            for name in UNIFORM
        )
        first = 2 * len(UNIFORM) * magnitude if is_argument else 0
        for index in jax.random.randint(key, (num_ops,), 0, 2 * len(UNIFORM)):
            image = pillow_ops.apply_operation(image, _row(rows, first + index), fill)
        return image

    return augment


def trivial_augment_wide(fill: Fill = 0) -> Policy:
    """TrivialAugment (Mueller and Hutter, 2021) in its wide space: one operation, 31 magnitudes.

    Args:
      fill: grey level of pixels from outside the image, or one level per channel.

    Raises:
      InputError: if `fill` is invalid.
    """
    _check_fill(fill)

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        height, width, _ = image.shape
        rows = _stack(
            _signed(name, _wide_magnitude(name, bin), height, width)
            for name in UNIFORM
            for bin in range(31)
        )
        index = jax.random.randint(key, (), 0, 2 * 31 * len(UNIFORM))
        return pillow_ops.apply_operation(image, _row(rows, index), fill)

    return augment


def _magnitude(name: str, bin: int, last: int, height: int, width: int) -> float:
    """The magnitude of bins 0 to `last` on [H, W] images, by AutoAugment's table 6."""
    # The paper searched on images of 331 pixels, with translations of up to 150.
    ends = {"TranslateX": 150 / 331 * width, "TranslateY": 150 / 331 * height, "Rotate": 30}
    ends |= {"ShearX": 0.3, "ShearY": 0.3, "Posterize": 4}
    return _bin(name, bin, last, ends.get(name, 0.9))


def _wide_magnitude(name: str, bin: int) -> float:
    """The magnitude of bins 0 to 30 in TrivialAugment's wide space."""
    ends = {"TranslateX": 32, "TranslateY": 32, "Rotate": 135, "Posterize": 6}
    return _bin(name, bin, 30, ends.get(name, 0.99))


def _bin(name: str, bin: int, last: int, end: float) -> float:
    if name == "Posterize":
        return 8 - round(end * bin / last)
    if name == "Solarize":
        return 255 - 255 * bin / last
    return end * bin / last


def _signed(name: str, magnitude: float, height: int, width: int) -> list[Operation]:
    """Returns an operation with both signs, or twice the same if it has none."""
    other = -magnitude if name in SIGNED else magnitude
    return [pillow_ops.operation(name, m, height, width) for m in (magnitude, other)]


def _stack(pairs: Iterable[Sequence[Operation]]) -> Operation:
    """Stacks pairs of operations into one `Operation` whose fields have a row per operation."""
    return jax.tree.map(lambda *rows: np.stack(rows), *(row for pair in pairs for row in pair))


def _row(rows: Operation, index: jax.Array) -> Operation:
    return jax.tree.map(lambda numbers: jnp.array(numbers)[index], rows)


def one_of_groups(groups: Groups = DEFAULT_GROUPS, fill: Fill = 0) -> Policy:
    """Groups of operations: each acts with some probability, through exactly one of its members.

    As albumentations' Compose of OneOf. Members are those of `MEMBERS`, with the defaults of
    albumentations 1.3 except for elastic_transform.

    Args:
      groups: ((probability, ((name, weight), ...)), ...): a group acts with its probability, and
        then one member is drawn with a probability proportional to its weight.
      fill: grey level of dropped pixels, or one level per channel.

    Raises:
      InputError: if there is no such member, or a probability, a weight or `fill` is invalid.
    """
    for probability, members in groups:
        if not 0 <= probability <= 1:
            raise InputError(f"a group's probability is {probability!r}; it must be from 0 to 1")
        for name, weight in members:
            if name not in MEMBERS:
                raise unknown("member of a group", name, MEMBERS)
            if not 0 <= weight < float("inf"):
                raise InputError(f"the weight of {name} is {weight!r}; it must be 0 or more")
        if not sum(weight for _, weight in members) > 0:
            raise InputError("a group's weights are all 0; at least one must be above 0")
    _check_fill(fill)

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        keys = jax.random.split(key, (len(groups), 2))
        for (chance, member), (probability, members) in zip(keys, groups, strict=True):
            names, weights = zip(*members, strict=True)
            limits = np.cumsum([1 - probability, *probability * np.array(weights) / sum(weights)])
            choice = (jax.random.uniform(chance) >= limits[:-1]).sum()
            branches = [lambda key, image: image, *(partial(MEMBERS[n], fill=fill) for n in names)]
            image = jax.lax.switch(choice, branches, member, image)
        return image

    return augment


def _color_jitter(key: jax.Array, image: jax.Array, fill: Fill) -> jax.Array:
    random = jax.random.uniform(key, (8,))
    factors, hue = 0.8 + 0.4 * random[:3], -0.2 + 0.4 * random[3]
    return opencv_ops.color_jitter(image, factors, hue, jnp.argsort(random[4:]))


def _coarse_dropout(key: jax.Array, image: jax.Array, fill: Fill) -> jax.Array:
    height, width, _ = image.shape
    hole = min(8, height), min(8, width)
    last = jnp.array([height - hole[0], width - hole[1]])
    corners = jax.random.randint(key, (8, 2), 0, last + 1)
    return opencv_ops.coarse_dropout(image, corners, *hole, fill)


def _grid_distortion(key: jax.Array, image: jax.Array, fill: Fill) -> jax.Array:
    steps = jax.random.uniform(key, (2, 6), minval=0.7, maxval=1.3)
    return opencv_ops.grid_distortion(image, steps[0], steps[1])


def _elastic_transform(key: jax.Array, image: jax.Array, fill: Fill) -> jax.Array:
    noise = jax.random.uniform(key, (2, *image.shape[:2]), minval=-1.0, maxval=1.0)
    # Simard's values, for images of 29x29, shift by 1.4 pixels (root mean square) along each axis.
    # With albumentations' alpha of 1 and sigma of 50, no pixel of a small image would move.
    return opencv_ops.elastic_transform(image, noise, alpha=34.0, sigma=4.0)


# Members of groups: name -> (key, image, fill) -> image.
MEMBERS = {
    "color_jitter": _color_jitter,
    "to_gray": lambda key, image, fill: pillow_ops.greyscale(image),
    "clahe": lambda key, image, fill: opencv_ops.clahe(image, jax.random.uniform(key) * 3 + 1),
    "coarse_dropout": _coarse_dropout,
    "grid_distortion": _grid_distortion,
    "elastic_transform": _elastic_transform,
}


def _check_fill(fill: Fill) -> None:
    if not all(level in range(256) for level in np.ravel(fill).tolist()):
        raise InputError(
            f"fill is {fill!r}; it must be a whole number from 0 to 255, or one per channel"
        )
