"""Compares every model family with the same network in PyTorch, for equal weights and images."""

import json
import runpy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar import models
from jaxcifar.models import torch_weights
from tests.helpers import COMPILED_QUICKLY, REPOSITORY

torch_side = runpy.run_path(str(REPOSITORY / "scripts" / "goldens" / "make_torch_goldens.py"))

# Golden -> name and fields of the model.
MODELS = {
    "resnet20": ("resnet20", {}),
    "resnet20_b": ("resnet20", {"shortcut": "B"}),
    "resnet20_preactivation": ("resnet20", {"preactivation": True}),
    "resnet20_group": ("resnet20", {"norm": "group"}),
    "resnet20_layer": ("resnet20", {"norm": "layer"}),
    "resnet20_none": ("resnet20", {"norm": "none"}),
    "resnet20_twn": ("resnet20", {"ternary": "twn"}),
    "resnet20_twn_filter": ("resnet20", {"ternary": "twn", "ternary_scale": "filter"}),
    "resnet20_ttq": ("resnet20", {"ternary": "ttq"}),
    "resnet110": ("resnet110", {}),
    "resnet110_preactivation": ("resnet110", {"preactivation": True}),
    "resnet18": ("resnet18", {}),
    "resnet18_none": ("resnet18", {"norm": "none"}),
    "resnet18_twn": ("resnet18", {"ternary": "twn"}),
    "resnet18_ttq": ("resnet18", {"ternary": "ttq"}),
    "resnet50": ("resnet50", {}),
    "resnet50_group": ("resnet50", {"norm": "group"}),
    "resnet18_imagenet": ("resnet18", {"stem": "imagenet"}),
    "resnet50_imagenet": ("resnet50", {"stem": "imagenet"}),
    "densenet_bc_40_12": ("densenet_bc_100_12", {"depth": 40}),
    "densenet_bc_100_12": ("densenet_bc_100_12", {}),
    "densenet121": ("densenet121", {}),
    "densenet121_imagenet": ("densenet121", {"stem": "imagenet"}),
    "speedrun94": ("speedrun94", {}),
    "speedrun96": ("speedrun96", {"widths": (16, 24, 32)}),
}
QUICK = {
    *("resnet20", "resnet20_preactivation", "resnet20_group", "resnet20_none"),
    *("resnet20_twn_filter", "resnet20_ttq", "resnet18", "densenet_bc_40_12"),
    "speedrun96",
}
# One of each family; all models in `QUICK` are compared in float64.
QUICK_IN_FLOAT32 = {"resnet20", "densenet_bc_40_12"}
# Models in which no activation is so close to a ReLU's kink that float32 moves it across.
SMOOTH_IN_FLOAT32 = {*QUICK, "resnet20_b", "resnet110", "resnet18_imagenet"}
# Models that have such an activation, but not for images scaled by this factor.
SMOOTH_BESIDE = {"resnet110": 1 + 2e-7, "resnet18_imagenet": 1 + 1e-6}


def test_every_golden_is_compared():
    assert MODELS.keys() == torch_side["MODELS"].keys()


def deviations(name, dtype, scale=1.0):
    """Returns the largest relative deviations from PyTorch, for images multiplied by `scale`."""
    expected = json.loads((REPOSITORY / "tests" / "goldens" / f"{name}.json").read_text())
    size = torch_side["MODELS"][name][3]
    images, labels = torch_side["batch"](size)
    images = (images * np.float64(scale)).astype(dtype)
    model_name, fields = MODELS[name]
    model = models.create(model_name, num_classes=10, dtype=dtype, **fields)
    template = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False)
    )
    shapes = torch_weights.to_torch(
        jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), template)
    )
    arrays = {key: torch_side["weights"](key, value.shape) for key, value in shapes.items()}
    variables = jax.tree.map(lambda x: x.astype(dtype), torch_weights.from_torch(arrays, template))

    @partial(jax.jit, compiler_options=COMPILED_QUICKLY)
    def compute(variables):
        eval_logits = model.apply(variables, images, train=False)

        def loss(params):
            logits, updates = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), (logits, updates.get("batch_stats", {}))

        gradients, (logits, batch_stats) = jax.grad(loss, has_aux=True)(variables["params"])
        return eval_logits, logits, gradients, batch_stats

    eval_logits, logits, gradients, batch_stats = compute(variables)
    found = torch_weights.to_torch({"params": gradients, "batch_stats": batch_stats})
    norms = {key: np.linalg.norm(value.astype(np.float64)) for key, value in found.items()}
    assert norms.keys() == expected["statistics"].keys() | expected["gradients"].keys()

    def deviation(found, wanted):
        found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
        return np.abs(found - wanted).max() / np.abs(wanted).max()

    def largest(kind):
        return max((deviation(norms[key], v) for key, v in expected[kind].items()), default=0)

    result = {
        "eval logits": deviation(eval_logits, expected["eval_logits"]),
        "train logits": deviation(logits, expected["train_logits"]),
        "statistics": largest("statistics"),
        "gradients": largest("gradients"),
    }
    print(name, dtype.__name__, {kind: f"{value:.1e}" for kind, value in result.items()})
    return result


def names(quick):
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]


@pytest.mark.parametrize("name", names(QUICK))
def test_network_matches_pytorch_in_float64(name):
    with jax.enable_x64(True):
        assert max(deviations(name, np.float64).values()) < 1e-5


@pytest.mark.parametrize("name", ["resnet20", "densenet_bc_40_12"])
@pytest.mark.usefixtures("as_on_a_gpu")
def test_network_on_a_gpu_matches_pytorch_in_float64(name):
    with jax.enable_x64(True):
        assert max(deviations(name, np.float64).values()) < 1e-5


@pytest.mark.parametrize("name", names(QUICK_IN_FLOAT32))
def test_network_matches_pytorch_in_float32(name):
    found = deviations(name, np.float32)
    if name in SMOOTH_BESIDE:
        beside = deviations(name, np.float32, SMOOTH_BESIDE[name])
        found["gradients"] = beside["gradients"]
    if name not in SMOOTH_IN_FLOAT32:
        del found["gradients"]
    assert max(found.values()) < 1e-4
