"""The command that predicts the classes of image files."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from jaxcifar.data import datasets
from jaxcifar.trained import load


@pytest.fixture(scope="module")
def predict(run_command):
    """Runs `jaxcifar predict`; returns exit code, stdout and stderr."""
    return lambda *arguments: run_command("jaxcifar", "predict", *arguments)[:3]


@pytest.fixture(scope="module")
def folder(whole_run, tmp_path_factory):
    """A folder of five digits in two folders and formats, and a text file."""
    images = datasets.load(load(whole_run).config.dataset)["test"].images[:5, ..., 0]
    folder = tmp_path_factory.mktemp("images") / "images"
    (folder / "b").mkdir(parents=True)
    for number, name in enumerate(["1.png", "2.PNG", "3.bmp", "b/1.png", "b/2.tiff"]):
        Image.fromarray(images[number]).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_every_image_is_predicted_as_in_python(predict, whole_run, folder):
    model = load(whole_run)
    names = ["1.png", "2.PNG", "3.bmp", "b/1.png", "b/2.tiff"]
    paths = [folder / name for name in names]
    expected = model.predict([Image.open(path) for path in paths]).top(4)

    code, out, err = predict(whole_run, folder, "--top=4", "--format=json", "--batch_size=2")
    assert code == 0 and not err
    found = json.loads(out)
    assert [entry["image"] for entry in found] == list(map(str, paths))
    for entry, top in zip(found, expected, strict=True):
        assert [row["class"] for row in entry["classes"]] == [name for name, _ in top]
        np.testing.assert_allclose(
            [row["probability"] for row in entry["classes"]], [p for _, p in top], rtol=1e-4
        )

    code, out, err = predict(whole_run, *paths, "--top=4", "--format=csv")
    assert code == 0 and not err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["class"] for row in rows] == [name for top in expected for name, _ in top]
    assert [row["rank"] for row in rows] == list("1234") * 5

    code, out, err = predict(whole_run, *paths)
    assert code == 0 and not err
    lines = out.splitlines()
    assert len(lines) == 1 + 5
    for line, path, top in zip(lines[1:], paths, expected, strict=True):
        assert str(path) in line and f"{top[0][0]} {top[0][1]:.1%}  {top[1][0]} " in line


def test_files_that_cannot_be_read_are_named_and_counted(predict, whole_run, folder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    code, out, err = predict(whole_run, folder, bad, folder / "notes.txt", "--format=json")
    assert code == 1
    assert err.startswith("error: 2 of 7 images cannot be read:\n")
    assert f"{bad}: not an image" in err and f"{folder / 'notes.txt'}: not an image" in err
    found = json.loads(out)
    assert [("error" in entry) for entry in found] == [False] * 5 + [True] * 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "give the directory of a run and one or more images or folders"),
        (("RUN",), "give the directory of a run and one or more images or folders"),
        (("RUN", "missing.png"), "missing.png: no such file or folder"),
        (("RUN", "configs"), "configs: no images found"),
        (("configs", "IMAGE"), "configs: not a run: it has no manifest.json"),
        (("RUN", "IMAGE", "--top=0"), "--top=0"),
        (("RUN", "IMAGE", "--checkpoint=9"), "has only latest"),
    ],
)
def test_mistakes_are_explained_in_a_screen(predict, whole_run, folder, arguments, message):
    places = {"RUN": str(whole_run), "IMAGE": str(folder / "1.png")}
    code, out, err = predict(*(places.get(argument, argument) for argument in arguments))
    assert code == 1 and not out
    assert message in err and err.startswith("error: ") and len(err.splitlines()) <= 4
