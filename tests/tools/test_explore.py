"""The command that explores filters, networks and data sets."""

import csv

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def explore(run_command):
    """Runs `jaxcifar explore`; returns exit code, stdout and stderr."""
    return lambda *arguments: run_command("jaxcifar", "explore", *arguments)[:3]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.RandomState(0).randint(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_filters_make_a_grid_with_sizes(explore, photo, tmp_path):
    out = tmp_path / "grid.png"
    flags = ["--stride", "1,2", "--padding", "valid,same", "--dilation", "1,2", "--size", "5"]
    code, text, err = explore(
        "filters", "--image", photo, "--kernel", "gaussian", "--out", out, *flags
    )
    assert code == 0 and not err
    lines = text.splitlines()[1:]
    assert len(lines) == 8
    assert lines[1].startswith("stride 2, valid  18 x 10  ⌊(40 + 0 - 1·(5 - 1) - 1) / 2⌋ + 1 = 18")
    with Image.open(out) as image:
        assert image.width > 1000 and image.height > 800


def test_a_network_is_drawn(explore, whole_run, tmp_path):
    out = tmp_path / "figures"
    code, text, err = explore("network", whole_run, "--layer", "stage2_block1", "--out", out)
    assert code == 0 and not err
    names = {path.name for path in out.iterdir()}
    assert names == {"first_filters.png", "feature_maps.png", "grad_cam.png", "channels.csv"}
    with (out / "channels.csv").open(newline="") as file:
        layers = {row["layer"]: row for row in csv.DictReader(file)}
    assert layers["conv"]["channels"] == "16" and "stage3_block1/norm2" in layers


def test_a_data_set_is_counted_and_drawn(explore, tmp_path):
    out = tmp_path / "figures"
    code, text, err = explore("data", "--config", "configs/quickstart.py", "--out", out)
    assert code == 0 and not err
    assert "train: 1,438 images of 10 classes" in text and "near-duplicates: " in text
    assert {"classes.csv", "mean_images.png", "near_duplicates.csv"} <= {
        path.name for path in out.iterdir()
    }
    with (out / "classes.csv").open(newline="") as file:
        assert sum(int(row["train"]) for row in csv.DictReader(file)) == 1438


def test_mistakes_are_explained(explore, photo, whole_run, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no image")
    for arguments, message in (
        ((), "say what to explore: filters, network or data"),
        (("filter",), "unknown subject 'filter'. Did you mean 'filters'?"),
        (("filters",), "--image must name an image file"),
        (("filters", "--image", text), "text.png: not an image that Pillow can read"),
        (("filters", "--image", photo, "--stride", "0"), "--stride=0: must be numbers above 0"),
        (("filters", "--image", photo, "--padding", "full"), "unknown padding 'full'"),
        (("filters", "--image", photo, "--out", "a.txt"), "must end in .png"),
        (("network",), "explore network takes one run"),
        (("network", whole_run, "--layer", "stage9"), "unknown layer 'stage9'"),
        (("network", tmp_path), "not a run"),
        (("data",), "--config must name a recipe"),
    ):
        code, out, err = explore(*arguments)
        assert code == 1 and message in err, (arguments, out, err)
        assert len(err.splitlines()) < 6
