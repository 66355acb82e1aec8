"""Converts weights to and from PyTorch's names and layout.

Networks that torchvision has use its names.
"""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from jax import tree_util

from jaxcifar.models import initial_weights

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
# Those of KellerJordan/cifar10-airbench, whose layers.0 is an activation.
_SPEEDRUN_MODULES = [
    (r"whitening", "whiten"),
    (r"block(\d+)/(\w+)", r"layers.\1.\2"),
    (r"(\w+)", r"\1"),
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
# Names that other repositories give to the same layers.
_ALIASES = [
    (
        r"linear\.(weight|bias)",
        r"fc.\1",
    ),  # kuangliu/pytorch-cifar, akamaster/pytorch_resnet_cifar10
    (r"(layer.*)\.shortcut\.(.*)", r"\1.downsample.\2"),  # kuangliu/pytorch-cifar
    (r"(.*denselayer\d+\.)(norm|conv)\.([12]\..*)", r"\1\2\3"),  # torchvision's older DenseNets
]
# Numbers of batches and of averaged models, which are no weights.
_COUNTERS = re.compile(r"(.*\.)?num_batches_tracked|n_averaged")


def torch_name(path: str, modules: Sequence[tuple[str, str]]) -> str:
    """Returns PyTorch's name of an array.

    Args:
      path: path of the array without its collection, e.g. "stage1_block1/conv1/kernel".
      modules: pairs of a pattern of a module's path and its name in PyTorch.

    Raises:
      KeyError: if PyTorch's network has no such array.
    """
    module, leaf = path.rsplit("/", 1)
    for pattern, replacement in modules:
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
      variables: `params` and `batch_stats` of a model.
    """
    return {
        name: np.array(np.transpose(array, _to_torch_axes(array.ndim)), order="C")
        for name, (_, array) in _by_torch_name(variables).items()
    }


def with_our_names(
    arrays: Mapping[str, np.ndarray], template: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns weights under the names of `to_torch`, and what the user should know about that.

    Counters of batches are left out. Prefixes that every name has are removed, such as those of
    DistributedDataParallel (`module.`), `torch.compile` (`_orig_mod.`) and Lightning (`model.`).
    Names that some repositories give to the same layers are replaced.

    Args:
      arrays: arrays by the names in a file.
      template: variables of the model, as arrays or as shapes.
    """
    arrays = {k: v for k, v in arrays.items() if not _COUNTERS.fullmatch(k)}
    wanted, notes = _by_torch_name(template).keys(), []
    prefix = _shared_prefix(arrays, {name.partition(".")[0] for name in wanted})
    if prefix:
        arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
        notes.append(f"every name begins with {prefix!r}, which was removed")
    renamed = {name: ours for name in arrays if (ours := _alias(name, wanted)) not in arrays}
    if renamed:
        arrays = {renamed.get(name, name): array for name, array in arrays.items()}
        old, new = next(iter(renamed.items()))
        notes.append(f"{old} was taken for {new}" + (", and so on" if len(renamed) > 1 else ""))
    return arrays, notes


def from_torch(
    arrays: Mapping[str, np.ndarray],
    template: Mapping[str, Any],
    *,
    head: str = "",
    reset_head: bool = False,
) -> dict[str, Any]:
    """Returns `params` and `batch_stats` in the structure of `template`, with PyTorch's values.

    Args:
      arrays: arrays by PyTorch's names; counters of batches (`num_batches_tracked`) are ignored.
      template: variables of the same model, as arrays or as shapes.
      head: name of the classifier in `params`, see `registry.Entry`; "" if unknown.
      reset_head: whether to keep the classifier of `template`, which needs to have arrays.

    Raises:
      InputError: if arrays are missing, unexpected, of another shape, no floats, or not finite; the
        message names them.
    """
    arrays = {k: v for k, v in arrays.items() if not _COUNTERS.fullmatch(k)}
    named = _by_torch_name(template)
    axes = {name: _to_torch_axes(like.ndim) for name, (_, like) in named.items()}
    shapes = {
        name: tuple(like.shape[axis] for axis in axes[name]) for name, (_, like) in named.items()
    }
    heads = [name.rpartition(".")[0] for name, (path, _) in named.items() if path[1].key == head]
    torch_head = heads[0] + "." if heads else ""
    values = initial_weights.fit(arrays, shapes, head=torch_head, reset_head=reset_head)
    by_path = {
        path: np.transpose(values[name], np.argsort(axes[name])) if name in values else like
        for name, (path, like) in named.items()
    }
    return tree_util.tree_map_with_path(lambda path, _: by_path[path], dict(template))


def _shared_prefix(names: Iterable[str], modules: Set[str]) -> str:
    """What all names start with, up to a dot, unless that is one of the model's own modules."""
    prefix = ""
    while True:
        first = {name.removeprefix(prefix).partition(".")[::2] for name in names}
        modules_found = {module for module, _ in first}
        if len(modules_found) != 1 or not all(rest for _, rest in first):
            return prefix
        if modules_found <= modules:
            return prefix
        prefix += modules_found.pop() + "."


def _alias(name: str, wanted: Set[str]) -> str:
    """Our name of an array if another repository's name for it is known, otherwise `name`."""
    for pattern, replacement in _ALIASES:
        ours = re.sub(pattern, replacement, name)
        if name not in wanted and ours in wanted:
            return ours
    return name


def _by_torch_name(variables: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Path and array of each variable, by PyTorch's name."""
    variables = dict(variables)
    if any(name.startswith("block1_layer") for name in variables["params"]):
        modules = _DENSENET_MODULES
    else:
        modules = _SPEEDRUN_MODULES if "block1" in variables["params"] else _MODULES
    named = {}
    for path, array in tree_util.tree_leaves_with_path(variables):
        keys = "/".join(entry.key for entry in path[1:])  # without the collection
        named[torch_name(keys, modules)] = path, array
    return named


def _to_torch_axes(ndim: int) -> tuple[int, ...]:
    return {0: (), 1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[ndim]
