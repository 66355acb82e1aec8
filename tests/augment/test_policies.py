"""Policies draw the published operations with the published frequencies, from the key alone."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.augment import opencv_ops, pillow_ops, policies
from jaxcifar.augment.autoaugment_tables import AUTO_AUGMENT
from jaxcifar.errors import InputError

POLICIES = {
    "auto_augment": policies.auto_augment("cifar10", fill=(125, 123, 114)),
    "rand_augment": policies.rand_augment(),
    "trivial_augment_wide": policies.trivial_augment_wide(),
    "one_of_groups": policies.one_of_groups(),
}
# The largest magnitude of each operation with a sign, on images of 32x32, in AutoAugment's ranges,
# which are RandAugment's too, and in TrivialAugment's.
LARGEST = {"ShearX": 0.3, "ShearY": 0.3, "TranslateX": 4800 / 331, "TranslateY": 4800 / 331}
LARGEST |= {"Rotate": 30, "Brightness": 0.9, "Color": 0.9, "Contrast": 0.9, "Sharpness": 0.9}
WIDE = {"ShearX": 0.99, "ShearY": 0.99, "TranslateX": 32, "TranslateY": 32, "Rotate": 135}
WIDE |= {"Brightness": 0.99, "Color": 0.99, "Contrast": 0.99, "Sharpness": 0.99}
WITHOUT_SIGN = {"Identity", "Posterize", "Solarize", "AutoContrast", "Equalize"}


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(0).randint(0, 256, (6, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", POLICIES)
def test_the_result_follows_from_key_and_image(images, name):
    one, batch = jax.jit(POLICIES[name]), jax.jit(jax.vmap(POLICIES[name]))
    keys = jax.random.split(jax.random.key(1), len(images))
    together = np.asarray(batch(keys, images))
    assert together.shape == images.shape and together.dtype == np.uint8
    for key, image, expected in zip(keys, images, together, strict=True):
        np.testing.assert_array_equal(one(key, image), expected)
    assert (np.asarray(batch(keys[::-1], images)) != together).any()


def drawn(monkeypatch, policy, num_ops, size=30000):
    """Counts how often each sequence of operations was drawn, as tuples of bytes."""
    # Collects operations instead of applying them.
    monkeypatch.setattr(
        pillow_ops, "apply_operation", lambda image, operation, fill: Drawn(image, operation)
    )
    keys = jax.random.split(jax.random.key(0), size)
    result = jax.jit(jax.vmap(lambda key: policy(key, Drawn()).operations))(keys)
    assert len(result) == num_ops
    rows = [np.concatenate([np.reshape(x, (size, -1)) for x in one], 1) for one in result]
    return Counter(zip(*([row.tobytes() for row in one] for one in rows), strict=True))


class Drawn:
    """Stands in for an image, and holds the operations so far."""

    shape = (32, 32, 3)

    def __init__(self, before=None, operation=None):
        self.operations = [*before.operations, operation] if before is not None else []


def row(name, magnitude=0.0):
    operation = pillow_ops.operation(name, magnitude, 32, 32)
    return np.concatenate([np.reshape(x, -1) for x in operation]).tobytes()


def check(found, chances):
    """Checks the frequency of every sequence to five standard deviations."""
    size = found.total()
    assert sum(chances.values()) == pytest.approx(1)
    assert found.keys() <= {rows for rows, chance in chances.items() if chance > 0}
    for rows, chance in chances.items():
        deviation = np.sqrt(size * chance * (1 - chance))
        assert abs(found[rows] - size * chance) <= 5 * deviation + 1e-6


def test_rand_augment_draws_as_published(monkeypatch):
    # Magnitude 9 of 30.
    magnitudes = {name: 0.3 * largest for name, largest in LARGEST.items()}
    once = Counter()
    for name in [*LARGEST, *WITHOUT_SIGN]:
        m = {"Posterize": 7, "Solarize": 178.5}.get(name, magnitudes.get(name, 0.0))
        for sign in (1, -1):
            once[row(name, sign * m if name in LARGEST else m)] += 1 / 28
    assert len(once) == 2 * len(LARGEST) + len(WITHOUT_SIGN)
    chances = {(a, b): once[a] * once[b] for a in once for b in once}
    check(drawn(monkeypatch, policies.rand_augment(2, 9), 2, 100_000), chances)


def test_trivial_augment_wide_draws_as_published(monkeypatch):
    chances = Counter()
    for name in [*WIDE, *WITHOUT_SIGN]:
        for bin in range(31):
            for sign in (1, -1):
                m = {
                    "Posterize": 8 - (2 * bin + 5) // 10,  # 8 to 2 bits
                    "Solarize": 255 - 8.5 * bin,
                }.get(name, sign * WIDE.get(name, 0) * bin / 30)
                chances[(row(name, m),)] += 1 / (14 * 31 * 2)
    check(drawn(monkeypatch, policies.trivial_augment_wide(), 1, 60_000), chances)


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_auto_augment_draws_as_published(monkeypatch, name):
    posterize = [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    chances = Counter()

    def outcomes(operation, probability, bin):
        largest = LARGEST.get(operation)
        m = {"Posterize": posterize[bin], "Solarize": 255 - 85 * bin / 3}.get(operation, 0)
        yield row("Identity"), 1 - probability
        for sign in (1, -1):
            magnitude = m if largest is None else sign * largest * bin / 9
            yield row(operation, magnitude), probability / 2

    for first, second in AUTO_AUGMENT[name]:
        for a, chance in outcomes(*first):
            for b, other in outcomes(*second):
                chances[a, b] += chance * other / 25
    check(drawn(monkeypatch, policies.auto_augment(name), 2, 60_000), chances)


# How often each operation is in the 25 sub-policies, and the sum of all probabilities.
PUBLISHED = {
    "cifar10": (
        {"Equalize": 9, "AutoContrast": 7, "Sharpness": 5, "TranslateY": 5, "Color": 5}
        | {"Brightness": 4, "Solarize": 4, "Invert": 3, "Contrast": 2, "TranslateX": 2}
        | {"ShearY": 2, "Rotate": 1, "Posterize": 1},
        26.5,
    ),
    "imagenet": (
        {"Equalize": 17, "Solarize": 7, "Rotate": 6, "Color": 6, "Posterize": 5, "Invert": 3}
        | {"AutoContrast": 2, "Contrast": 2, "Sharpness": 1, "ShearX": 1},
        31.0,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_auto_augment_tables_have_the_published_sums(name):
    steps = [step for sub_policy in AUTO_AUGMENT[name] for step in sub_policy]
    operations, probabilities = PUBLISHED[name]
    assert Counter(operation for operation, _, _ in steps) == operations
    assert sum(probability for _, probability, _ in steps) == pytest.approx(probabilities)
    assert {len(sub_policy) for sub_policy in AUTO_AUGMENT[name]} == {2}


def test_groups_choose_by_weight(monkeypatch):
    # Each member adds a different number: tens for the first group, units for the second.
    chances = Counter()
    first, second = policies.DEFAULT_GROUPS
    names = [[name for name, _ in group[1]] for group in (first, second)]
    assert names == [
        ["color_jitter", "to_gray", "clahe"],
        ["coarse_dropout", "grid_distortion", "elastic_transform"],
    ]
    for scale, group in zip((10, 1), names, strict=True):
        for i, name in enumerate(group):
            monkeypatch.setitem(
                policies.MEMBERS, name, lambda key, image, fill, n=scale * (i + 1): image + n
            )
    once = [0.5, 0.25, 0.1, 0.15]  # untouched, then half of the weights
    for i in range(4):
        for j in range(4):
            chances[10 * i + j] = once[i] * once[j]
    keys = jax.random.split(jax.random.key(0), 40_000)
    policy = policies.one_of_groups()
    found = jax.jit(jax.vmap(lambda key: policy(key, jnp.zeros((), jnp.uint8))))(keys)
    check(Counter(found.tolist()), chances)


def test_a_group_can_act_always_or_never(monkeypatch):
    monkeypatch.setitem(policies.MEMBERS, "to_gray", lambda key, image, fill: image + 1)
    keys = jax.random.split(jax.random.key(0), 1000)
    for probability in (0, 1):
        policy = policies.one_of_groups(((probability, (("to_gray", 3),)),))
        found = jax.vmap(lambda key, policy=policy: policy(key, jnp.zeros((), jnp.uint8)))(keys)
        assert (found == probability).all()


@pytest.fixture
def arguments(monkeypatch):
    """Returns what a member passes to its function in opencv_ops, for 2000 keys."""

    def collect(name):
        monkeypatch.setattr(opencv_ops, name, lambda image, *args, **kwargs: (args, kwargs))
        keys = jax.random.split(jax.random.key(2), 2000)
        image = jnp.zeros((32, 32, 3), jnp.uint8)
        return jax.jit(jax.vmap(lambda key: policies.MEMBERS[name](key, image, 7)))(keys)

    return collect


def check_range(values, low, high):
    """Checks that values are uniform between the two, judged by their mean and extremes."""
    values = np.asarray(values)
    assert low <= values.min() < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < values.max() <= high
    assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


def test_members_draw_albumentations_defaults(arguments):
    (factors, hue, order), _ = arguments("color_jitter")
    check_range(factors, 0.8, 1.2)
    check_range(hue, -0.2, 0.2)
    assert len(Counter(map(tuple, order.tolist()))) == 24
    assert (np.sort(order) == np.arange(4)).all()
    check_range(arguments("clahe")[0][0], 1.0, 4.0)
    (corners, *rest), _ = arguments("coarse_dropout")
    assert corners.shape == (2000, 8, 2) and [x[0] for x in rest] == [8, 8, 7]
    check_range(corners, 0, 24)
    (x_steps, y_steps), _ = arguments("grid_distortion")
    assert x_steps.shape == y_steps.shape == (2000, 6)
    check_range(x_steps, 0.7, 1.3)
    check_range(y_steps, 0.7, 1.3)


def test_elastic_transform_shifts_by_more_than_a_pixel(monkeypatch):
    # Uniform noise has a variance of 1/3, of which a Gaussian leaves 1 / (4 pi sigma^2).
    monkeypatch.setattr(opencv_ops, "remap", lambda image, x, y: (x, y))
    keys = jax.random.split(jax.random.key(3), 200)
    image = jnp.zeros((48, 48, 3), jnp.uint8)
    x, y = jax.jit(jax.vmap(lambda key: policies.MEMBERS["elastic_transform"](key, image, 0)))(keys)
    expected = 34 * np.sqrt(1 / 3 / (4 * np.pi * 4**2))
    # Away from the border, where reflection makes the shifts larger.
    inner = np.s_[:, 16:32, 16:32]
    row, column = np.mgrid[16:32, 16:32]
    assert np.sqrt(np.mean((x[inner] - column) ** 2)) == pytest.approx(expected, rel=0.05)
    assert np.sqrt(np.mean((y[inner] - row) ** 2)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: policies.auto_augment("cifar"), "unknown AutoAugment policy 'cifar'.*cifar10"),
        (lambda: policies.auto_augment("imagenet", 256), "fill is 256; .* from 0 to 255"),
        (lambda: policies.rand_augment(0), "num_ops is 0; .* 1 or more"),
        (lambda: policies.rand_augment(2, 31), "magnitude is 31; .* from 0 to 30"),
        (lambda: policies.rand_augment(2, 9.5), "magnitude is 9.5; .* from 0 to 30"),
        (
            lambda: policies.trivial_augment_wide((0, -1, 0)),
            r"fill is \(0, -1, 0\); .* 0 to 255",
        ),
        (
            lambda: policies.one_of_groups(((1.5, (("clahe", 1),)),)),
            "probability is 1.5; .* 0 to 1",
        ),
        (lambda: policies.one_of_groups(((1, (("clah", 1),)),)), "'clah'. Did you mean 'clahe'"),
        (lambda: policies.one_of_groups(((1, (("clahe", -1),)),)), "weight of clahe is -1"),
        (lambda: policies.one_of_groups(((1, ()),)), "weights are all 0"),
    ],
)
def test_invalid_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
