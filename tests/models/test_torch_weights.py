import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar import models
from jaxcifar.errors import InputError
from jaxcifar.models import torch_weights
from tests.models.helpers import drawn


@pytest.fixture(scope="module")
def variables():
    model = models.create("resnet8", num_classes=10, shortcut="B")
    return jax.tree.map(np.asarray, drawn(model, jnp.zeros((1, 8, 8, 3))))


def test_names_and_layout_are_torchvisions(variables):
    arrays = torch_weights.to_torch(variables)
    assert {
        "conv1.weight": (16, 3, 3, 3),
        "bn1.running_var": (16,),
        "layer2.0.conv1.weight": (32, 16, 3, 3),
        "layer2.0.downsample.0.weight": (32, 16, 1, 1),
        "layer2.0.downsample.1.bias": (32,),
        "fc.weight": (10, 64),
    }.items() <= {name: array.shape for name, array in arrays.items()}.items()
    kernel = variables["params"]["stage2_block1"]["conv1"]["kernel"]
    assert arrays["layer2.0.conv1.weight"][5, 3, 0, 2] == kernel[0, 2, 3, 5]


def small_densenet():
    """Variables of a DenseNet with the ImageNet stem."""
    fields = {"num_classes": 10, "stem": "imagenet", "block_layers": (1, 2), "growth_rate": 4}
    return drawn(models.create("densenet121", **fields), jnp.zeros((1, 32, 32, 3)))


def test_densenet_names_are_torchvisions():
    names = {name.rsplit(".", 1)[0] for name in torch_weights.to_torch(small_densenet())}
    assert names == {
        *("features.conv0", "features.norm0", "features.norm5", "classifier"),
        *(f"features.denseblock1.denselayer1.{n}" for n in ("norm1", "conv1", "norm2", "conv2")),
        *(f"features.denseblock2.denselayer1.{n}" for n in ("norm1", "conv1", "norm2", "conv2")),
        *(f"features.denseblock2.denselayer2.{n}" for n in ("norm1", "conv1", "norm2", "conv2")),
        *("features.transition1.norm", "features.transition1.conv"),
    }


def test_a_round_trip_gives_the_same_arrays(variables):
    arrays = torch_weights.to_torch(variables)
    arrays["bn1.num_batches_tracked"] = np.int64(7)
    back = torch_weights.from_torch(arrays, variables)
    jax.tree.map(np.testing.assert_array_equal, back, dict(variables))


def test_arrays_that_do_not_fit_are_named(variables):
    arrays = torch_weights.to_torch(variables)
    with pytest.raises(InputError, match="unexpected arrays: layer9.0.conv1.weight"):
        torch_weights.from_torch({**arrays, "layer9.0.conv1.weight": np.zeros(1)}, variables)
    with pytest.raises(InputError, match=r"fc.weight: shape \(100, 64\), expected \(10, 64\)") as e:
        torch_weights.from_torch({**arrays, "fc.weight": np.zeros((100, 64))}, variables)
    assert "reset_head" not in str(e.value)  # which needs to know the classifier
    with pytest.raises(InputError, match=r"fc.weight: shape \(10, 64, 1, 1\), expected \(10, 64\)"):
        torch_weights.from_torch({**arrays, "fc.weight": np.zeros((10, 64, 1, 1))}, variables)
    for bad in np.nan, np.inf:
        damaged = {**arrays, "fc.bias": np.full(10, bad, np.float32)}
        with pytest.raises(InputError, match="fc.bias: .*NaN or infinity"):
            torch_weights.from_torch(damaged, variables)
    del arrays["fc.bias"], arrays["bn1.weight"]
    with pytest.raises(InputError, match="missing arrays: bn1.weight, fc.bias"):
        torch_weights.from_torch(arrays, variables)


