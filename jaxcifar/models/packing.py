"""Trained ternary networks for use: kernels of 1.6 bits per weight, and no batch normalisation."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from jaxcifar.errors import InputError
from jaxcifar.kernels import packed_ternary
from jaxcifar.kernels.batch_norm import EPSILON
from jaxcifar.models import ternary
from jaxcifar.models.blocks import FOLDED

Flat = dict[tuple[str, ...], Any]


def pack(
    module: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, int, int]
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a network that computes the same, from packed kernels.

    Batch normalisation after a convolution becomes part of its scales and a bias.

    Args:
      module: a residual network with ternary weights.
      variables: its `params` and `batch_stats`.
      image_shape: height, width and channels.

    Raises:
      InputError: if its weights are not ternary.
    """
    layers = ternary.ternary_layers(module, variables, image_shape)
    if not layers:
        raise InputError("the network has no ternary weights; model.ternary must be twn or ttq")
    params = traverse_util.flatten_dict(variables["params"])
    packed = {path: value for path, value in params.items() if path[:-1] not in layers}
    for layer in layers:
        packed |= _packed_layer(module, params, layer)
    stats = traverse_util.flatten_dict(variables["batch_stats"])
    module = packed_module(module)
    if module.norm == FOLDED:
        packed, stats = _without_norms(packed, stats), {}
    return module, {
        "params": traverse_util.unflatten_dict(packed),
        "batch_stats": traverse_util.unflatten_dict(stats),
    }


def packed_module(module: nn.Module) -> nn.Module:
    """Returns the module whose variables `pack` makes, for one with ternary weights."""
    follows_convolution = not getattr(module, "preactivation", False)
    folds = module.norm == "batch" and follows_convolution
    return module.clone(ternary=ternary.PACKED, norm=FOLDED if folds else module.norm)


def _packed_layer(module: nn.Module, params: Flat, layer: tuple[str, ...]) -> Flat:
    """The variables of one convolution, with its levels and scales apart."""
    kernel = params[*layer, "kernel"]
    out = kernel.shape[-1]
    if (*layer, "positive_scale") in params:
        levels = ternary.ttq_levels(kernel)
        scales = [params[*layer, f"{sign}_scale"] for sign in ("positive", "negative")]
        both = jnp.stack([jnp.broadcast_to(scale, out) for scale in scales])
    else:
        per_filter = module.ternary_scale == "filter"
        levels = ternary.twn_levels(kernel, per_filter)
        # Each weight that is not at level 0 has the magnitude of its filter's scale.
        both = jnp.broadcast_to(jnp.abs(ternary.twn(kernel, per_filter)).max((0, 1, 2)), (2, out))
    found = {
        (*layer, "codes"): jnp.asarray(packed_ternary.pack(np.asarray(levels))),
        (*layer, "scales"): both.astype(jnp.float32),
    }
    if (*layer, "bias") in params:
        found[*layer, "bias"] = params[*layer, "bias"]
    return found


def _without_norms(params: Flat, stats: Flat) -> Flat:
    """Variables whose batch normalisations are part of the convolutions before them."""
    folded = dict(params)
    for *module, norm, _ in {path for path in stats if path[-1] == "mean"}:
        layer, conv = (*module, norm), (*module, norm.replace("norm", "conv"))
        factor = folded.pop((*layer, "scale")) * jax.lax.rsqrt(stats[*layer, "var"] + EPSILON)
        folded[*conv, "bias"] = folded.pop((*layer, "bias")) - stats[*layer, "mean"] * factor
        weights = "scales" if (*conv, "scales") in folded else "kernel"
        folded[*conv, weights] = folded[*conv, weights] * factor
    return folded
