"""Augmentation inside the step: policy, normalisation, erasing, mixing, targets."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.augment import basic, pipeline, policies
from jaxcifar.config import default
from jaxcifar.errors import InputError
from jaxcifar.metrics import batch_sums

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
LABELS = np.array([3, 0, 4, 1, 1, 2, 0, 3], np.int32)


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(0).randint(0, 256, (8, 8, 10, 3)).astype(np.uint8)


@pytest.fixture
def uniform(monkeypatch):
    # Beta(1, 1) is uniform, and a uniform draw compiles much faster.
    monkeypatch.setattr(jax.random, "beta", lambda key, a, b: jax.random.uniform(key))


def create(smoothing=0.0, **fields):
    section = default().augment
    section.update(fields)
    return jax.jit(
        pipeline.create_augment(
            section, mean=MEAN, std=STD, num_classes=5, label_smoothing=smoothing
        )
    )


def normalized(images):
    return (images / 255 - np.array(MEAN)) / np.array(STD)


def check(found, chances):
    """Checks the frequency of every outcome to five standard deviations."""
    size = found.total()
    assert sum(chances.values()) == pytest.approx(1)
    assert found.keys() <= {outcome for outcome, chance in chances.items() if chance > 0}
    for outcome, chance in chances.items():
        deviation = np.sqrt(size * chance * (1 - chance))
        assert abs(found[outcome] - size * chance) <= 5 * deviation + 1e-3 * size * chance, outcome


def zeros(results, image):
    """Returns where results [N, H, W, C] are 0, bool [N, H, W]; elsewhere they equal the image."""
    erased = np.asarray(results) == 0
    np.testing.assert_array_equal(results, np.where(erased, 0, image))
    assert (erased == erased[..., :1]).all()
    return erased[..., 0]


def box(shape, top, left, height, width):
    inside = np.zeros(shape, bool)
    inside[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = True
    return inside.tobytes()


def image_without_zeros(height, width):
    return np.random.RandomState(1).uniform(1, 2, (height, width, 3)).astype(np.float32)


def test_cutout_is_a_square_around_any_pixel():
    image = image_without_zeros(6, 7)
    keys = jax.random.split(jax.random.key(0), 10_000)
    cutouts = jax.jit(jax.vmap(basic.cutout, (0, None, None)))
    for size in (1, 3, 4, 9):
        results = cutouts(keys, image, size)
        chances = Counter()
        for row in range(6):
            for column in range(7):
                chances[box((6, 7), row - size // 2, column - size // 2, size, size)] += 1 / 42
        check(Counter(one.tobytes() for one in zeros(results, image)), chances)


def test_erasing_is_as_frequent_as_published_wherever_it_fits():
    height, width, probability = 6, 8, 0.7
    image = image_without_zeros(height, width)
    keys = jax.random.split(jax.random.key(0), 30_000)
    results = jax.jit(jax.vmap(lambda key: basic.erase(key, image, probability)))(keys)

    # 2 to 40 % of the area; height over width from 0.3 to 1 / 0.3, uniform in its logarithm.
    middles = (np.arange(1000) + 0.5) / 1000
    area = height * width * (0.02 + 0.38 * middles[:, None])
    ratio = 0.3 ** (1 - 2 * middles)
    heights = np.clip(np.round(np.sqrt(area * ratio)), 1, height).astype(int)
    widths = np.clip(np.round(np.sqrt(area / ratio)), 1, width).astype(int)
    counts = np.bincount((10 * heights + widths).ravel())
    chances = Counter({box((height, width), 0, 0, 0, 0): 1 - probability})
    for size in counts.nonzero()[0]:
        h, w = divmod(int(size), 10)
        places = [(y, x) for y in range(height - h + 1) for x in range(width - w + 1)]
        for place in places:
            chance = probability * counts[size] / counts.sum() / len(places)
            chances[box((height, width), *place, h, w)] += chance
    check(Counter(one.tobytes() for one in zeros(results, image)), chances)


def test_without_augmentation_images_are_normalised_and_there_are_no_targets(images):
    result, targets = create()(jax.random.key(0), 0, images, LABELS)
    assert targets is None and result.dtype == jnp.float32
    np.testing.assert_allclose(result, normalized(images), atol=1e-5)


def test_targets_are_left_out_unless_smoothed_or_mixed(images):
    run = jax.random.key(0), 0, images, LABELS
    for fields in ({"cutout_size": 2}, {"erasing_probability": 0.5}, {"policy": "randaugment"}):
        assert jax.eval_shape(create(**fields), *run)[1] is None
    for fields in ({"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}, {"smoothing": 0.1}):
        targets = jax.eval_shape(create(**fields), *run)[1]
        assert targets.shape == (8, 5) and targets.dtype == jnp.float32


def test_smoothed_targets_by_hand(images):
    _, targets = create(0.1)(jax.random.key(0), 0, images[:2], LABELS[:2])
    expected = [[0.02, 0.02, 0.02, 0.92, 0.02], [0.92, 0.02, 0.02, 0.02, 0.02]]
    np.testing.assert_allclose(targets, expected, atol=1e-6)


def test_the_smoothed_loss_is_pytorchs(images):
    # torch.nn.CrossEntropyLoss(label_smoothing=e): (1 - e) * (-log p_label) + e * mean(-log p).
    logits = np.random.RandomState(2).normal(size=(8, 5), scale=3)
    _, targets = create(0.2)(jax.random.key(0), 0, images, LABELS)
    sums = batch_sums(jnp.array(logits, jnp.float32), LABELS, np.ones(8, bool), targets)
    losses = np.log(np.exp(logits).sum(1, keepdims=True)) - logits
    expected = 0.8 * losses[np.arange(8), LABELS] + 0.2 * losses.mean(1)
    assert float(sums["loss"]) == pytest.approx(expected.sum(), rel=1e-5)


def test_mixed_images_are_those_that_the_targets_name(images, uniform):
    # Four classes with one image each: a row of targets identifies the image and its partner.
    labels = np.array([2, 4, 0, 1], np.int32)
    run = create(0.1, mixup_alpha=1.0)
    mixed, targets = run(jax.random.key(2), 0, images[:4], labels)
    # Smoothing comes last.
    weights = (np.asarray(targets) - 0.1 / 5) / 0.9
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(weights[:, 3], 0, atol=1e-6)
    weights = weights[:, labels]
    assert (np.diag(weights) < 0.99).any()
    expected = np.einsum("ij,jhwc->ihwc", weights, normalized(images[:4]))
    np.testing.assert_allclose(mixed, expected, atol=1e-5)


@pytest.mark.parametrize("fields", [{"cutout_size": 4}, {"erasing_probability": 1.0}])
def test_erased_pixels_are_at_the_mean(images, fields):
    result = np.asarray(create(**fields)(jax.random.key(0), 0, images, LABELS)[0])
    erased = (result == 0).all(-1)  # no byte is at the mean of all three channels
    assert (erased.any((1, 2))).all() and not erased.all((1, 2)).any()
    np.testing.assert_allclose(result[~erased], normalized(images)[~erased], atol=1e-5)
    assert len({one.tobytes() for one in erased}) > 1


def test_every_augmentation_has_a_key_of_its_own(monkeypatch):
    # Each augmentation stores what it draws in a different pixel.
    def draw(pixel, scale=1.0):
        def act(key, image, *_):
            drawn = scale * jax.random.uniform(key, (3,))
            return image.astype(jnp.float32).at[..., 0, pixel, :].set(drawn)

        return act

    monkeypatch.setattr(pipeline, "create_policy", lambda _: draw(0, 255.0))
    monkeypatch.setattr(basic, "cutout", draw(1))
    monkeypatch.setattr(basic, "erase", draw(2))
    monkeypatch.setattr(
        pipeline.mixing,
        "mix",
        lambda key, _, images, targets, mask, **settings: (draw(3)(key, images), targets),
    )
    section = default().augment
    section.update({"cutout_size": 1, "erasing_probability": 1.0, "mixup_alpha": 1.0})
    run = jax.jit(pipeline.create_augment(section, mean=(0.0,) * 3, std=(1.0,) * 3, num_classes=5))
    images = np.zeros((4, 1, 4, 3), np.uint8)
    found = np.array([run(jax.random.key(0), i, images, LABELS[:4])[0] for i in range(3)])
    found = found.round(4).reshape(12, 4, 3)
    assert len(np.unique(found[:, :3].reshape(-1, 3), axis=0)) == 3 * 12
    assert len(np.unique(found[:, 3], axis=0)) == 1  # the same for the whole batch
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 3 * 12 + 1


@pytest.mark.parametrize(
    "fields",
    [{"policy": "trivialaugment"}, {"cutout_size": 3, "erasing_probability": 0.5}],
    ids=["policy", "erasing"],
)
def test_augmentation_depends_on_the_position_in_the_global_batch(images, fields):
    # Eight copies of one image: all differences come from the place alone.
    copies = np.repeat(images[:1], 8, axis=0)
    run = create(**fields)
    whole, _ = run(jax.random.key(3), 0, copies, LABELS)
    assert len({np.asarray(one).tobytes() for one in whole}) > 5
    halves = [run(jax.random.key(3), i, copies[:4], LABELS[:4])[0] for i in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), whole)
    again, _ = run(jax.random.key(4), 0, copies, LABELS)
    assert sum((a != b).any() for a, b in zip(np.asarray(whole), again, strict=True)) > 5


@pytest.mark.parametrize(
    ("name", "maker", "arguments"),
    [
        ("autoaugment_cifar10", "auto_augment", ("cifar10", 7)),
        ("autoaugment_imagenet", "auto_augment", ("imagenet", 7)),
        ("randaugment", "rand_augment", (3, 11, 7)),
        ("trivialaugment", "trivial_augment_wide", (7,)),
        ("one_of_groups", "one_of_groups", (policies.DEFAULT_GROUPS, 7)),
    ],
)
def test_a_policy_gets_the_configs_fields(monkeypatch, name, maker, arguments):
    monkeypatch.setattr(policies, maker, lambda *given: given)
    config = default().augment
    config.update({"policy": name, "num_ops": 3, "magnitude": 11, "fill": 7})
    assert pipeline.create_policy(config) == arguments


def test_a_configs_groups_replace_the_default(images):
    result, _ = create(policy="one_of_groups", groups=((1.0, (("to_gray", 1.0),)),))(
        jax.random.key(0), 0, images, LABELS
    )
    pixels = np.asarray(result) * np.array(STD) + np.array(MEAN)
    np.testing.assert_allclose(pixels, np.repeat(pixels[..., :1], 3, -1), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"policy": "randaugmnt"},
            "unknown augment.policy 'randaugmnt'. Did you mean 'randaugment'\\? Known: none, ",
        ),
        (
            {"policy": "autoaugment_cifar"},
            "Did you mean 'autoaugment_cifar10'",
        ),
        ({"policy": ""}, "unknown augment.policy ''. Known: none, autoaugment_cifar10, "),
        ({"policy": "randaugment", "magnitude": 31}, "magnitude is 31; .* from 0 to 30"),
        ({"policy": "one_of_groups", "groups": ((1.0, (("clah", 1),)),)}, "'clahe'"),
    ],
)
def test_an_invalid_policy_is_refused(fields, message):
    config = default().augment
    config.update(fields)
    with pytest.raises(InputError, match=message):
        pipeline.create_policy(config)


def test_no_policy_is_none():
    assert pipeline.create_policy(default().augment) is None
