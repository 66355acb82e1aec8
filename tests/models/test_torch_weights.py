import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar import models
from jaxcifar.errors import InputError
from jaxcifar.models import torch_weights


@pytest.fixture(scope="module")
def variables():
    model = models.create("resnet8", num_classes=10, shortcut="B")
    return model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)


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


def test_densenet_names_are_torchvisions():
    fields = {"num_classes": 10, "stem": "imagenet", "block_layers": (1, 2), "growth_rate": 4}
    model = models.create("densenet121", **fields)
    template = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    names = {name.rsplit(".", 1)[0] for name in torch_weights.to_torch(template)}
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
    with pytest.raises(InputError, match=r"fc.weight: shape \(100, 64\), expected \(10, 64\)"):
        torch_weights.from_torch({**arrays, "fc.weight": np.zeros((100, 64))}, variables)
    with pytest.raises(InputError, match=r"fc.weight: shape \(10, 64, 1, 1\), expected \(10, 64\)"):
        torch_weights.from_torch({**arrays, "fc.weight": np.zeros((10, 64, 1, 1))}, variables)
    for bad in np.nan, np.inf:
        damaged = {**arrays, "fc.bias": np.full(10, bad, np.float32)}
        with pytest.raises(InputError, match="fc.bias: .*NaN or infinity"):
            torch_weights.from_torch(damaged, variables)
    del arrays["fc.bias"], arrays["bn1.weight"]
    with pytest.raises(InputError, match="missing arrays: bn1.weight, fc.bias"):
        torch_weights.from_torch(arrays, variables)
