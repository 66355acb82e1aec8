"""MixUp and CutMix against their definitions, and how often each of them acts."""

from collections import Counter
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcifar.augment import mixing

ORDER = np.array([2, 3, 4, 5, 1, 0])  # no image is its own partner
TARGETS = jnp.eye(6)
SWAP = np.array([1, 0])
MIXUPS = jax.jit(jax.vmap(mixing.mixup, (0, None, None, None, None)))
BOTH = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "probability": 1.0, "cutmix_share": 0.5}
MIXUP, CUTMIX = BOTH | {"cutmix_alpha": 0.0}, BOTH | {"mixup_alpha": 0.0}


@pytest.fixture(scope="module")
def images():
    return jnp.array(np.random.RandomState(0).normal(size=(6, 8, 10, 3)), jnp.float32)


@pytest.fixture
def quick_beta(monkeypatch):
    # The n-th of 2 n - 1 sorted uniform numbers has Beta(n, n), and compiles much faster.
    def beta(key, a, b):
        assert a == b and a in (1, 2)
        return jnp.sort(jax.random.uniform(key, (2 * int(a) - 1,)))[int(a) - 1]

    monkeypatch.setattr(jax.random, "beta", beta)


def keys(size, seed=0):
    return jax.random.split(jax.random.key(seed), size)


def check(found, chances):
    """Checks the frequency of every outcome to five standard deviations."""
    size = found.total()
    assert sum(chances.values()) == pytest.approx(1)
    assert found.keys() <= {outcome for outcome, chance in chances.items() if chance > 0}
    for outcome, chance in chances.items():
        deviation = np.sqrt(size * chance * (1 - chance))
        assert abs(found[outcome] - size * chance) <= 5 * deviation + 1e-6, outcome


def partners(targets):
    """Returns the permutation that mixed one-hot targets [B, B], with as many classes as images."""
    others = np.where(np.eye(len(targets), dtype=bool), 0, targets)
    order = np.where(others.max(1) > 0, others.argmax(1), np.arange(len(targets)))
    assert (np.sort(order) == np.arange(len(targets))).all()
    return order


@pytest.mark.parametrize("seed", range(3))
def test_mixup_blends_images_and_targets_with_one_lambda(images, quick_beta, seed):
    mixed, targets = mixing.mixup(jax.random.key(seed), images, TARGETS, ORDER, 1.0)
    x, y = np.asarray(images, np.float64), np.asarray(images[ORDER], np.float64)
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


def test_mixup_by_hand(monkeypatch):
    monkeypatch.setattr(jax.random, "beta", lambda *_: 0.75)
    images = jnp.array([4.0, 8.0, -12.0]).reshape(3, 1, 1, 1)
    order = np.array([1, 2, 0])
    mixed, targets = mixing.mixup(jax.random.key(0), images, jnp.eye(3), order, 1.0)
    np.testing.assert_array_equal(mixed.ravel(), [5, 3, -8])
    np.testing.assert_array_equal(targets, [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]])


