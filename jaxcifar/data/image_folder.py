"""Batches from a folder of images in ImageNet's layout, by tf.data.

The folder has a folder a class and image files in it, the same classes for training and evaluation:

    ROOT/train/CLASS/*.JPEG    ROOT/val/CLASS/*.JPEG    (or .jpg, .jpeg, .png in any case)

Labels count the classes' names in sorted order. Images are decoded as they are needed, and only
where they are needed; otherwise batches keep the contract of `tf_pipeline`. An image that cannot be
decoded is an error, or its slot is black and has mask False, and a warning names the file once:
what training skipped is the number of False in the masks, what evaluation skipped is `split.size`
less the number of True.

A file is decoded only as far as its crop reaches, so a truncated one is found when a crop needs the
missing part. EXIF orientation is not applied, nor is it by the usual ImageNet pipelines.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging

from jaxcifar import errors
from jaxcifar.data.streams import Batch, random_words, shuffled, stream_key
from jaxcifar.environment import import_tensorflow
from jaxcifar.errors import InputError

_EXTENSIONS = (".jpeg", ".jpg", ".png")
_LAYOUT = "ROOT/train/CLASS/*.JPEG and ROOT/val/CLASS/*.JPEG"
_MAX_PIXELS = 2**27  # of what is decoded; a damaged header may say anything
_ATTEMPTS = 10
_ASPECT_RATIO = (3 / 4, 4 / 3)


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSplit:
    """The files of a split, of which none is open.

    Attributes:
      root: the folder that `names` are relative to.
      names: N files, sorted by class, then by name.
      labels: int32 [N], indices into `class_names`.
      class_names: sorted.
    """

    root: str
    names: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.names)

    def path(self, index: int) -> str:
        """The file of one example."""
        return os.path.join(self.root, self.names[index])

    def subset(self, indices: np.ndarray) -> "FolderSplit":
        """The examples at `indices`, int [M], in their order."""
        names = tuple(self.names[index] for index in indices)
        return dataclasses.replace(self, names=names, labels=self.labels[indices])

    def fingerprint(self) -> str:
        """A SHA-256 over all names and file sizes, in hexadecimal; asks for each file's size."""
        digest = hashlib.sha256()
        for index, name in enumerate(self.names):
            digest.update(os.fsencode(f"{name}\0{os.path.getsize(self.path(index))}\n"))
        return digest.hexdigest()


def scan(root: str) -> dict[str, FolderSplit]:
    """Lists the folder's images, as the splits "train" and "test"; the latter is ROOT/val.

    Raises:
      InputError: if a folder is missing, unreadable or without images, or if the classes of the two
        splits differ.
    """
    root = os.path.expanduser(os.fspath(root))
    train, test = _scan_split(root, "train"), _scan_split(root, "val")
    for part, other, lacking in (("train", train, test), ("val", test, train)):
        missing = sorted(set(other.class_names) - set(lacking.class_names))
        if missing:
            raise InputError(
                f"{root}: {len(missing)} classes are in {part}/ alone: {', '.join(missing[:5])}"
                f"{', ...' if len(missing) > 5 else ''}; expected {_LAYOUT} with the same classes"
            )
    return {"train": train, "test": test}


def _scan_split(root: str, part: str) -> FolderSplit:
    classes = _list(os.path.join(root, part), os.DirEntry.is_dir)
    if not classes:
        raise InputError(
            f"{os.path.join(root, part)} has no folders of classes; expected {_LAYOUT} (the "
            f"official validation archive has none: its images must be sorted into them)"
        )
    names, labels = [], []
    for label, class_name in enumerate(classes):
        folder = os.path.join(root, part, class_name)
        files = _list(folder, lambda entry: entry.name.lower().endswith(_EXTENSIONS))
        if not files:
            raise InputError(f"{folder} has no images ({', '.join(_EXTENSIONS)})")
        names += [os.path.join(part, class_name, file) for file in files]
        labels += [label] * len(files)
    return FolderSplit(root, tuple(names), np.array(labels, np.int32), tuple(classes))


