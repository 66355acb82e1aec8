"""MixUp and CutMix against their definitions, and how often each of them acts."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcifar.data import mixing

ORDER = np.array([2, 3, 4, 5, 1, 0])  # nobody is its own partner
TARGETS = np.eye(6, dtype=np.float32)
BOTH = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "probability": 1.0, "cutmix_share": 0.5}
MIXUP, CUTMIX = BOTH | {"cutmix_alpha": 0.0}, BOTH | {"mixup_alpha": 0.0}


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(0).normal(size=(6, 8, 10, 3)).astype(np.float32)


def keys(size, seed=0):
    return jax.random.split(jax.random.key(seed), size)


def check(found, chances):
    """Every outcome is as frequent as its chance says, to five standard deviations."""
    size = found.total()
    assert sum(chances.values()) == pytest.approx(1)
    assert found.keys() <= {outcome for outcome, chance in chances.items() if chance > 0}
    for outcome, chance in chances.items():
        deviation = np.sqrt(size * chance * (1 - chance))
        assert abs(found[outcome] - size * chance) <= 5 * deviation + 1e-6, outcome


def partners(targets):
    """The permutation that mixed one-hot targets of as many classes as images [B, B]."""
    others = np.where(np.eye(len(targets), dtype=bool), 0, targets)
    order = np.where(others.max(1) > 0, others.argmax(1), np.arange(len(targets)))
    assert (np.sort(order) == np.arange(len(targets))).all()
    return order


@pytest.mark.parametrize("seed", range(3))
def test_mixup_blends_images_and_targets_with_one_lambda(images, seed):
    mixed, targets = mixing.mixup(jax.random.key(seed), images, TARGETS, ORDER, 1.0)
    x, y = images.astype(np.float64), images[ORDER].astype(np.float64)
    far = np.abs(x - y) > 0.5
    found = ((np.asarray(mixed) - y) / (x - y))[far]
    share = found.mean()
    assert 0 < share < 1
    np.testing.assert_allclose(found, share, atol=1e-5)
    np.testing.assert_allclose(mixed, share * x + (1 - share) * y, atol=1e-5)
    expected = np.zeros((6, 6))
    expected[np.arange(6), np.arange(6)] = share
    expected[np.arange(6), ORDER] = 1 - share
    np.testing.assert_allclose(targets, expected, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixups_lambda_has_the_beta_distribution(alpha):
    images, targets = np.array([1.0, 0.0]).reshape(2, 1, 1, 1), np.eye(2)
    order = np.array([1, 0])
    result, _ = jax.jit(
        jax.vmap(lambda key: mixing.mixup(key, images, targets, order, alpha)),
    )(keys(5000))
    shares = np.asarray(result)[:, 0, 0, 0, 0]
    variance = 1 / (4 * (2 * alpha + 1))
    assert shares.mean() == pytest.approx(0.5, abs=4 * np.sqrt(variance / 5000))
    assert shares.var() == pytest.approx(variance, rel=0.05)
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_cutmix_takes_one_rectangle_from_the_partner(images):
    results = jax.jit(
        jax.vmap(lambda key: mixing.cutmix(key, images, TARGETS, ORDER, 1.0)),
    )(keys(300))
    border = 0
    for mixed, targets in zip(*map(np.asarray, results), strict=True):
        swapped = mixed != images
        np.testing.assert_array_equal(mixed, np.where(swapped, images[ORDER], images))
        box = swapped[0, :, :, 0]
        assert (swapped == box[:, :, None]).all()
        rows, columns = box.any(1), box.any(0)
        assert (box == rows[:, None] & columns).all()
        for side in (rows, columns):
            assert np.count_nonzero(np.diff(np.r_[0, side, 0])) in (0, 2)
        border += rows[[0, -1]].any() or columns[[0, -1]].any()
        # What the targets say is what the pixels are, also where the box was cut.
        np.testing.assert_allclose(np.diag(targets), 1 - box.mean(), atol=1e-6)
        np.testing.assert_allclose(targets[np.arange(6), ORDER], box.mean(), atol=1e-6)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    assert 100 < border < 300


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_cutmix_boxes_are_as_frequent_as_algorithm_1_says(alpha):
    height, width = 4, 6
    # The box's sides, 2 * (side // 2) before it is cut, change where sqrt(1 - lambda) passes these.
    edges = sorted({k / height for k in range(0, 5, 2)} | {k / width for k in range(0, 7, 2)})
    chances = Counter()
    for low, high in zip(edges, edges[1:], strict=False):
        # 1 - lambda has the distribution of lambda.
        chance = np.diff(stats.beta(alpha, alpha).cdf([low**2, high**2]))[0]
        half_height, half_width = (int(side * (low + high) / 2) // 2 for side in (height, width))
        for y in range(height):
            for x in range(width):
                top, bottom = max(y - half_height, 0), min(y + half_height, height)
                left, right = max(x - half_width, 0), min(x + half_width, width)
                box = np.zeros((height, width), bool)
                box[top:bottom, left:right] = True
                chances[box.tobytes()] += chance / (height * width)
    images = np.stack([np.zeros((height, width, 1)), np.ones((height, width, 1))])
    order = np.array([1, 0])
    mixed, targets = jax.jit(
        jax.vmap(lambda key: mixing.cutmix(key, images, np.eye(2), order, alpha)),
    )(keys(30_000))
    boxes = np.asarray(mixed)[:, 0, :, :, 0] == 1
    assert boxes.any(0).all()
    check(Counter(box.tobytes() for box in boxes), chances)
    np.testing.assert_allclose(np.asarray(targets)[:, 0, 1], boxes.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "chances"),
    [
        ({}, [0, 0.5, 0.5]),
        ({"probability": 0.3, "cutmix_share": 0.25}, [0.7, 0.225, 0.075]),
        ({"probability": 0.0}, [1, 0, 0]),
        ({"cutmix_share": 0.0}, [0, 1, 0]),
        ({"cutmix_share": 1.0}, [0, 0, 1]),
        # The share is that of the two methods, and one that is off has none.
        ({"cutmix_alpha": 0.0, "cutmix_share": 1.0}, [0, 1, 0]),
        ({"mixup_alpha": 0.0, "cutmix_share": 0.0}, [0, 0, 1]),
        ({"cutmix_alpha": 0.0, "probability": 0.4}, [0.6, 0.4, 0]),
    ],
)
def test_each_method_acts_as_often_as_asked(monkeypatch, change, chances):
    for name, number in (("mixup", 1), ("cutmix", 2)):
        monkeypatch.setattr(
            mixing, name, lambda _, images, targets, *rest, n=number: (images + n, targets + n)
        )
    zeros = jnp.zeros((2, 1, 1, 1)), jnp.zeros((2, 2))
    found, targets = jax.jit(jax.vmap(lambda key: mixing.mix(key, 0, *zeros, **BOTH | change)))(
        keys(10_000)
    )
    assert (found.reshape(10_000, 2) == targets[:, :, 0]).all()
    check(Counter(np.asarray(targets)[:, 0, 0].astype(int).tolist()), dict(enumerate(chances)))


def test_a_batch_that_is_not_mixed_is_untouched(images):
    mixed, targets = mixing.mix(
        jax.random.key(0), 0, images, TARGETS, **BOTH | {"probability": 0.0}
    )
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(targets, TARGETS)


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_devices_share_lambda_and_box_but_not_partners(images, settings):
    images = np.concatenate([images, images + 10])
    eye = np.eye(12, dtype=np.float32)
    mix = jax.jit(
        jax.vmap(
            lambda key, device: mixing.mix(key, device, images, eye, **settings),
            (None, 0),
        )
    )
    # A box with pixels; the chance that it has none is 1/16 at each key.
    seed = next(s for s in range(9) if (mix(jax.random.key(s), np.arange(8))[1] != eye).any())
    mixed, targets = map(np.asarray, mix(jax.random.key(seed), np.arange(8)))
    orders = [partners(one) for one in targets]
    assert len({order.tobytes() for order in orders}) == 8
    own = np.diagonal(targets, axis1=1, axis2=2)
    share = own.min()
    assert 0 < share < 1
    for device, order in enumerate(orders):
        moved = order != np.arange(12)
        np.testing.assert_allclose(own[device], np.where(moved, share, 1), atol=1e-6)
        x, y = images[moved], images[order][moved]
        part = mixed[device][moved]
        if settings is MIXUP:
            np.testing.assert_allclose(part, share * x + (1 - share) * y, atol=1e-5)
        else:
            box = part != x
            if device == 0:
                first = box[0]
            assert (box == first).all() and first.mean() == pytest.approx(1 - share, abs=1e-6)
            np.testing.assert_array_equal(part[box], y[box])
        np.testing.assert_array_equal(mixed[device][~moved].round(4), images[~moved].round(4))


def test_every_permutation_of_partners_is_as_likely():
    images, targets = np.zeros((3, 1, 1, 1), np.float32), np.eye(3, dtype=np.float32)
    _, mixed = jax.jit(
        jax.vmap(lambda key: mixing.mix(key, 1, images, targets, **MIXUP)),
    )(keys(6000))
    found = Counter(tuple(partners(one).tolist()) for one in np.asarray(mixed))
    assert len(found) == 6
    check(found, dict.fromkeys(found, 1 / 6))


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_no_key_is_drawn_from_twice(monkeypatch, images, settings):
    # fold_in(key, i) equals split(key)[i], so a device's index may meet another draw's key.
    drawn = {}

    def record(name):
        draw = getattr(jax.random, name)

        def recorded(key, *args, **kwargs):
            drawn.setdefault(jax.random.key_data(key).tobytes(), set()).add(name)
            return draw(key, *args, **kwargs)

        monkeypatch.setattr(jax.random, name, recorded)

    key = jax.random.key(5)
    names = ["bernoulli", "permutation", "beta"] + ["randint"] * (settings is CUTMIX)
    with jax.disable_jit():
        for name in names:
            record(name)
        for device in range(8):
            mixing.mix(key, device, images, TARGETS, **settings)
    permutations = [uses for uses in drawn.values() if "permutation" in uses]
    assert len(permutations) == 8
    assert all(len(uses) == 1 for uses in drawn.values())
    assert set().union(*drawn.values()) == set(names)


def test_the_result_follows_from_the_key(images):
    def mix(key):
        return mixing.mix(key, 0, images, TARGETS, **BOTH)

    several = keys(6, seed=3)
    together = jax.jit(jax.vmap(mix))(several)
    alone = jax.jit(mix)
    for i, key in enumerate(several):
        for a, b in zip(alone(key), together, strict=True):
            np.testing.assert_allclose(a, b[i], atol=1e-6)
    targets = np.asarray(together[1])
    assert len({row.tobytes() for row in targets}) == 6
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