def test_cutmix_by_hand(monkeypatch):
    # 1 - lambda = 1/4 has half of each side, 4 x 6 pixels; a centre at (1, 8) leaves 3 x 6 of them.
    monkeypatch.setattr(jax.random, "beta", lambda *_: 0.75)
    monkeypatch.setattr(jax.random, "randint", lambda *_: jnp.array([1, 8]))
    images = jnp.stack([jnp.zeros((8, 12, 1)), jnp.ones((8, 12, 1))])
    mixed, targets = jax.jit(mixing.cutmix)(jax.random.key(0), images, jnp.eye(2), SWAP, 1.0)
    box = np.zeros((8, 12))
    box[:3, 5:11] = 1
    np.testing.assert_array_equal(mixed[..., 0], [box, 1 - box])
    np.testing.assert_allclose(targets, [[1 - 18 / 96, 18 / 96], [18 / 96, 1 - 18 / 96]])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixups_lambda_has_the_beta_distribution(alpha):
    images = jnp.array([1.0, 0.0]).reshape(2, 1, 1, 1)
    results, _ = MIXUPS(keys(5000), images, jnp.eye(2), SWAP, alpha)
    shares = np.asarray(results)[:, 0, 0, 0, 0]
    variance = 1 / (4 * (2 * alpha + 1))
    assert shares.mean() == pytest.approx(0.5, abs=4 * np.sqrt(variance / 5000))
    assert shares.var() == pytest.approx(variance, rel=0.05)
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_cutmix_takes_one_rectangle_from_the_partner(images, quick_beta):
    cutmix = partial(mixing.cutmix, alpha=1.0)
    results = jax.jit(jax.vmap(lambda key: cutmix(key, images, TARGETS, ORDER)))(keys(300))
    images, border = np.asarray(images), 0
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
        # Targets match the pixels, even where the box was cut off.
        np.testing.assert_allclose(np.diag(targets), 1 - box.mean(), atol=1e-6)
        np.testing.assert_allclose(targets[np.arange(6), ORDER], box.mean(), atol=1e-6)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    assert 100 < border < 300


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_cutmix_boxes_are_as_frequent_as_algorithm_1_says(quick_beta, alpha):
    height, width = 4, 6
    # The box's sides, 2 * (side // 2) before it is cut, change where sqrt(1 - lambda) passes these.
    edges = sorted({k / height for k in range(0, 5, 2)} | {k / width for k in range(0, 7, 2)})
    chances = Counter()
    for low, high in pairwise(edges):
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
    images = jnp.stack([jnp.zeros((height, width, 1)), jnp.ones((height, width, 1))])
    cutmix = partial(mixing.cutmix, alpha=alpha)
    mixed, targets = jax.jit(jax.vmap(lambda key: cutmix(key, images, jnp.eye(2), SWAP)))(
        keys(30_000)
    )
    boxes = np.asarray(mixed)[:, 0, :, :, 0] == 1
    assert boxes.any(0).all()
    check(Counter(box.tobytes() for box in boxes), chances)
    np.testing.assert_allclose(np.asarray(targets)[:, 0, 1], boxes.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("alphas", "cases"),
    [
        (
            (1.0, 1.0),
            [
                (1.0, 0.5, [0, 0.5, 0.5]),
                (0.3, 0.25, [0.7, 0.225, 0.075]),
                (0.0, 0.5, [1, 0, 0]),
                (1.0, 0.0, [0, 1, 0]),
                (1.0, 1.0, [0, 0, 1]),
            ],
        ),
        # A method that is disabled gets no share.
        ((1.0, 0.0), [(1.0, 1.0, [0, 1, 0]), (0.4, 0.5, [0.6, 0.4, 0])]),
        ((0.0, 1.0), [(1.0, 0.0, [0, 0, 1]), (0.4, 0.5, [0.6, 0, 0.4])]),
    ],
    ids=["both", "mixup", "cutmix"],
)
def test_each_method_acts_as_often_as_asked(monkeypatch, alphas, cases):
    for name, number in (("mixup", 1), ("cutmix", 2)):
        monkeypatch.setattr(
            mixing, name, lambda _, images, targets, *rest, n=number: (images + n, targets + n)
        )

    @jax.jit
    def mix(keys, probability, share):
        settings = dict(zip(BOTH, (*alphas, probability, share), strict=True))
        zeros = jnp.zeros((2, 1, 1, 1)), jnp.zeros((2, 2))
        return jax.vmap(lambda key: mixing.mix(key, 0, *zeros, **settings))(keys)

    for probability, share, chances in cases:
        images, targets = map(np.asarray, mix(keys(10_000), probability, share))
        assert (images.reshape(10_000, 2) == targets[:, :, 0]).all()
        check(Counter(targets[:, 0, 0].astype(int).tolist()), dict(enumerate(chances)))