def _list(folder: str, wanted: Callable[[os.DirEntry], bool]) -> list[str]:
    """The sorted names in a folder of what is wanted and not hidden."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and wanted(e))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; expected {_LAYOUT}") from error


def train_batches(
    split: FolderSplit,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    first_step: int,
    num_steps: int,
    process: int = 0,
    num_processes: int = 1,
    horizontal_flip: bool = True,
    area: tuple[float, float] = (0.08, 1.0),
    on_bad_image: str = "error",
) -> Iterator[Batch]:
    """Yields this process's share of the training batches of steps first_step to num_steps - 1.

    Each image is a random crop, resized, and mirrored at random: Szegedy et al., "Going deeper with
    convolutions" (2015), section 6, with the distribution of torchvision's RandomResizedCrop.

    Args:
      split: the training images.
      image_size: height and width of the result, in pixels.
      batch_size, seed, first_step, num_steps, process, num_processes: as in `tf_pipeline`.
      horizontal_flip: whether half of the images are mirrored.
      area: the range of the crop's area, as a share of the image's.
      on_bad_image: "error" or "skip".

    Raises:
      InputError: with the batch that has a file that cannot be decoded, unless they are skipped, or
        that cannot be read.
    """
    tf = import_tensorflow()
    order_key, augment_key = stream_key(seed, "order"), stream_key(seed, "augment")

    def draw(position):
        index = shuffled(position[None], split.size, order_key)[0]
        # A row of four words for each attempt, and one for the mirroring.
        rows = _ATTEMPTS + 1
        random = random_words(position * rows + tf.range(rows, dtype=tf.int64), augment_key)

        def view(height, width):
            window = _random_window(height, width, random, area)
            scale = image_size / tf.stack(window[2:])
            return window, scale, tf.zeros_like(scale)

        return index, view, horizontal_flip & (random[-1, 0] % 2 == 1)

    shares = (batch_size, process, num_processes)
    return _batches(split, draw, image_size, shares, (first_step, num_steps), on_bad_image)


def eval_batches(
    split: FolderSplit,
    *,
    image_size: int,
    batch_size: int,
    resize: int | None = None,
    process: int = 0,
    num_processes: int = 1,
    on_bad_image: str = "error",
) -> Iterator[Batch]:
    """Yields this process's share of the batches that hold every example of `split` once.

    Each image is resized so that its shorter side is `resize`, and its centre is cropped:
    Krizhevsky et al., "ImageNet classification with deep convolutional neural networks" (2012),
    section 2, rounded as in torchvision's Resize and CenterCrop.

    The last batch is filled with black images, whose mask is False. All processes yield the same
    number of batches, of batch_size / num_processes examples.

    Args:
      resize: in pixels, at least image_size; 256 / 224 of image_size if None.

    Other arguments and what is raised are as in `train_batches`.
    """
    resize = round(image_size * 256 / 224) if resize is None else resize
    if resize < image_size:
        raise InputError(f"resize = {resize} is below image_size = {image_size}")
    tf = import_tensorflow()

    def view(height, width):
        return _centre_view(height, width, resize, image_size)

    def draw(position):
        return tf.where(position < split.size, position, -1), view, tf.constant(False)

    shares = (batch_size, process, num_processes)
    num_batches = -(-split.size // batch_size)
    return _batches(split, draw, image_size, shares, (0, num_batches), on_bad_image)


def _batches(split, draw, image_size, shares, steps, on_bad_image) -> Iterator[Batch]:
    """Batches of the steps from steps[0] to steps[1] - 1.

    Args:
      draw: from a position, int64 [], to the index of the image or -1 for padding, the `view` of it
        that `_read` takes, and whether it is mirrored.
      shares: the batch size over all processes, this process, the number of processes.
    """
    if on_bad_image not in ("error", "skip"):
        raise errors.unknown("on_bad_image", on_bad_image, ("error", "skip"))
    tf = import_tensorflow()
    batch_size, process, num_processes = shares
    share = batch_size // num_processes
    paths = tf.constant([os.fsencode(split.path(index)) for index in range(split.size)])
    labels = tf.constant(split.labels)
    black = tf.zeros([image_size, image_size, 3], tf.uint8)

    def example(number):
        index, view, mirror = draw(number // share * batch_size + process * share + number % share)
        real, source = index >= 0, tf.maximum(index, 0)
        found = tf.data.Dataset.from_tensors(paths[source]).take(tf.cast(real, tf.int64))
        # An error in a map ends the iteration; here it only leaves out the one element.
        found = found.map(lambda path: (_read(path, view, image_size), True)).ignore_errors()
        found = found.concatenate(tf.data.Dataset.from_tensors((black, False))).take(1)
        image, good = found.get_single_element()
        image = tf.cond(mirror, lambda: tf.reverse(image, [1]), lambda: image)
        return {"image": image, "label": labels[source], "mask": good, "index": index}

    dataset = tf.data.Dataset.range(steps[0] * share, steps[1] * share)
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(share, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    def checked() -> Iterator[Batch]:
        bad = set()
        for batch in dataset.as_numpy_iterator():
            indices = batch.pop("index")
            for index in indices[(indices >= 0) & ~batch["mask"]]:
                _check_bad_image(split.path(index), on_bad_image)
                if index not in bad:
                    logging.warning("%s cannot be decoded: skipped", split.path(index))
                bad.add(index)
            yield batch

    return checked()


def _check_bad_image(path: str, on_bad_image: str) -> None:
    try:
        open(path, "rb").close()
    except OSError as error:
        # Never skipped: storage that has gone away is not a set of corrupt images.
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if on_bad_image == "error":
        raise InputError(
            f"{path} cannot be decoded: it is empty, truncated, huge, or not a JPEG or PNG; "
            f'replace it, or skip such images with on_bad_image="skip"'
        )


def _read(path, view: Callable, image_size: int):
    """Decodes and resamples the part of an image that `view` asks for, to uint8 [S, S, 3].

    Args:
      view: from height and width to the (top, left, height, width) to be decoded, and the scale and
        the shift, float64 [2] each, that take a point from there to the result: scale * y + shift.
    """
    tf = import_tensorflow()
    contents = tf.io.read_file(path)

    def check_size(height, width):
        pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
        tf.debugging.assert_less_equal(pixels, tf.constant(_MAX_PIXELS, tf.int64))

    def decode_jpeg():
        height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(contents))
        check_size(height, width)
        (top, left, crop_height, crop_width), scale, shift = view(height, width)
        # The decoder interpolates subsampled colour, which takes one more column on either side.
        first, last = tf.maximum(left - 1, 0), tf.minimum(left + crop_width + 1, width)
        image = tf.image.decode_and_crop_jpeg(
            contents,
            [top, first, crop_height, last - first],
            channels=3,
            dct_method="INTEGER_ACCURATE",  # as libjpeg and Pillow by default
        )
        return image[:, left - first : left - first + crop_width], scale, shift

    def decode_png():
        # The header's width and height come first.
        header = tf.io.decode_raw(tf.strings.substr(contents, 16, 8), tf.int32, little_endian=False)
        check_size(header[1], header[0])
        image = tf.io.decode_png(contents, channels=3)
        (top, left, height, width), scale, shift = view(*tf.unstack(tf.shape(image)[:2]))
        return image[top : top + height, left : left + width], scale, shift

    # By content: a few files of ImageNet are PNG under the name of a JPEG.
    image, scale, shift = tf.cond(tf.image.is_jpeg(contents), decode_jpeg, decode_png)
    # Antialiased, as Pillow resizes: point samples of large images alias, the more the larger.
    image = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[image_size, image_size],
        scale=tf.cast(scale, tf.float32),
        translation=tf.cast(shift, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )[0]
    return tf.saturate_cast(tf.round(image), tf.uint8)


def _random_window(height, width, random, area: tuple[float, float]):
    """The first of ten random windows that fits, else the largest in the middle that is allowed.

    Args:
      height, width: of the image, int32 [].
      random: uint32 [10 or more, 4], of which a row draws area, aspect ratio, top and left.
      area: range of the share of the image's area, drawn uniformly.

    Returns:
      (top, left, height, width), int32 [] each. The logarithm of width / height is drawn uniformly.
    """
    tf = import_tensorflow()
    low, high = np.log(_ASPECT_RATIO)
    uniform = tf.cast(random[:_ATTEMPTS, :2], tf.float64) / 2**32
    areas = (area[0] + (area[1] - area[0]) * uniform[:, 0]) * tf.cast(height * width, tf.float64)
    ratios = tf.exp(low + (high - low) * uniform[:, 1])
    widths = tf.cast(tf.round(tf.sqrt(areas * ratios)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(areas / ratios)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    attempt = tf.argmax(fits, output_type=tf.int32)

    sides = tf.stack([height, width])
    # Either side may be at most 4 / 3 of the other.
    largest = tf.round(tf.cast(sides[::-1], tf.float64) * _ASPECT_RATIO[1])
    largest = tf.minimum(sides, tf.cast(largest, tf.int32))
    fit = fits[attempt]
    window = tf.where(fit, tf.stack([heights[attempt], widths[attempt]]), largest)
    free = sides - window
    offsets = tf.cast(random[attempt, 2:], tf.int64) % tf.cast(free + 1, tf.int64)
    offsets = tf.where(fit, tf.cast(offsets, tf.int32), free // 2)
    return (*tf.unstack(offsets), *tf.unstack(window))


def _centre_view(height, width, resize: int, image_size: int):
    """What `_read` needs to resize the shorter side to `resize` and to crop the middle."""
    tf = import_tensorflow()
    sides = tf.stack([height, width])
    resized = resize * sides // tf.minimum(height, width)
    scale = resized / sides
    offset = tf.round((resized - image_size) / 2)
    # The source of the crop, and what the triangle kernel reaches beyond it.
    reach = tf.maximum(1 / scale, 1.0)
    first = tf.maximum(tf.cast(tf.floor(offset / scale - reach), tf.int32), 0)
    last = tf.cast(tf.math.ceil((offset + image_size) / scale + reach), tf.int32)
    last = tf.minimum(last, sides)
    shift = tf.cast(first, tf.float64) * scale - offset
    return (*tf.unstack(first), *tf.unstack(last - first)), scale, shift
