"""Evaluating a network on images that it was not trained for."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxcifar.data import datasets
from jaxcifar.trained import load


@pytest.fixture(scope="module")
def evaluate(run_command):
    """Runs `jaxcifar eval`; returns exit code, stdout and stderr."""
    return lambda *arguments: run_command("jaxcifar", "eval", *arguments)[:3]


@pytest.fixture(scope="module")
def run(whole_run, tmp_path_factory):
    """A copy of a finished run, as evaluations write to it."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(whole_run, run)
    return run


@pytest.fixture(scope="module")
def split(run):
    return datasets.load(load(run).config.dataset)["test"]


def written(run, name):
    report = json.loads((run / f"evaluation_on_{name}.json").read_text())
    assert report.pop("step") == 60
    return report


def test_a_run_is_evaluated_with_its_own_config(evaluate, run):
    code, out, err = evaluate(run)
    assert code == 0 and not err
    expected = json.loads((run / "manifest.json").read_text())["end"]["metrics"]["test"]
    assert f"test, 359 images, step 60: loss {expected['loss']:.4f}" in out
    assert evaluate("--workdir", run)[1] == out


def test_arrays_have_the_metrics_of_the_same_images(evaluate, run, split, tmp_path):
    np.savez(tmp_path / "digits.npz", test_image=split.images[..., 0], test_label=split.labels)
    code, out, err = evaluate(run, "--on", tmp_path / "digits.npz")
    assert code == 0 and not err
    expected = json.loads((run / "manifest.json").read_text())["end"]["metrics"]["test"]
    found = written(run, "digits")["digits"]
    for name in "loss", "accuracy", "top5_accuracy", "calibration_error":
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    assert f"digits, 359 images, step 60: loss {expected['loss']:.4f}" in out
    assert np.sum(found["confusion"]) == 359


def test_folders_are_matched_with_the_classes_by_name(evaluate, run, split, tmp_path):
    run_manifest = json.loads((run / "manifest.json").read_text())
    names = ["Zero", "one_", *run_manifest["images"]["class_names"][2:]]
    shutil.copytree(run, tmp_path / "run")
    run_manifest["images"]["class_names"][:2] = ["zero", "One"]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(run_manifest))
    folder = tmp_path / "photos"
    for index in range(40):
        name = names[split.labels[index]]
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(split.images[index, ..., 0]).save(folder / name / f"{index}.png")
    code, _, err = evaluate(tmp_path / "run", "--on", folder)
    assert code == 0 and not err
    predicted = load(run).predict(split.images[:40]).labels
    found = written(tmp_path / "run", "photos")["photos"]
    assert found["accuracy"] == pytest.approx((predicted == split.labels[:40]).mean())
    (folder / "eleven").mkdir()
    shutil.copy(folder / names[split.labels[0]] / "0.png", folder / "eleven")
    code, _, err = evaluate(tmp_path / "run", "--on", folder)
    assert code == 1 and "eleven: unknown class 'eleven'" in err


def test_corruptions_are_told_by_kind_and_strength(evaluate, run, split, tmp_path):
    """In the layout of CIFAR-10-C: 5 strengths of 50 images each."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    images, labels = split.images[:50], split.labels[:50]
    np.save(folder / "labels.npy", np.tile(labels, 5))
    darker = [(images * (1 - strength / 5)).astype(np.uint8) for strength in range(1, 6)]
    np.save(folder / "dark.npy", np.concatenate(darker))
    np.save(folder / "none.npy", np.tile(images, (5, 1, 1, 1)))
    code, out, err = evaluate(run, "--on", folder)
    assert code == 0 and not err
    model, report = load(run), written(run, "CIFAR-10-C")
    assert list(report) == [f"{name} {k}" for name in ("dark", "none") for k in range(1, 6)]
    expected = {
        "dark": [(model.predict(part).labels == labels).mean() for part in darker],
        "none": [(model.predict(images).labels == labels).mean()] * 5,
    }
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    for name, values in expected.items():
        found = [report[f"{name} {k}"]["accuracy"] for k in range(1, 6)]
        np.testing.assert_allclose(found, values, rtol=1e-6)
        assert lines[name] == [f"{value:.1%}" for value in [*found, np.mean(found)]]
    means = np.mean(list(expected.values()), axis=0)
    assert lines["mean"] == [f"{value:.1%}" for value in [*means, means.mean()]]


def test_both_versions_of_cifar_10_1_are_found(evaluate, run, split, tmp_path):
    for version, count in (("v4", 30), ("v6", 20)):
        np.save(tmp_path / f"cifar10.1_{version}_data.npy", split.images[:count])
        np.save(tmp_path / f"cifar10.1_{version}_labels.npy", split.labels[:count])
    code, out, err = evaluate(run, "--on", tmp_path)
    assert code == 0 and not err
    assert "cifar10.1_v4, 30 images" in out and "cifar10.1_v6, 20 images" in out


@pytest.mark.parametrize(
    "arrays, message",
    [
        (None, "no such file or folder; must be an .npz file, a folder of class folders"),
        ({"x": [1]}, "has x; must have test_image and test_label"),
        ({"image": "images", "label": [0, 1]}, "2 labels"),
        ({"image": "images", "label": [0, 1, 10]}, "has label 10, but the network has 10 classes"),
        ({"image": [[[0.5]]], "label": [0]}, "has values of type float64, must be uint8"),
    ],
)
def test_unsuitable_files_are_explained_in_a_screen(
    evaluate, run, split, tmp_path, arrays, message
):
    file = tmp_path / "images.npz"
    if arrays is not None:
        images = split.images[:3]
        np.savez(file, **{k: images if v == "images" else v for k, v in arrays.items()})
    code, out, err = evaluate(run, "--on", file)
    assert code == 1 and not out
    assert message in err and len(err.splitlines()) <= 3


def test_unsuitable_runs_and_folders_are_explained(evaluate, run, tmp_path):
    (tmp_path / "a.txt").touch()
    for arguments, message in (
        ((tmp_path / "nowhere",), "nowhere: not a run: it has no manifest.json"),
        ((run, "--on", tmp_path), "no images in CLASS folders"),
        ((run, "--on", tmp_path / "a.txt"), "a.txt: must be an .npz file"),
        ((run, "--on", tmp_path, "--config=configs/quickstart.py"), "--on take --workdir and no"),
    ):
        code, out, err = evaluate(*arguments)
        assert code == 1 and not out and message in err, (arguments, err)
