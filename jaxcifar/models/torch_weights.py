"""Converts weights to and from PyTorch's names and layout.

Networks that torchvision has use its names.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import tree_util

from jaxcifar.errors import InputError

# Path of a module -> its name in PyTorch; the first pattern that matches the whole path applies.
_MODULES = [
    (r"conv", "conv1"),
    (r"norm", "bn1"),
    (r"norm_end", "bn_end"),
    (r"stage(\d+)_block(\d+)/conv(\d)", r"layer\1.<\2>.conv\3"),
    (r"stage(\d+)_block(\d+)/norm(\d)", r"layer\1.<\2>.bn\3"),
    (r"stage(\d+)_block(\d+)/conv_shortcut", r"layer\1.<\2>.downsample.0"),
    (r"stage(\d+)_block(\d+)/norm_shortcut", r"layer\1.<\2>.downsample.1"),
    (r"head", "fc"),
]
_DENSENET_MODULES = [
    (r"conv", "features.conv0"),
    (r"norm_stem", "features.norm0"),
    (r"block(\d+)_layer(\d+)/(\w+)", r"features.denseblock\1.denselayer\2.\3"),
    (r"transition(\d+)_(\w+)", r"features.transition\1.\2"),
    (r"norm", "features.norm5"),
    (r"head", "classifier"),
]
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "positive_scale": "positive_scale",
    "negative_scale": "negative_scale",
}


def torch_name(path: str, densenet: bool) -> str:
    """Returns PyTorch's name of an array.

    Args:
      path: path of the array without its collection, e.g. "stage1_block1/conv1/kernel".
      densenet: whether the model is a DenseNet.

    Raises:
      KeyError: if PyTorch's network has no such array.
    """
    module, leaf = path.rsplit("/", 1)
    for pattern, replacement in _DENSENET_MODULES if densenet else _MODULES:
        if match := re.fullmatch(pattern, module):
            name = match.expand(replacement)
            # PyTorch counts blocks from 0.
            name = re.sub(r"<(\d+)>", lambda number: str(int(number[1]) - 1), name)
            return f"{name}.{_LEAVES[leaf]}"
    raise KeyError(path)


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns all arrays of a model with PyTorch's names and layout.

    Convolution kernels change from [H, W, in, out] to [out, in, H, W], the classifier's kernel from
    [in, out] to [out, in].

    Args:
      variables: `params` and `batch_stats` of a ResNet or a DenseNet.
    """
    return {
        name: np.array(np.transpose(array, _to_torch_axes(array.ndim)), order="C")
        for name, (_, array) in _by_torch_name(variables).items()
    }


def from_torch(arrays: Mapping[str, np.ndarray], template: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `params` and `batch_stats` in the structure of `template`, with PyTorch's values.

    Args:
      arrays: arrays by PyTorch's names; batch counters (`num_batches_tracked`) are ignored.
      template: variables of the same model, as arrays or as shapes.

    Raises:
      InputError: if arrays are missing, unexpected, of a different shape, or not finite; the
        message names them.
    """
    arrays = {k: v for k, v in arrays.items() if not k.endswith("num_batches_tracked")}
    wanted = _by_torch_name(template)
    for kind, names in (
        ("missing", wanted.keys() - arrays.keys()),
        ("unexpected", arrays.keys() - wanted.keys()),
    ):
        if names:
            shown = ", ".join(sorted(names)[:5])
            more = f", ... ({len(names)} in total)" if len(names) > 5 else ""
            raise InputError(f"{kind} arrays: {shown}{more}")

    values = {}
    for name, (path, like) in wanted.items():
        value, axes = arrays[name], _to_torch_axes(like.ndim)
        expected = tuple(like.shape[axis] for axis in axes)
        if value.shape != expected:
            raise InputError(f"{name}: shape {value.shape}, expected {expected}")
        values[path] = np.transpose(value, np.argsort(axes)).astype(like.dtype)
        if not np.isfinite(values[path]).all():
            raise InputError(f"{name}: contains NaN or infinity")
    return tree_util.tree_map_with_path(lambda path, _: values[path], dict(template))


def _by_torch_name(variables: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Path and array of each variable, by PyTorch's name."""
    variables = dict(variables)
    densenet = any(name.startswith("block1_layer") for name in variables["params"])
    named = {}
    for path, array in tree_util.tree_leaves_with_path(variables):
        keys = "/".join(entry.key for entry in path[1:])  # without the collection
        named[torch_name(keys, densenet)] = path, array
    return named


def _to_torch_axes(ndim: int) -> tuple[int, ...]:
    return {0: (), 1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[ndim]