def renamed(arrays, *pairs):
    """The arrays with texts in their names replaced."""
    result = {}
    for name, array in arrays.items():
        for old, new in pairs:
            name = re.sub(old, new, name)
        result[name] = array
    return result


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "net._orig_mod."],
)
def test_prefixes_that_every_name_has_are_removed(variables, prefix):
    arrays = torch_weights.to_torch(variables)
    found, notes = torch_weights.with_our_names(renamed(arrays, ("^", prefix)), variables)
    assert found.keys() == arrays.keys()
    assert all(found[name] is arrays[name] for name in arrays)
    assert notes == [f"every name begins with {prefix!r}, which was removed"]


def test_the_counter_of_averaged_models_is_no_name(variables):
    arrays = torch_weights.to_torch(variables)
    saved = {**renamed(arrays, ("^", "module.")), "n_averaged": np.int64(3)}
    assert torch_weights.with_our_names(saved, variables)[0].keys() == arrays.keys()


def test_a_prefix_that_some_names_lack_stays(variables):
    saved = {
        **renamed(torch_weights.to_torch(variables), ("^", "model.")),
        "loss.weight": np.ones(3),
    }
    found, notes = torch_weights.with_our_names(saved, variables)
    assert found.keys() == saved.keys() and not notes
    with pytest.raises(InputError, match="missing arrays: bn1.*\n.*unexpected arrays: loss.weight"):
        torch_weights.from_torch(found, variables)


def test_modules_of_the_network_are_no_prefix():
    variables = small_densenet()
    arrays = torch_weights.to_torch(variables)
    body = {name: array for name, array in arrays.items() if name.startswith("features.")}
    saved = renamed(body, ("^", "model."))
    found, _ = torch_weights.with_our_names(saved, variables)
    assert found.keys() == body.keys()
    back = torch_weights.from_torch(found, variables, head="head", reset_head=True)
    assert jax.tree.structure(back) == jax.tree.structure(dict(variables))


def test_names_of_other_repositories_are_known(variables):
    arrays = torch_weights.to_torch(variables)
    saved = renamed(arrays, ("downsample", "shortcut"), ("^fc", "linear"))
    found, notes = torch_weights.with_our_names(saved, variables)
    assert found.keys() == arrays.keys() and len(notes) == 1 and "taken for" in notes[0]
    densenet = small_densenet()
    arrays = torch_weights.to_torch(densenet)
    saved = renamed(arrays, (r"(denselayer\d\.\w+)([12])\.", r"\1.\2."))
    assert saved.keys() != arrays.keys()
    assert torch_weights.with_our_names(saved, densenet)[0].keys() == arrays.keys()
    assert torch_weights.with_our_names(arrays, densenet) == (arrays, [])


def test_the_classifier_can_be_left_as_it_is(variables):
    arrays = torch_weights.to_torch(jax.tree.map(lambda x: x + 1, variables))
    expected = jax.tree.map(lambda x: x + 1, dict(variables))
    expected["params"] = {**expected["params"], "head": variables["params"]["head"]}
    for change in (
        {"fc.weight": np.zeros((100, 64), np.float32), "fc.bias": np.zeros(100, np.float32)},
        {"fc.weight": None, "fc.bias": None},
        {"fc.weight": None, "fc.1.weight": np.zeros((3, 64), np.float32)},
    ):
        saved = {k: v for k, v in {**arrays, **change}.items() if v is not None}
        with pytest.raises(InputError, match="Only the classifier does not fit; --reset_head"):
            torch_weights.from_torch(saved, variables, head="head")
        back = torch_weights.from_torch(saved, variables, head="head", reset_head=True)
        jax.tree.map(np.testing.assert_array_equal, back, expected)
    saved = {**arrays, "fc.bias": np.zeros(3), "bn1.bias": np.zeros(3)}
    with pytest.raises(InputError) as refused:
        torch_weights.from_torch(saved, variables, head="head")
    assert "reset_head" not in str(refused.value)  # it would not be enough
