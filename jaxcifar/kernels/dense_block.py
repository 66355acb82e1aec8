"""Training of a dense block, where every layer reads all features before it and adds k more.

Huang et al. 2016, "Densely Connected Convolutional Networks", sections 3 and 4.3. A layer is
BatchNorm, ReLU, 1x1 convolution to 4k channels, BatchNorm, ReLU, 3x3 convolution to k channels.

Joining features by concatenation takes memory and traffic that grow with the square of the depth.
Here they are written side by side into one buffer, already standardised: the batch statistics of a
feature are the same for every layer that reads it; only scale and bias differ between layers. The
backward pass is written out: it recomputes what each layer derives from the buffer, and sums the
gradients of the features in one buffer too (Pleiss et al. 2017, "Memory-Efficient Implementation of
DenseNets").
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcifar.kernels.backend import is_cpu
from jaxcifar.kernels.batch_norm import (
    Affine,
    Standardized,
    Statistics,
    affine_map,
    batch_statistics,
    normalize,
    standardize,
    standardize_gradient,
    updated,
)
from jaxcifar.kernels.convolution import convolve
from jaxcifar.kernels.relu import relu

Tree = Mapping[str, Any]


class Settings(NamedTuple):
    """Static settings of a dense block.

    Attributes:
      dropout_rate: probability that a new feature is zeroed.
      recompute: whether the backward pass also recomputes the 4k channels within a layer instead of
        storing them.
      axis_name: device axis over which batch statistics are averaged, or None.
    """

    dropout_rate: float
    recompute: bool
    axis_name: str | None


def train(
    settings: Settings, x: jax.Array, layers: Sequence[Tree], key: jax.Array
) -> tuple[Standardized, list[Tree]]:
    """Returns the output of a dense block in training, and each layer's new `batch_stats`.

    Args:
      settings: static settings.
      x: features [B, H, W, C].
      layers: variables of each layer: `params` and `batch_stats` of its `norm1`, `conv1`, `norm2`
        and `conv2`.
      key: PRNG key for dropout.
    """
    weights = [_weights(layer["params"]) for layer in layers]
    features, statistics, within = _block(settings, x, weights, key)
    batch_stats, width = [], x.shape[-1]
    for layer, weight, bottleneck in zip(layers, weights, within, strict=True):
        read = jax.tree.map(lambda part, width=width: part[:width], statistics)
        old = layer["batch_stats"]
        batch_stats.append(
            {"norm1": _moved(old["norm1"], read), "norm2": _moved(old["norm2"], bottleneck)}
        )
        width += weight.kernel2.shape[-1]
    return Standardized(features, statistics), batch_stats


class _Weights(NamedTuple):
    """The parameters of a layer, in the order of their use."""

    affine1: Affine
    kernel1: jax.Array
    affine2: Affine
    kernel2: jax.Array


def _weights(params: Tree) -> _Weights:
    return _Weights(
        Affine(**params["norm1"]),
        params["conv1"]["kernel"],
        Affine(**params["norm2"]),
        params["conv2"]["kernel"],
    )


def _moved(old: Tree, batch: Statistics) -> Tree:
    mean, variance = updated(Statistics(old["mean"], old["var"]), batch)
    return {"mean": mean, "var": variance}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _block(
    settings: Settings, x: jax.Array, layers: list[_Weights], key: jax.Array
) -> tuple[jax.Array, Statistics, list[Statistics]]:
    """The standardised features, their statistics, and the statistics of the layers' 4k channels.

    Only the features have a gradient.
    """
    return _forward(settings, x, layers, key)[0]


def _forward(settings: Settings, x: jax.Array, layers: list[_Weights], key: jax.Array) -> Any:
    width = x.shape[-1]
    added = sum(weights.kernel2.shape[-1] for weights in layers)
    block_input = standardize(x, settings.axis_name)
    features = jnp.pad(block_input.values, ((0, 0), (0, 0), (0, 0), (0, added)))
    statistics, bottlenecks, within = [block_input.statistics], [], []
    for index, weights in enumerate(layers):
        bottleneck = _project(features[..., :width], *weights[:2])
        new, inner = _expand(settings, bottleneck, *weights[2:], jax.random.fold_in(key, index))
        end = width + new.shape[-1]
        new = standardize(new, settings.axis_name)
        features = _write(features, width, new.values)
        statistics.append(new.statistics)
        bottlenecks.append(None if settings.recompute else bottleneck)
        within.append(inner)
        width = end
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *statistics)
    return (features, joined, within), (features, statistics, bottlenecks, layers, key)


def _backward(settings: Settings, saved: Any, gradients: Any) -> Any:
    features, statistics, bottlenecks, layers, key = saved
    into_features = gradients[0]
    into_layers: list[_Weights] = []
    end = features.shape[-1]
    for index in reversed(range(len(layers))):
        weights = layers[index]
        start = end - weights.kernel2.shape[-1]
        # No later layer remains that reads the new features, so their gradient is complete.
        new = Standardized(features[..., start:end], statistics[1 + index])
        into_new = standardize_gradient(new, into_features[..., start:end], settings.axis_name)
        bottleneck, project_vjp = jax.vjp(_project, features[..., :start], *weights[:2])
        if not settings.recompute:
            bottleneck = bottlenecks[index]
        expand = partial(_expand, settings, key=jax.random.fold_in(key, index))
        _, expand_vjp, _ = jax.vjp(expand, bottleneck, *weights[2:], has_aux=True)
        into_bottleneck, *into_second = expand_vjp(into_new)
        into_read, *into_first = project_vjp(into_bottleneck)
        into_features = _add(into_features, into_read)
        into_layers.insert(0, _Weights(*into_first, *into_second))
        end = start
    block_input = Standardized(features[..., :end], statistics[0])
    into_x = standardize_gradient(block_input, into_features[..., :end], settings.axis_name)
    return into_x, into_layers, None


_block.defvjp(_forward, _backward)


def _write(buffer: jax.Array, first: int, values: jax.Array) -> jax.Array:
    """Returns a buffer [B, H, W, C] with channels from `first` on replaced."""
    if not _converts(buffer):
        return buffer.at[..., first : first + values.shape[-1]].set(values)
    bits = (lax.bitcast_convert_type(x, jnp.uint16) for x in (buffer, values))
    updated_bits = lax.dynamic_update_slice(*bits, (0, 0, 0, first))
    return lax.bitcast_convert_type(updated_bits, buffer.dtype)


def _add(buffer: jax.Array, values: jax.Array) -> jax.Array:
    """Returns a buffer [B, H, W, C] with values added to its first channels."""
    width = values.shape[-1]
    if not _converts(buffer):
        return buffer.at[..., :width].add(values)
    return _write(buffer, 0, buffer[..., :width] + values)


def _converts(buffer: jax.Array) -> bool:
    """Whether XLA would convert a whole buffer to float32 and back to update a part of it."""
    return is_cpu() and buffer.dtype == jnp.bfloat16


def _project(features: jax.Array, affine: Affine, kernel: jax.Array) -> jax.Array:
    return convolve(relu(affine_map(features, affine, features.dtype)), kernel)


def _expand(
    settings: Settings, bottleneck: jax.Array, affine: Affine, kernel: jax.Array, key: jax.Array
) -> tuple[jax.Array, Statistics]:
    statistics = batch_statistics(bottleneck, settings.axis_name)
    y = convolve(relu(normalize(bottleneck, statistics, affine, bottleneck.dtype)), kernel)
    if settings.dropout_rate:
        kept = jax.random.bernoulli(key, 1 - settings.dropout_rate, y.shape)
        y = jnp.where(kept, y / (1 - settings.dropout_rate), 0)
    return y, statistics
