"""Predicts the classes of images with a trained network.

    jaxcifar predict runs/resnet20 cat.png photos/ --top 5
    jaxcifar predict runs/resnet20 photos/ --format csv > predictions.csv

The first argument is the directory of a run, the others are image files, and folders that are
searched for them. Images may have any size, mode and format that Pillow reads. They are turned as
their EXIF data says, transparency is put over white, and they are resized as in the run's
evaluation. The exit code is 1 if one of them cannot be read.
"""

import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from jaxcifar.errors import InputError
from jaxcifar.tools import cli

_TOP = flags.DEFINE_integer("top", 3, "Number of classes to show per image.", lower_bound=1)
_FORMAT = flags.DEFINE_enum("format", "table", ["table", "json", "csv"], "Format of the output.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best or a step.")
_EMA = flags.DEFINE_bool("ema", False, "Use the moving averages of the weights.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 256, "Images that the network is applied to at once.", lower_bound=1
)

_MAX_NAMED = 10


class Result(NamedTuple):
    """An image with name and probability of its most probable classes, or what is wrong."""

    path: Path
    classes: list[tuple[str, float]]
    problem: str = ""


def main(arguments: list[str]) -> None:
    """Predicts the images that the arguments name."""
    if len(arguments) < 2:
        raise InputError(
            "give the directory of a run and one or more images or folders, e.g. "
            "jaxcifar predict runs/resnet20 cat.png"
        )
    run, *names = arguments
    paths = list(find_images(map(Path, names)))
    if not paths:
        raise InputError(f"{', '.join(names)}: no images found")
    from jaxcifar.trained import load  # slow to import; --help does not need it

    model = load(run, _CHECKPOINT.value, ema=_EMA.value)
    results = list(_with_progress(predict(model, paths), len(paths)))
    _WRITERS[_FORMAT.value](results)
    if unreadable := [result for result in results if result.problem]:
        lines = [f"  {result.problem}" for result in unreadable[:_MAX_NAMED]]
        if len(unreadable) > _MAX_NAMED:
            lines.append(f"  ... and {len(unreadable) - _MAX_NAMED:,} more")
        number = f"{len(unreadable):,} of {len(results):,}"
        sys.exit("\n".join([f"error: {number} images cannot be read:", *lines]))


def find_images(paths: Iterator[Path]) -> Iterator[Path]:
    """Yields files as they are named, and the image files below folders in alphabetical order.

    Raises:
      InputError: if there is no such file or folder.
    """
    from PIL import Image

    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        if not path.is_dir():
            yield path
            continue
        endings = tuple(Image.registered_extensions())
        for folder, folders, files in os.walk(path):
            folders.sort()
            for name in sorted(files):
                if name.lower().endswith(endings) and not name.startswith("."):
                    yield Path(folder, name)


def predict(model: Any, paths: list[Path]) -> Iterator[Result]:
    """Yields the prediction for each image file, in order.

    Args:
      model: see `jaxcifar.trained.TrainedModel`.
      paths: the files.
    """
    from jaxcifar.data import any_image

    for start in range(0, len(paths), _BATCH_SIZE.value):
        batch = paths[start : start + _BATCH_SIZE.value]
        pixels, problems = {}, {}
        for path in batch:
            try:
                pixels[path] = model.prepare(any_image.read(path))[0]
            except InputError as error:
                problems[path] = str(error)
        predictions = model.predict(list(pixels.values()), batch_size=_BATCH_SIZE.value)
        classes = dict(zip(pixels, predictions.top(_TOP.value), strict=True))
        for path in batch:
            yield Result(path, classes.get(path, []), problems.get(path, ""))


def _with_progress(results: Iterator[Result], total: int) -> Iterator[Result]:
    """The same results; shows a progress bar in a terminal."""
    from rich.progress import track

    from jaxcifar.reporting.console import Console

    console = Console(stderr=True)
    return iter(
        track(
            results,
            "predicting",
            total=total,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
    )


def _write_table(results: list[Result]) -> None:
    from rich.table import Table
    from rich.text import Text

    from jaxcifar.reporting.console import Console, printable

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("classes")
    for path, classes, problem in results:
        if not problem:
            text = "  ".join(f"{name} {probability:.1%}" for name, probability in classes)
            table.add_row(Text(printable(str(path))), Text(printable(text)))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _write_json(results: list[Result]) -> None:
    entries = []
    for path, classes, problem in results:
        found = [{"class": name, "probability": probability} for name, probability in classes]
        entries.append(
            {"image": str(path)} | ({"error": problem} if problem else {"classes": found})
        )
    json.dump(entries, sys.stdout, indent=1)
    print()


def _write_csv(results: list[Result]) -> None:
    from jaxcifar.reporting.console import printable

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "probability"])
    for path, classes, _ in results:
        for rank, (name, probability) in enumerate(classes, 1):
            writer.writerow([printable(str(path)), rank, printable(name), f"{probability:.6f}"])


_WRITERS = {"table": _write_table, "json": _write_json, "csv": _write_csv}


if __name__ == "__main__":
    cli.run(main, __doc__, takes_arguments=True)
