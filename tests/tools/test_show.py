"""The grid of training images, checked in the picture that is written."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from jaxcifar.data import datasets, device_pipeline
from jaxcifar.data.batches import train_batches
from tests.config.test_recipes import recipe
from tests.helpers import REPOSITORY

QUICKSTART = "--config=configs/quickstart.py"
# A separate process, because a process can define the flags of one command only.
DRAW = """
import json, sys
import numpy as np
from jaxcifar.tools import show
captions = json.loads(sys.argv[2])
show.grid(np.load(sys.argv[1]), captions).save(sys.argv[3])
"""
# Records the captions that main passes to grid.
RECORD = """
import json, sys
from pathlib import Path
from jaxcifar.tools import cli, show
draw, captions = show.grid, Path(sys.argv.pop(1))
def grid(images, lines):
    captions.write_text(json.dumps(lines))
    return draw(images, lines)
show.grid = grid
cli.run(show.main, show.__doc__)
"""


@pytest.fixture
def run_text(run_command, tmp_path_factory):
    """Runs the text of a script; returns exit code, stdout and stderr."""

    def run(text, *arguments):
        script = tmp_path_factory.mktemp("script") / "script.py"
        script.write_text(text)
        return run_command(script, *arguments)[:3]

    return run


@pytest.fixture
def draw(run_text, tmp_path):
    """Calls `grid`; returns uint8 pixels [H, W, 3]."""

    def call(images, captions):
        np.save(tmp_path / "images.npy", images)
        out = tmp_path / "grid.png"
        code, _, err = run_text(DRAW, tmp_path / "images.npy", json.dumps(captions), out)
        assert code == 0, err
        return pixels_of(out)

    return call


def pixels_of(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.array(picture.convert("RGB"))


def corner(index, lines):
    """Row and column of a tile's first pixel; a tile has 2 pixels of white around it."""
    return (index // 8) * (132 + 12 * lines) + 2, (index % 8) * 132 + 2


def tiles(picture, count, lines, side):
    """The images of a picture at their own resolution, uint8 [count, side, side, 3]."""
    scale = 128 // side
    found = []
    for index in range(count):
        y, x = corner(index, lines)
        large = picture[y : y + 128, x : x + 128]
        small = large[::scale, ::scale]
        np.testing.assert_array_equal(large, small.repeat(scale, 0).repeat(scale, 1))
        found.append(small)
    return np.array(found)


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_shows_each_image_over_its_captions(draw, channels):
    images = np.random.RandomState(0).randint(0, 256, (10, 16, 16, channels)).astype(np.uint8)
    captions = [[f"1.00 class {i}", "0.50 x"][: i % 3] for i in range(10)]
    picture = draw(images, captions)
    assert picture.shape == (2 * (132 + 2 * 12), 8 * 132, 3)
    np.testing.assert_array_equal(
        tiles(picture, 10, 2, 16), np.broadcast_to(images, (10, 16, 16, 3))
    )
    rest = picture.copy()
    for index in range(10):
        y, x = corner(index, 2)
        rest[y : y + 128, x : x + 128] = 255
        for line in range(2):
            strip = rest[y + 128 + 12 * line : y + 140 + 12 * line, x : x + 128]
            assert (strip.min() < 128) == (line < len(captions[index]))
            strip[:] = 255
    assert (rest == 255).all()


def test_a_long_caption_is_truncated_before_the_next_image(draw):
    images = np.full((2, 4, 4, 3), 255, np.uint8)
    picture = draw(images, [["0.50 large_natural_outdoor_scenes"] * 2, []])
    y, x = corner(0, 2)
    text = (picture < 255).any(-1)
    assert text[:, x + 96 : x + 128].any() and not text[:, x + 130 :].any()
    assert not text[: y + 128].any()
    for line in (0, 1):
        assert text[y + 128 + 12 * line : y + 140 + 12 * line].any()


def digits():
    """The labels of scikit-learn's digits by their images' bytes."""
    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    return {image.tobytes(): label for image, label in zip(images, data.target, strict=True)}


def test_the_command_draws_a_recipes_images_over_their_labels(run_command, tmp_path, draw):
    out = tmp_path / "new" / "grid.png"
    arguments = [QUICKSTART, f"--out={out}", "--config.augment.crop_padding=0", "--step=3"]
    code, text, err, _ = run_command("jaxcifar.tools.show", *arguments, "--count=99")
    assert code == 0, err
    assert text == f"{out}: 64 images of step 3\n"  # a batch has no more
    picture = pixels_of(out)
    assert picture.shape == (8 * (132 + 12), 8 * 132, 3)
    images = tiles(picture, 64, 1, 8)[..., 0]
    assert len({image.tobytes() for image in images}) == 64
    labels = digits()
    captions = [[f"1.00 {labels[image.tobytes()]}"] for image in images]
    np.testing.assert_array_equal(picture, draw(images[..., None], captions))


@pytest.mark.parametrize("pipeline", ["device", "tf"])
def test_the_images_are_those_that_the_step_is_fed(run_command, tmp_path, pipeline):
    out, config = tmp_path / "grid.png", recipe(REPOSITORY / "configs" / "quickstart.py")
    code, _, err, _ = run_command(
        "jaxcifar.tools.show",
        *(QUICKSTART, f"--out={out}", "--step=30", f"--config.dataset.pipeline={pipeline}"),
    )
    assert code == 0, err
    split, size = datasets.load(config.dataset)["train"], config.train.batch_size
    if pipeline == "device":  # as feed.py calls it
        order, _, position = device_pipeline.Order(0, split.size, size, 1).at(30)
        batch = device_pipeline.train_batch(
            device_pipeline.as_resident(split),
            *(order, position, 0),
            share=size,
            config=config.augment,
            seed=0,
        )
    else:
        config.dataset.pipeline = "tf"
        batch = next(train_batches(split, config, first_step=30, num_steps=31))
    found = tiles(pixels_of(out), 32, 1, 8)[..., :1]
    np.testing.assert_array_equal(found, np.array(batch["image"])[:32])


def test_captions_have_the_weights_of_a_mixed_batch(run_text, tmp_path):
    out, captions = tmp_path / "grid.png", tmp_path / "captions.json"
    fields = ["--config.augment.mixup_alpha=1.0", "--config.train.label_smoothing=0.1"]
    code, _, err = run_text(RECORD, captions, QUICKSTART, f"--out={out}", *fields)
    assert code == 0, err
    lines = json.loads(captions.read_text())
    weights = [[float(line.split()[0]) for line in caption] for caption in lines]
    names = [[line.split()[1] for line in caption] for caption in lines]
    assert len(lines) == 32 and pixels_of(out).shape == (4 * (132 + 2 * 12), 8 * 132, 3)
    for name, weight in zip(names, weights, strict=True):
        assert sum(weight) == pytest.approx(1, abs=0.02)
        assert weight == sorted(weight, reverse=True)
        assert len(set(name)) == len(name) in (1, 2) and set(name) <= set("0123456789")
    # One lambda for the batch.
    assert len({tuple(weight) for weight in weights if len(weight) == 2}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/quickstrt.py"], "configs/quickstrt.py"),
        ([QUICKSTART, "--config.augment.policy=randaugmnt"], "Did you mean 'randaugment'?"),
        ([QUICKSTART, "--out={}.txt"], "must end in .png"),
    ],
)
def test_errors_are_explained_and_leave_no_file(run_command, tmp_path, arguments, message):
    out = tmp_path / "grid.png"
    arguments = [f"--out={out}", *(argument.format(out) for argument in arguments)]
    code, text, err, _ = run_command("jaxcifar.tools.show", *arguments)
    assert code == 1 and message in err and "Traceback" not in err
    assert len(err.splitlines()) < 24 and not text
    assert not list(tmp_path.iterdir())