def test_a_batch_that_is_not_mixed_is_untouched(images, quick_beta):
    mix = jax.jit(partial(mixing.mix, **BOTH | {"probability": 0.0}))
    mixed, targets = mix(jax.random.key(0), 0, images, TARGETS)
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(targets, TARGETS)


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_padding_is_mixed_into_no_example(images, quick_beta, settings):
    mask = np.arange(12) % 3 > 0
    images, eye = jnp.concatenate([images, images + 10]), jnp.eye(12)
    several = keys(20, seed=3)
    mix = jax.vmap(lambda key, mask: mixing.mix(key, 0, images, eye, mask, **settings), (0, None))
    _, free = map(np.asarray, mix(several, jnp.ones(12, bool)))
    mixed, targets = map(np.asarray, mix(several, jnp.array(mask)))
    assert (free[:, mask][:, :, ~mask] > 0).any()
    assert not targets[:, mask][:, :, ~mask].any()
    np.testing.assert_allclose(mixed[:, ~mask], np.tile(images[~mask], (20, 1, 1, 1, 1)), atol=1e-5)
    # The other pairs are unchanged.
    pairs = np.array([[mask[other] for other in partners(one)] for one in free]) & mask
    np.testing.assert_array_equal(targets[pairs], free[pairs])
    assert pairs.any()


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_devices_share_lambda_and_box_but_not_partners(images, quick_beta, settings):
    images, eye = jnp.concatenate([images, images + 10]), jnp.eye(12)
    mix = jax.jit(jax.vmap(partial(mixing.mix, **settings), (None, 0, None, None)))
    mixed, targets = map(np.asarray, mix(jax.random.key(0), np.arange(8), images, eye))
    images = np.asarray(images)
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
        np.testing.assert_allclose(mixed[device][~moved], images[~moved], atol=1e-5)


def test_every_permutation_of_partners_is_as_likely(quick_beta):
    mix = jax.jit(jax.vmap(partial(mixing.mix, **MIXUP), (0, None, None, None)))
    _, mixed = mix(keys(3000), 1, jnp.zeros((3, 1, 1, 1)), jnp.eye(3))
    found = Counter(tuple(partners(one).tolist()) for one in np.asarray(mixed))
    assert len(found) == 6
    check(found, dict.fromkeys(found, 1 / 6))


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_no_key_is_drawn_from_twice(monkeypatch, images, settings):
    # fold_in(key, i) equals split(key)[i], so a device's index could give another draw's key.
    results = {
        "bernoulli": jnp.bool(True),
        "permutation": jnp.arange(6),
        "beta": jnp.float32(0.5),
        "randint": jnp.array([4, 5]),
    }
    drawn = {}
    for name, result in results.items():

        def draw(key, *_, name=name, result=result):
            drawn.setdefault(jax.random.key_data(key).tobytes(), set()).add(name)
            return result

        monkeypatch.setattr(jax.random, name, draw)
    with jax.disable_jit():  # otherwise the keys are tracers
        for device in range(8):
            mixing.mix(jax.random.key(5), device, images, TARGETS, **settings)
    uses = list(drawn.values())
    assert all(len(names) == 1 for names in uses)
    assert uses.count({"permutation"}) == 8 and uses.count({"beta"}) == 1
    assert uses.count({"randint"}) == (settings is CUTMIX)


def test_the_result_follows_from_the_key_alone(images, quick_beta):
    several = keys(6, seed=3)
    mix = jax.jit(jax.vmap(lambda key: mixing.mix(key, 0, images, TARGETS, **BOTH)))
    results = [np.asarray(result) for result in mix(several)]
    for result, reverse in zip(results, mix(several[::-1]), strict=True):
        np.testing.assert_array_equal(result, reverse[::-1])
        assert len({one.tobytes() for one in result}) == 6
    np.testing.assert_allclose(results[1].sum(-1), 1, atol=1e-6)
