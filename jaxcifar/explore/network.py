"""What a trained network looks at: first filters, feature maps, Grad-CAM and dead channels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from jaxcifar.errors import InputError, unknown
from jaxcifar.models.ternary import LEVELS
from jaxcifar.trained import TrainedModel


class Cam(NamedTuple):
    """Where a network sees the evidence for a class.

    Attributes:
      maps: float32 [N, H, W] from 0 to 1, in the size of the network's images.
      predicted: the predicted classes, int [N].
      confidence: their probabilities, float32 [N].
    """

    maps: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray


class Activity(NamedTuple):
    """How many channels of a layer do nothing.

    Attributes:
      layer: name of the layer.
      channels: number of its channels.
      never_positive: number of channels that are above 0 nowhere in any image, which a ReLU after
        the layer makes 0.
      constant: number of channels that have the same value everywhere.
    """

    layer: str
    channels: int
    never_positive: int
    constant: int


def first_filters(model: TrainedModel) -> np.ndarray:
    """Returns the kernels that are applied to the image as pictures, uint8 [N, K, K, C].

    Each is scaled on its own, so that 0 is middle grey.

    Raises:
      InputError: if the first layer is no convolution of 1 or 3 channels.
    """
    channels = model.info.image_shape[-1]
    flat = {
        name: value
        for tree in model.variables.values()  # frozen kernels are no parameters
        for name, value in traverse_util.flatten_dict(tree, sep="/").items()
    }
    kernels = {
        name: np.asarray(value, np.float32)
        for name, value in flat.items()
        if name.endswith("kernel") and value.ndim == 4 and value.shape[2] == channels
    }
    first = next((name for name in model.layers() if f"{name}/kernel" in kernels), None)
    if first is None:
        raise InputError("the network has no convolution of the image whose kernels can be drawn")
    kernel = kernels[f"{first}/kernel"].transpose(3, 0, 1, 2)
    largest = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True)
    return np.round(127.5 * (1 + kernel / np.maximum(largest, 1e-9))).astype(np.uint8)


def feature_maps(model: TrainedModel, image: np.ndarray, layer: str) -> np.ndarray:
    """Returns the channels of a layer's output for one image as pictures, uint8 [N, H, W, 1].

    Each is scaled on its own from its least to its greatest value.

    Args:
      model: the network.
      image: uint8 [H, W, C] of the network's size.
      layer: name of a layer with an output [H, W, C], see `TrainedModel.layers`.

    Raises:
      InputError: if there is no such layer, or its output is no image.
    """
    values = model.features(image[None], layer)[0]
    if values.ndim != 3:
        raise InputError(f"layer {layer}: its output has shape {values.shape}, not [H, W, C]")
    low, high = values.min(axis=(0, 1)), values.max(axis=(0, 1))
    scaled = 255 * (values - low) / np.maximum(high - low, 1e-9)
    return np.round(scaled).astype(np.uint8).transpose(2, 0, 1)[..., None]


def spatial_layers(model: TrainedModel) -> list[str]:
    """Returns the names of the layers whose output is larger than one pixel, in order."""
    return [
        name
        for name, shape in model.layers().items()
        if name and len(shape) == 3 and min(shape[:2]) > 1
    ]


def grad_cam(
    model: TrainedModel,
    images: np.ndarray,
    layer: str | None = None,
    classes: np.ndarray | None = None,
) -> Cam:
    """Returns where in images the evidence for a class is: Grad-CAM, Selvaraju et al. 2017.

    The channels of a layer are weighted by the mean gradient of the class's logit (equation 1), and
    what is above 0 of their sum (equation 2) is resized to the image and scaled to a maximum of 1.

    Args:
      model: the network.
      images: uint8 [N, H, W, C] of the network's size.
      layer: name of a layer with an output [H, W, C]; None for the last one larger than a pixel.
      classes: the class of each image, int [N]; None for the predicted ones.

    Raises:
      InputError: if there is no such layer, or its output is no image.
    """
    known = spatial_layers(model)
    layer = known[-1] if layer is None else layer
    if layer not in known:
        raise unknown("layer with an output of more than one pixel", layer, known)
    shape = model.layers()[layer]

    def score(change: jax.Array, image: jax.Array, label: jax.Array) -> Any:
        """The logit of a label with a change of the layer's output, which is returned as well."""
        outputs = []

        def add_change(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            result = call(*args, **kwargs)
            at_layer = "/".join(context.module.path) == layer
            if not at_layer or context.method_name != "__call__":
                return result
            outputs.append(result[0])
            return result + change.astype(result.dtype)

        with nn.intercept_methods(add_change):
            logits = model.apply(model.variables, model.preprocess(image[None]))[0]
        return logits[label], (outputs[0], logits)

    @jax.jit
    def one(image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        change = jnp.zeros(shape, jnp.float32)
        gradient, (output, logits) = jax.grad(score, has_aux=True)(change, image, label)
        weights = gradient.mean(axis=(0, 1))
        cam = jax.nn.relu(jnp.sum(weights * output, axis=-1))
        cam = jax.image.resize(cam, image.shape[:2], "linear")
        return cam / jnp.maximum(cam.max(), 1e-9), jax.nn.softmax(logits)

    probabilities = model.predict(images).probabilities
    predicted = probabilities.argmax(axis=1)
    chosen = predicted if classes is None else classes
    maps = [np.asarray(one(image, label)[0]) for image, label in zip(images, chosen, strict=True)]
    return Cam(np.array(maps, np.float32), predicted, probabilities.max(axis=1))


def overlay(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Returns images with maps over them in colour, uint8 [N, H, W, 3].

    Args:
      images: uint8 [N, H, W, C].
      maps: [N, H, W] from 0 to 1, see `grad_cam`.
    """
    grey = images.mean(axis=-1, keepdims=True) / 255
    # Dark blue to yellow as in cividis, which colour-blind people can read.
    colors = (1 - maps[..., None]) * np.array([0.0, 0.13, 0.3]) + maps[..., None] * np.array(
        [1.0, 0.91, 0.27]
    )
    return np.round(255 * (0.5 * grey + 0.5 * colors)).clip(0, 255).astype(np.uint8)


def activity(model: TrainedModel, images: np.ndarray, batch_size: int = 256) -> list[Activity]:
    """Returns for each layer with an output [H, W, C] how many channels do nothing.

    Args:
      model: the network.
      images: uint8 [N, H, W, C] of the network's size.
      batch_size: number of images that the network is applied to at once.
    """
    shapes = {name: s for name, s in model.layers().items() if name and len(s) == 3}

    @jax.jit
    def extremes(variables: Any, batch: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        _, found = model.module.apply(
            variables,
            model.preprocess(batch),
            train=False,
            capture_intermediates=lambda module, _: "/".join(module.path) in shapes,
            mutable=["intermediates", LEVELS],
        )
        outputs = traverse_util.flatten_dict(found["intermediates"], sep="/")
        axes = (0, 1, 2)
        return {
            name: (
                outputs[f"{name}/__call__"][0].min(axes),
                outputs[f"{name}/__call__"][0].max(axes),
            )
            for name in shapes
        }

    low: dict[str, np.ndarray] = {}
    high: dict[str, np.ndarray] = {}
    for start in range(0, len(images), batch_size):
        found = extremes(model.variables, images[start : start + batch_size])
        for name, (least, greatest) in found.items():
            low[name] = np.minimum(low.get(name, np.inf), np.asarray(least, np.float32))
            high[name] = np.maximum(high.get(name, -np.inf), np.asarray(greatest, np.float32))
    return [
        Activity(
            name,
            shapes[name][-1],
            int(np.sum(high[name] <= 0)),
            int(np.sum(high[name] - low[name] <= 1e-6)),
        )
        for name in shapes
    ]
