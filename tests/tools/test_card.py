"""The model card of a run."""

import json
import re
import shutil

import numpy as np
import pytest

from jaxcifar.data import datasets
from jaxcifar.data.corruptions import CORRUPTIONS, corrupt
from jaxcifar.trained import load


@pytest.fixture(scope="module")
def card(run_command):
    """Runs `jaxcifar card`; returns exit code, stdout and stderr."""
    return lambda *arguments: run_command("jaxcifar", "card", *arguments)[:3]


@pytest.fixture(scope="module")
def written(card, whole_run, tmp_path_factory):
    """A copy of a run with its card: the directory, the text and the figures."""
    run = tmp_path_factory.mktemp("card") / "run"
    shutil.copytree(whole_run, run)
    code, out, err = card(run, "--max_images=60")
    assert code == 0 and "MODEL_CARD.md" in out, err
    text = (run / "MODEL_CARD.md").read_text()
    return run, text, json.loads((run / "MODEL_CARD.json").read_text())


def test_accuracies_are_those_of_the_run(written):
    run, text, facts = written
    recorded = json.loads((run / "manifest.json").read_text())["end"]["metrics"]["test"]
    for name in "loss", "accuracy", "top5_accuracy", "calibration_error":
        assert facts["test"][name] == pytest.approx(recorded[name], rel=1e-5)
    low, high = facts["test"]["interval"]
    assert low < recorded["accuracy"] < high and facts["test"]["images"] == 359
    assert f"**{recorded['accuracy']:.2%}** accuracy on 359 test images" in text
    assert f"95 % interval {low:.2%} to {high:.2%}" in text
    correct = sum(facts["test"]["per_class"].values()) / 10
    assert correct == pytest.approx(recorded["accuracy"], abs=0.02)  # classes are about equal
    assert facts["calibration"]["before"] == pytest.approx(recorded["calibration_error"], rel=1e-5)
    assert facts["calibration"]["fitted_to"] == "138 validation images"


def test_corruptions_and_training_images_are_evaluated(written):
    run, text, facts = written
    model = load(run)
    test = datasets.load(model.config.dataset)["test"]
    assert set(facts["robustness"]["kinds"]) == set(CORRUPTIONS)
    for name, strength in (("contrast", 5), ("shot_noise", 1)):
        images = corrupt(test.images[:60], name, strength)
        expected = np.mean(model.predict(images).labels == test.labels[:60])
        found = facts["robustness"]["kinds"][name]["accuracy"][str(strength)]
        assert found == pytest.approx(expected, abs=1e-6)
        assert re.search(rf"\| {name.replace('_', ' ')} \| .*{expected:.1%}", text)
    assert facts["train"]["images"] == 60 and 0.1 < facts["train"]["accuracy"] <= 1


def test_size_and_speed_are_measured(written):
    _, text, facts = written
    assert facts["parameters"] == 75_002  # counted by hand: 6 n + 2 layers with n = 1, one channel
    assert 3 * facts["parameters"] < facts["file_bytes"]["npz"] < 6 * facts["parameters"]
    assert {"JAX", "StableHLO file", "ONNX Runtime"} == set(facts["speed"])
    for name, speed in facts["speed"].items():
        assert f"| {name} |" in text
        if "missing" not in speed:
            assert 0 < speed["latency_ms"] <= speed["latency_ms_p90"]
            assert 0 < speed["images_per_second_p10"] <= speed["images_per_second"]
    assert 2**26 < facts["peak_memory_bytes"] < 2**35


def test_the_recipe_and_its_data_are_named(written):
    run, text, facts = written
    manifest = json.loads((run / "manifest.json").read_text())
    assert facts["recipe"]["fields"]["model.name"] == "resnet8"
    assert "train.seed" not in facts["recipe"]["fields"]  # the default
    assert manifest["data"]["train"] in text and facts["recipe"]["sha256"] in text
    assert "host" not in facts["training"]["hardware"] and "host" not in facts["machine"]


def test_without_the_data_the_rest_is_written(card, written, tmp_path):
    run, _, _ = written
    shutil.copytree(run, tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["config"]["dataset"] |= {"name": "arrays", "data_dir": str(tmp_path / "none")}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "cards" / "card.md"
    code, _, err = card(tmp_path / "run", f"--out={out}")
    assert code == 0, err
    text = out.read_text()
    assert "## Evaluation\n\nNot evaluated: dataset.data_dir" in text
    assert "## Size and speed" in text and "## Robustness" not in text


def test_mistakes_are_explained(card, written, tmp_path):
    run, _, _ = written
    for arguments, message in (
        ((), "give the directory of one run"),
        ((tmp_path,), "not a run: it has no manifest.json"),
        ((run, f"--out={tmp_path}/card.txt"), "must end in .md"),
        ((run, "--max_images=0"), "--max_images=0"),
    ):
        code, out, err = card(*arguments)
        assert code == 1 and not out and message in err
