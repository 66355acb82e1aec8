"""Draws what convolutions do, what a trained network sees, and what a data set holds.

    jaxcifar explore filters --image cat.png --kernel sobel_x --stride 1,2,3 --out grid.png
    jaxcifar explore network runs/resnet20 --out figures
    jaxcifar explore data --config configs/resnet20.py --out figures

filters applies a kernel with every combination of --stride, --padding (valid, same, reflect) and
--dilation, and writes the sizes and their formula below each result. Kernels are sobel_x, sobel_y,
gaussian, box, sharpen, laplacian and random, of any odd --size, or a file with a row per line.

network draws the filters of the first layer, the feature maps of --layer for --image, or a test
image, and Grad-CAM over test images that are right and wrong, and lists channels that do nothing.

data counts the images of each class, draws the mean image of each, and finds test images that have
a near-duplicate among the training images. `jaxcifar show` draws augmented images.

Drawing needs the extra "figures".
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from jaxcifar.errors import InputError, unknown
from jaxcifar.tools import cli

if TYPE_CHECKING:  # slow to import
    import numpy as np

    from jaxcifar.trained import TrainedModel

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "data: recipe file, e.g. configs/resnet20.py.", lock_config=True
)
_OUT = flags.DEFINE_string("out", None, "filters: PNG file; otherwise a directory for figures.")
_IMAGE = flags.DEFINE_string("image", None, "filters, network: image file.")
_KERNEL = flags.DEFINE_string("kernel", "sobel_x", "filters: name of a kernel, or its file.")
_SIZE = flags.DEFINE_integer("size", 3, "filters: length of the kernel.")
_STRIDE = flags.DEFINE_list("stride", ["1", "2", "3"], "filters: strides.")
_PADDING = flags.DEFINE_list("padding", ["valid", "same", "reflect"], "filters: paddings.")
_DILATION = flags.DEFINE_list("dilation", ["1"], "filters: dilations.")
_SEED = flags.DEFINE_integer("seed", 0, "filters: seed of the random kernel.", lower_bound=0)
_LAYER = flags.DEFINE_string("layer", None, "network: layer to draw [the last large one].")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "network: latest, best or a step.")
_COUNT = flags.DEFINE_integer("count", 8, "Images to draw of each kind.", lower_bound=1)

_MAX_MAPS = 64
_MAX_SIDE = 2000  # of an image that filters are applied to


def main(arguments: list[str]) -> None:
    """Draws what the first argument names."""
    subjects: dict[str, Callable[..., None]] = {
        "filters": _filters,
        "network": _network,
        "data": _data,
    }
    if not arguments:
        raise InputError("say what to explore: filters, network or data; --help has examples")
    subject, *rest = arguments
    if subject not in subjects:
        raise unknown("subject", subject, subjects)
    if len(rest) != (subject == "network"):
        wanted = "one run" if subject == "network" else "no further arguments"
        raise InputError(f"explore {subject} takes {wanted}, not {' '.join(rest) or 'none'}")
    from jaxcifar.report import png  # slow to import; --help does not need it

    png.check_installed()
    subjects[subject](*rest)


def _filters() -> None:
    import numpy as np

    from jaxcifar.data import any_image
    from jaxcifar.explore import filters

    if not _IMAGE.value:
        raise InputError("--image must name an image file, e.g. --image cat.png")
    for padding in _PADDING.value:
        if padding not in filters.PADDINGS:
            raise unknown("padding", padding, filters.PADDINGS)
    out = Path(_OUT.value or "grid.png")
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"--out={out}: the file name must end in .png, .svg or .pdf")
    strides, dilations = _numbers("stride", _STRIDE.value), _numbers("dilation", _DILATION.value)
    kernel = filters.kernel(_KERNEL.value, _SIZE.value, _SEED.value)
    image = any_image.read(Path(_IMAGE.value))
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    tiles = filters.grid(np.asarray(image), kernel, strides, _PADDING.value, dilations)
    _draw(
        out,
        f"{_KERNEL.value}, {len(kernel)} x {len(kernel)}",
        [tile.pixels for tile in tiles],
        [tile.caption for tile in tiles],
        columns=len(strides) + 1,
    )
    for tile in tiles:
        if len(tile.caption) > 2:
            print("  ".join(tile.caption))


def _network(run: str) -> None:
    import numpy as np

    from jaxcifar.data import any_image, datasets
    from jaxcifar.explore import network
    from jaxcifar.trained import load

    model = load(run, _CHECKPOINT.value)
    out = Path(_OUT.value or "figures")
    layer = _LAYER.value or network.spatial_layers(model)[-1]
    if _LAYER.value and _LAYER.value not in model.layers():
        raise unknown("layer", _LAYER.value, model.layers())
    try:
        split: Any = datasets.load(model.config.dataset)["test"]
        if not hasattr(split, "images"):
            raise InputError("its images are in folders")
    except InputError as error:
        if not _IMAGE.value:
            raise
        print(f"no test images, so no Grad-CAM over them: {error}")
        split = None
    if _IMAGE.value:
        image = model.prepare(any_image.read(Path(_IMAGE.value)))[0]
    else:
        image = split.images[0]
    filters = network.first_filters(model)
    _draw(out / "first_filters.png", "First-layer filters", filters, [[]] * len(filters))
    maps = network.feature_maps(model, image, layer)[:_MAX_MAPS]
    captions = [["the image"], *([f"channel {n}"] for n in range(len(maps)))]
    _draw(out / "feature_maps.png", f"Feature maps of {layer}", [image, *maps], captions)
    if split is None:
        cam = network.grad_cam(model, image[None], layer)
        _draw_cam(out, model, image[None], cam, None, layer)
        return
    predicted = model.predict(split.images).labels
    wrong = predicted != split.labels
    chosen = np.concatenate(
        [np.flatnonzero(~wrong)[: _COUNT.value], np.flatnonzero(wrong)[: _COUNT.value]]
    )
    cam = network.grad_cam(model, split.images[chosen], layer)
    _draw_cam(out, model, split.images[chosen], cam, split.labels[chosen], layer)
    _list_activity(network.activity(model, split.images), out)


def _draw_cam(
    out: Path,
    model: "TrainedModel",
    images: "np.ndarray",
    cam: Any,
    labels: "np.ndarray | None",
    layer: str,
) -> None:
    """Each image beside what the network sees in it."""
    from jaxcifar.explore import network

    tiles: list[Any] = []
    captions: list[list[str]] = []
    for number, (image, over) in enumerate(
        zip(images, network.overlay(images, cam.maps), strict=True)
    ):
        name = model.class_names[cam.predicted[number]]
        tiles += [image, over]
        if labels is None:
            captions += [[""], [f"{name} {cam.confidence[number]:.0%}"]]
            continue
        right = labels[number] == cam.predicted[number]
        label = model.class_names[labels[number]]
        captions += [
            [f"label: {label}", "right" if right else "wrong"],
            [f"{name} {cam.confidence[number]:.0%}", layer],
        ]
    _draw(out / "grad_cam.png", f"Grad-CAM at {layer}", tiles, captions)


def _list_activity(found: Sequence[Any], out: Path) -> None:
    """Prints the layers that have channels that do nothing, and writes all to a file."""
    from rich.table import Table

    from jaxcifar.reporting.console import Console

    header = ("layer", "channels", "never above 0", "constant")
    _write_csv(out / "channels.csv", header, found)
    idle = [layer for layer in found if layer.never_positive or layer.constant]
    if not idle:
        print(f"every channel of the {len(found)} layers is above 0 in some test image")
        return
    table = Table(*header, box=None, pad_edge=False, header_style="bold")
    for layer in idle:
        table.add_row(layer.layer, *(f"{number:,}" for number in layer[1:]))
    Console(width=120).print("channels that do nothing in any test image", table, sep="\n")


def _data() -> None:
    import numpy as np

    from jaxcifar.data import datasets
    from jaxcifar.explore import duplicates

    if _CONFIG.value is None:
        raise InputError("--config must name a recipe, e.g. --config=configs/resnet20.py")
    out = Path(_OUT.value or "figures")
    splits: dict[str, Any] = datasets.load(_CONFIG.value.dataset)
    names = datasets.class_names(_CONFIG.value.dataset)
    if not all(hasattr(split, "images") for split in splits.values()):
        raise InputError("the images of this data set are in folders; explore data needs arrays")
    counts = {
        name: np.bincount(split.labels, minlength=len(names)) for name, split in splits.items()
    }
    _write_csv(
        out / "classes.csv",
        ("class", *counts),
        [(name, *(int(c[n]) for c in counts.values())) for n, name in enumerate(names)],
    )
    for name, number in counts.items():
        print(
            f"{name}: {number.sum():,} images of {len(names)} classes, {number.min():,} to "
            f"{number.max():,} per class"
        )
    train, test = splits["train"], splits["test"]
    shown = [n for n in range(len(names)) if counts["train"][n]]
    means = [np.round(train.images[train.labels == n].mean(axis=0)).astype(np.uint8) for n in shown]
    captions = [[names[n], f"{counts['train'][n]:,} images"] for n in shown]
    _draw(out / "mean_images.png", "Mean training image by class", means, captions)
    pairs = duplicates.find(test.images, train.images)
    same = sum(test.labels[pair.first] == train.labels[pair.second] for pair in pairs)
    print(
        f"near-duplicates: {len(pairs):,} of {test.size:,} test images "
        f"({len(pairs) / test.size:.2%}) have one among the training images, {same:,} of the same "
        "class"
    )
    rows = [
        (*pair, names[test.labels[pair.first]], names[train.labels[pair.second]]) for pair in pairs
    ]
    header = ("test", "train", "different bits", "correlation", "test class", "train class")
    _write_csv(out / "near_duplicates.csv", header, rows)
    tiles: list[Any] = []
    texts: list[list[str]] = []
    for pair in sorted(pairs, key=lambda pair: pair.correlation)[: _COUNT.value]:
        tiles += [test.images[pair.first], train.images[pair.second]]
        texts += [
            [f"test {pair.first}", names[test.labels[pair.first]]],
            [f"train {pair.second}", f"correlation {pair.correlation:.3f}"],
        ]
    if tiles:
        _draw(out / "near_duplicates.png", "Least similar near-duplicates", tiles, texts)


def _draw(
    path: Path, title: str, images: Any, captions: Sequence[Sequence[str]], columns: int = 0
) -> None:
    from jaxcifar.report import png
    from jaxcifar.report.charts import Pictures

    png.write_chart(Pictures(title, "", images, captions, columns), path)
    print(f"written: {path}")


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(
            [f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row] for row in rows
        )
    print(f"written: {path}")


def _numbers(flag: str, values: Sequence[str]) -> list[int]:
    if not all(value.strip().isdecimal() and int(value) > 0 for value in values):
        raise InputError(f"--{flag}={','.join(values)}: must be numbers above 0, e.g. 1,2,3")
    return [int(value) for value in values]


if __name__ == "__main__":
    cli.run(main, __doc__, takes_arguments=True)
