"""A dense block: every layer reads all features before it, and adds k to them.

Huang et al. 2016, "Densely Connected Convolutional Networks", sections 3 and 4.3. A layer is
BatchNorm, ReLU, 1x1 convolution to 4k channels, BatchNorm, ReLU, 3x3 convolution to k channels.

To join features by concatenation takes memory and traffic that grow with the square of the depth.
Here they are written side by side into one buffer, standardised: their statistics are the same for
all layers that read them, which differ in scale and bias alone. The gradient is spelt out: what a
layer makes of the buffer is made again where it is needed, and the features' gradients are added up
in one buffer too (Pleiss et al. 2017, "Memory-Efficient Implementation of DenseNets").
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcifar.kernels.batch_norm import (
    Affine,
    BatchNormVariables,
    Statistics,
    affine_map,
    batch_statistics,
    normalize,
    standardize,
    standardize_gradient,
)
from jaxcifar.models.layers import Kernel, convolve, relu


class DenseLayer(nn.Module):
    """The variables of a layer.

    Attributes:
      features: channels that it reads.
      growth_rate: k, the channels that it adds.
    """

    features: int
    growth_rate: int

    def setup(self):
        width = 4 * self.growth_rate
        self.norm1 = BatchNormVariables(self.features)
        self.conv1 = Kernel(1, self.features, width)
        self.norm2 = BatchNormVariables(width)
        self.conv2 = Kernel(3, width, self.growth_rate)

    def __call__(self) -> tuple["Weights", tuple[Statistics, Statistics]]:
        """Returns what is trained, and the running statistics of both normalisations."""
        (affine1, running1), (affine2, running2) = self.norm1(), self.norm2()
        return Weights(affine1, self.conv1(), affine2, self.conv2()), (running1, running2)

    def update(self, read: Statistics, bottleneck: Statistics) -> None:
        """Moves the running statistics towards those of a batch."""
        self.norm1.update(read)
        self.norm2.update(bottleneck)


class Weights(NamedTuple):
    """What is trained in a layer, in the order in which it is used."""

    affine1: Affine
    kernel1: jax.Array
    affine2: Affine
    kernel2: jax.Array


class Block(NamedTuple):
    """What does not depend on the data.

    Attributes:
      growth_rate: k.
      dropout_rate: share of the new features that are zeroed, where there is a key.
      recompute: make also the 4k channels within a layer again, instead of storing them.
      axis_name: device axis over which batch statistics are averaged, or None for each its own.
    """

    growth_rate: int
    dropout_rate: float
    recompute: bool
    axis_name: str | None


def evaluate(
    x: jax.Array, layers: list[tuple[Weights, tuple[Statistics, Statistics]]]
) -> jax.Array:
    """Returns the features [B, H, W, C + layers * k] of features [B, H, W, C], in evaluation.

    Args:
      x: the block's input.
      layers: the weights and the running statistics of each.
    """
    for weights, (read, within) in layers:
        y = convolve(relu(normalize(x, read, weights.affine1, x.dtype)), weights.kernel1)
        y = convolve(relu(normalize(y, within, weights.affine2, x.dtype)), weights.kernel2)
        x = jnp.concatenate([x, y], axis=-1)
    return x


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def train(
    block: Block, x: jax.Array, layers: list[Weights], key: jax.Array
) -> tuple[jax.Array, Statistics, list[Statistics]]:
    """Returns the features, standardised; how they were before; each layer's statistics within it.

    Only the first has a gradient: the statistics are there to move the running ones.

    Args:
      block: see there.
      x: features [B, H, W, C].
      layers: the weights of each.
      key: draws the dropout.
    """
    return _forward(block, x, layers, key)[0]


def _forward(block: Block, x: jax.Array, layers: list[Weights], key: jax.Array) -> Any:
    width = x.shape[-1]
    added = len(layers) * block.growth_rate
    standardized, measured = standardize(x, block.axis_name)
    features = jnp.pad(standardized, ((0, 0), (0, 0), (0, 0), (0, added)))
    statistics, bottlenecks, within = [measured], [], []
    for index, weights in enumerate(layers):
        bottleneck = _project(features[..., :width], *weights[:2])
        new, inner = _expand(block, bottleneck, *weights[2:], jax.random.fold_in(key, index))
        standardized, measured = standardize(new, block.axis_name)
        features = features.at[..., width : width + block.growth_rate].set(standardized)
        statistics.append(measured)
        bottlenecks.append(None if block.recompute else bottleneck)
        within.append(inner)
        width += block.growth_rate
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *statistics)
    return (features, joined, within), (features, statistics, bottlenecks, layers, key)


def _backward(block: Block, saved: Any, gradients: Any) -> Any:
    features, statistics, bottlenecks, layers, key = saved
    into_features = gradients[0]
    into_layers: list[Weights] = []
    end = features.shape[-1]
    for index in reversed(range(len(layers))):
        start, weights = end - block.growth_rate, layers[index]
        # No later layer is left that reads the new features, so their gradient is complete.
        new, into_new = features[..., start:end], into_features[..., start:end]
        into_new = standardize_gradient(new, statistics[1 + index], into_new, block.axis_name)
        bottleneck, project_vjp = jax.vjp(_project, features[..., :start], *weights[:2])
        if not block.recompute:
            bottleneck = bottlenecks[index]
        expand = partial(_expand, block, key=jax.random.fold_in(key, index))
        _, expand_vjp, _ = jax.vjp(expand, bottleneck, *weights[2:], has_aux=True)
        into_bottleneck, *into_second = expand_vjp(into_new)
        into_read, *into_first = project_vjp(into_bottleneck)
        into_features = into_features.at[..., :start].add(into_read)
        into_layers.insert(0, Weights(*into_first, *into_second))
        end = start
    x, into_x = features[..., :end], into_features[..., :end]
    return standardize_gradient(x, statistics[0], into_x, block.axis_name), into_layers, None


train.defvjp(_forward, _backward)


def _project(features: jax.Array, affine: Affine, kernel: jax.Array) -> jax.Array:
    return convolve(relu(affine_map(features, affine, features.dtype)), kernel)


def _expand(
    block: Block, bottleneck: jax.Array, affine: Affine, kernel: jax.Array, key: jax.Array
) -> tuple[jax.Array, Statistics]:
    statistics = batch_statistics(bottleneck, block.axis_name)
    y = convolve(relu(normalize(bottleneck, statistics, affine, bottleneck.dtype)), kernel)
    if block.dropout_rate:
        kept = jax.random.bernoulli(key, 1 - block.dropout_rate, y.shape)
        y = jnp.where(kept, y / (1 - block.dropout_rate), 0)
    return y, statistics
