"""The speedrun networks against closed forms; tests/models/test_goldens.py has PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar import models
from jaxcifar.errors import InputError
from jaxcifar.models.counting import count
from jaxcifar.models.speedrun import WHITENING_IMAGES, identity_init, whitening_kernel


def test_the_multiply_adds_are_those_that_are_published():
    # 0.71 GFLOP per training image, three passes of two operations each.
    counts = count(models.create("speedrun94", num_classes=10), (32, 32, 3))
    assert round(counts.macs / 1e6) == 118
    # Kernels of six convolutions and the head, one bias per channel of a norm, and the first bias.
    kernels = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 256 * 10
    assert counts.parameters == kernels + 2 * (64 + 256 + 256) + 24


def correlated_images(size=64):
    """Images [size, 12, 12, 3] whose neighbouring pixels and channels are alike."""
    noise = np.random.RandomState(0).normal(size=(size, 13, 13, 3))
    images = (
        noise[:, 1:, 1:] + noise[:, :-1, 1:] + noise[:, 1:, :-1] + noise.mean(3)[:, 1:, 1:, None]
    )
    return images.astype(np.float32)


def test_whitened_patches_have_the_identity_as_second_moments():
    images = correlated_images()
    kernel = np.asarray(whitening_kernel(jnp.array(images)))
    assert kernel.shape == (2, 2, 3, 24)
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), (1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12).astype(np.float64)
    whitened = patches @ kernel.reshape(12, 24)[:, :12].astype(np.float64)
    moments = whitened.T @ whitened / len(whitened)
    # An eigenvalue v becomes v / (v + 5e-4).
    values = np.linalg.eigvalsh(patches.T @ patches / len(patches))[::-1]
    np.testing.assert_allclose(moments, np.diag(values / (values + 5e-4)), atol=1e-4)


def test_the_first_filters_pass_their_channel_on_and_the_others_are_uniform():
    kernel = np.asarray(identity_init(jax.random.key(0), (3, 3, 20, 50)))
    expected = np.zeros((3, 3, 20, 20))
    expected[1, 1] = np.eye(20)
    np.testing.assert_array_equal(kernel[..., :20], expected)
    rest, bound = kernel[..., 20:], 1 / np.sqrt(9 * 20)
    assert 0.99 * bound < np.abs(rest).max() <= bound
    np.testing.assert_allclose(rest.std(), bound / np.sqrt(3), rtol=0.02)
    narrower = np.asarray(identity_init(jax.random.key(0), (3, 3, 20, 8)))
    np.testing.assert_array_equal(narrower, expected[..., :8])


def test_only_a_network_with_whitening_depends_on_the_images_it_is_initialised_with():
    zeros, images = jnp.zeros((1, 12, 12, 3)), jnp.array(correlated_images())
    for whitening in (True, False):
        model = models.create("speedrun94", num_classes=10, whitening=whitening)
        assert model.init_images == (WHITENING_IMAGES if whitening else 0)
        one, other = (model.init(jax.random.key(0), x, train=False) for x in (zeros, images))
        jax.tree.map(np.testing.assert_array_equal, one["params"], other["params"])
        assert ("kernel" in one["batch_stats"].get("whitening", {})) == whitening
        if whitening:
            kernel = other["batch_stats"]["whitening"]["kernel"]
            np.testing.assert_array_equal(kernel, whitening_kernel(images))


def test_training_leaves_the_whitening_kernel_as_it_is():
    images = jnp.array(correlated_images(8))
    model = models.create("speedrun94", num_classes=10, widths=(8, 8, 8))
    variables = model.init(jax.random.key(0), images, train=False)
    _, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    before, after = (v["batch_stats"]["whitening"]["kernel"] for v in (variables, updates))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"widths": (64, 256)}, r"widths = \(64, 256\): must be three numbers of channels"),
        ({"convs_per_block": 1}, "convs_per_block = 1: must be 2 or 3"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        models.create("speedrun94", num_classes=10, **fields)
