"""A trained network in Python, apart from the trainer and its data.

    import jaxcifar

    model = jaxcifar.load("runs/resnet20")
    print(model.predict(Image.open("cat.png")).top(3))

docs/using.md has more examples.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from ml_collections import ConfigDict
from PIL import Image

from jaxcifar import models
from jaxcifar.augment.basic import normalize
from jaxcifar.augment.test_time import averaged_logits
from jaxcifar.data import any_image, datasets, fitting
from jaxcifar.data.split import DatasetInfo
from jaxcifar.errors import InputError, unknown
from jaxcifar.formats import model_file
from jaxcifar.models import initial_weights, packing
from jaxcifar.models.ternary import LEVELS, PACKED
from jaxcifar.resilience import dataset_facts, manifest
from jaxcifar.resilience.checkpoint import Checkpoints

Variables = dict[str, Any]

# One image, or several of any sizes: Pillow images, or arrays [H, W, C] or [H, W], or an array
# [N, H, W, C]; uint8, or floats from 0 to 1.
Images = Image.Image | np.ndarray | jax.Array | Sequence[Image.Image | np.ndarray | jax.Array]


class Predictions(NamedTuple):
    """What a network predicts for images.

    Attributes:
      probabilities: float32 [N, classes].
      class_names: the names of the classes, in their order.
    """

    probabilities: np.ndarray
    class_names: tuple[str, ...]

    @property
    def labels(self) -> np.ndarray:
        """The most probable class of each image, int [N]."""
        return self.probabilities.argmax(axis=1)

    @property
    def names(self) -> list[str]:
        """The name of the most probable class of each image."""
        return [self.class_names[label] for label in self.labels]

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """Returns name and probability of the `count` most probable classes, for each image."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return [
            [(self.class_names[label], float(row[label])) for label in labels]
            for row, labels in zip(self.probabilities, order, strict=True)
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """A network with its weights, and what it needs to know of the images it was trained on.

    Attributes:
      module: the linen module.
      variables: its `params` and `batch_stats`.
      config: config of the run.
      step: step of the checkpoint.
      info: facts of the data set, such as the shape of its images and how they are normalised.
      class_names: the names of its classes, in the order of the logits.
    """

    module: nn.Module
    variables: Variables
    config: ConfigDict
    step: int
    info: DatasetInfo
    class_names: tuple[str, ...]
    _compiled: dict[str, Any] = dataclasses.field(default_factory=dict, init=False)

    def __repr__(self) -> str:
        height, width, channels = self.info.image_shape
        return (
            f"TrainedModel({self.config.model.name}, step {self.step:,}, "
            f"{len(self.class_names)} classes, images of {height}x{width}x{channels})"
        )

    def predict(self, images: Images, *, batch_size: int = 256) -> Predictions:
        """Returns the probabilities of the classes, for one image or many.

        Images of other sizes are resized and cropped as those of the run's evaluation, and colours
        converted. Predictions are averaged over the test-time views of the run's config, if any.

        Args:
          images: see `Images`.
          batch_size: number of images that the network is applied to at once.

        Raises:
          InputError: if something is no image that the network can take.
        """
        logits = self.logits(images, batch_size=batch_size)
        return Predictions(np.asarray(jax.nn.softmax(logits)), self.class_names)

    def logits(self, images: Images, *, batch_size: int = 256) -> np.ndarray:
        """Returns what `predict` takes the softmax of, float32 [N, classes]; arguments as there."""
        return self._map("", self.logits_of, self.prepare(images), batch_size)

    def in_float32(self) -> "TrainedModel":
        """Returns the network computed in float32, whatever it was trained in."""
        return dataclasses.replace(self, module=self.module.clone(dtype=jnp.float32))

    def packed(self) -> "TrainedModel":
        """Returns the network with ternary kernels of 1.6 bits per weight, see `models.packing`.

        Raises:
          InputError: if its weights are not ternary.
        """
        module, variables = packing.pack(self.module, self.variables, self.info.image_shape)
        return dataclasses.replace(self, module=module, variables=variables)

    def contents(self) -> model_file.Contents:
        """Returns what a file has of this network, see `formats.model_file`."""
        packed = getattr(self.module, "ternary", "none") == PACKED
        return model_file.Contents(
            self.config, self.step, self.info, self.class_names, self.variables, packed
        )

    def probabilities(self, images: jax.Array) -> jax.Array:
        """Returns float32 [N, classes] for uint8 images [N, *info.image_shape]; pure."""
        return jax.nn.softmax(self.logits_of(self.variables, images))

    def apply(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Returns the logits of normalised images; pure, so it can be differentiated.

        Args:
          variables: as the attribute of this name.
          images: float [N, H, W, C], see `preprocess`.

        Returns:
          float32 [N, classes].
        """
        return self.module.apply(variables, images, train=False)

    def preprocess(self, images: jax.Array) -> jax.Array:
        """Returns normalised float32 images for `apply`.

        Args:
          images: uint8 [N, H, W, C] of `info.image_shape`, see `prepare`; or float, from 0 to 255.
        """
        return normalize(images, self.info.mean, self.info.std)

    def features(self, images: Images, layer: str, *, batch_size: int = 256) -> np.ndarray:
        """Returns the output of a layer for each image, without test-time views.

        Args:
          images: see `Images`.
          layer: name of a layer, one of `layers()`.
          batch_size: number of images that the network is applied to at once.

        Raises:
          InputError: if there is no such layer, or something is no image.
        """
        if layer not in (known := self.layers()):
            raise unknown("layer", layer, known)
        return self._map(layer, self._features(layer), self.prepare(images), batch_size)

    def layers(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape [H, W, C] or [C] of each layer's output by name, in execution order."""
        order: list[str] = []

        def capture(module: nn.Module, method: str) -> bool:
            order.append("/".join(module.path))
            return method == "__call__"

        images = jax.ShapeDtypeStruct((1, *self.info.image_shape), jnp.float32)
        apply = partial(
            self.module.apply, train=False, capture_intermediates=capture, mutable=_INTERMEDIATES
        )
        _, found = jax.eval_shape(apply, self.variables, images)
        outputs = traverse_util.flatten_dict(found["intermediates"], sep="/")
        shapes = {
            name.removesuffix("/__call__"): calls[0].shape[1:]
            for name, calls in outputs.items()
            if len(calls) == 1 and hasattr(calls[0], "shape")
        }
        return {name: shapes[name] for name in dict.fromkeys(order) if name in shapes}

    def prepare(self, images: Images) -> np.ndarray:
        """Returns images in the size and with the channels that the network was trained on.

        Args:
          images: see `Images`.

        Returns:
          [N, H, W, C]; uint8, or float32 from 0 to 255 if one of the images is of floats.

        Raises:
          InputError: if something is no image that the network can take.
        """
        if isinstance(images, Image.Image):
            images = [images]
        elif not isinstance(images, Sequence):
            images = np.asarray(images)
            images = images if images.ndim == 4 else images[None]
        size, dataset = self.info.image_shape[0], self.config.dataset
        as_imagenet = dataset.name == "image_folder" and not datasets.uses_device_pipeline(dataset)
        resize = fitting.evaluation_resize(size) if as_imagenet else size
        fitted = [any_image.fit(image, self.info.image_shape, resize) for image in images]
        if not fitted:
            return np.zeros((0, *self.info.image_shape), np.uint8)
        return np.stack(fitted)

    def logits_of(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Returns what `logits` does, for images of the right size; pure.

        Args:
          variables: as the attribute of this name.
          images: uint8 [N, H, W, C] of `info.image_shape`.
        """
        evaluation = self.config.eval
        return averaged_logits(
            partial(self.apply, variables),
            self.preprocess(images),
            evaluation.test_time_flip,
            evaluation.test_time_shift,
            evaluation.test_time_views,
        )

    def _features(self, layer: str) -> Any:
        def features(variables: Variables, images: jax.Array) -> jax.Array:
            _, found = self.module.apply(
                variables,
                self.preprocess(images),
                train=False,
                capture_intermediates=lambda module, _: "/".join(module.path) == layer,
                mutable=_INTERMEDIATES,
            )
            outputs = traverse_util.flatten_dict(found["intermediates"], sep="/")
            return outputs[f"{layer}/__call__"][0]

        return features

    def _map(self, name: str, function: Any, images: np.ndarray, batch_size: int) -> np.ndarray:
        """The results of a function of variables and images, batch by batch.

        It is compiled once under its name, and batches are padded to powers of two, so that few
        sizes are compiled.
        """
        compiled = self._compiled.setdefault(name, jax.jit(function))
        results = []
        for start in range(0, max(len(images), 1), batch_size):
            batch = images[start : start + batch_size]
            size = min(batch_size, 1 << max(len(batch) - 1, 0).bit_length())
            padding = ((0, size - len(batch)), (0, 0), (0, 0), (0, 0))
            padded = np.pad(batch, padding)
            results.append(np.asarray(compiled(self.variables, padded))[: len(batch)])
        return np.concatenate(results)


_INTERMEDIATES = ("intermediates", LEVELS)
_WEIGHTS = "model.npz"  # beside a manifest, where the checkpoints were not kept


def load(path: str | Path, checkpoint: str = "latest", *, ema: bool = False) -> TrainedModel:
    """Returns the network that a run has trained.

    The data that it was trained on are not needed.

    Args:
      path: directory of the run, or a file that `jaxcifar export --to npz` has written, or a
        directory without checkpoints that has such a file under the name `model.npz`.
      checkpoint: "latest", "best" on the validation images, or the number of a step.
      ema: whether to take the moving averages of the weights (`train.ema_decay`).

    Raises:
      InputError: if there is no such run or checkpoint, it is damaged, or has no moving averages.
    """
    path = Path(path)
    if (path / _WEIGHTS).exists() and not (path / "checkpoints").exists():
        path /= _WEIGHTS
    contents = model_file.read(path) if path.is_file() else _read_run(path, checkpoint, ema)
    config, step, info, class_names, variables, packed = contents
    module = models.from_config(config, info.num_classes)
    if packed:
        module = packing.packed_module(module)
    shape = jax.ShapeDtypeStruct((1, *info.image_shape), jnp.float32)
    template = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), shape)
    template = {name: template.get(name, {}) for name in ("params", "batch_stats")}
    try:
        variables = _fitted(variables, template)
    except InputError as error:
        raise InputError(f"{path}: its weights are not those of its config:\n  {error}") from error
    return TrainedModel(
        module,
        jax.device_put(variables),
        config,
        step,
        info,
        class_names,
    )


def _fitted(saved: Variables, template: Variables) -> Variables:
    """Saved variables in the structure of a template, after checking all of them."""
    arrays, wanted = (traverse_util.flatten_dict(tree) for tree in (saved, template))
    codes = {path: like for path, like in wanted.items() if like.dtype == jnp.uint8}
    for path, like in codes.items():
        array = arrays.pop(path, np.zeros(0))
        if array.dtype != np.uint8 or array.shape != like.shape:
            found = f"{array.dtype} {array.shape}"
            raise InputError(f"{'/'.join(path)}: {found}, expected uint8 {like.shape}")
        codes[path], wanted[path] = array, None
    floats = {path: like for path, like in wanted.items() if like is not None}
    values = initial_weights.from_variables(
        traverse_util.unflatten_dict(arrays), traverse_util.unflatten_dict(floats), head=""
    )
    merged = traverse_util.flatten_dict(values) | codes
    return {"batch_stats": {}} | traverse_util.unflatten_dict(merged)


def _read_run(workdir: Path, checkpoint: str, ema: bool) -> model_file.Contents:
    """What a model file would have of a run; arguments and errors as those of `load`."""
    run = manifest.read_run(workdir)
    if not (checkpoint in ("latest", "best") or checkpoint.isdecimal()):
        raise InputError(f"checkpoint = {checkpoint!r}: must be latest, best or a step, e.g. 64000")
    config = manifest.saved_config(run)
    info, class_names = dataset_facts.recorded(workdir, config.dataset)
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        step, variables = checkpoints.read_variables(checkpoint, ema=ema)
    return model_file.Contents(config, step, info, class_names, variables)
