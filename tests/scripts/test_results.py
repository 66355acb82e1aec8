"""The results that are shown, against what results/ holds of each run."""

import importlib
import io
import json
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from jaxcifar.resilience.manifest import saved_config
from tests.helpers import REPOSITORY

RUNS = sorted(path.parent for path in (REPOSITORY / "results").glob("**/manifest.json"))


@pytest.fixture(scope="module", autouse=True)
def scripts():
    sys.path.insert(0, str(REPOSITORY / "scripts" / "results"))
    yield
    sys.path.remove(str(REPOSITORY / "scripts" / "results"))


@pytest.fixture
def load():
    """Imports a module of scripts/results by name."""
    return importlib.import_module


def test_what_is_shown_is_what_was_measured(load):
    for path, text in load("write").texts().items():
        assert path.read_text() == text, f"run `python scripts/results/write.py`: {path}"
    for picture in load("pictures").pictures():
        assert picture.is_current(), f"run `python scripts/results/write.py`: {picture.path}"


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.parent.name}-{run.name}")
def test_each_run_is_the_recipes_and_its_predictions_have_its_accuracy(load, run):
    text = (run / "manifest.json").read_text()
    manifest = json.loads(text)
    config = saved_config(manifest)
    row = load("rows").all_rows()[str(run.parent.relative_to(REPOSITORY / "results"))]
    assert manifest["seed"] == config.train.seed == int(run.name)
    assert config.to_dict() == row.config(int(run.name)).to_dict()
    assert '"/' not in text and "host" not in manifest["starts"][0]["hardware"]
    assert all(start["commit"] and "+" not in start["commit"] for start in manifest["starts"])
    if row.predictions:
        made = load("runs").predictions(run)
        assert made.labels.shape == made.classes.shape == made.probabilities.shape == (10_000,)
        classes = 100 if "100" in config.dataset.name else 10
        assert (np.bincount(made.labels) == 10_000 // classes).all()
        accuracy = (made.labels == made.classes).mean()
        assert accuracy == manifest["end"]["metrics"]["test"]["accuracy"]
        assert made.probabilities.min() >= 1 / classes - 1e-3 and made.probabilities.max() <= 1


def test_each_row_is_a_config_of_its_own_and_its_command_sets_it(load, run_command, tmp_path):
    rows = load("rows").all_rows()
    configs = [row.config(0).to_dict() for row in rows.values()]
    assert all(config not in configs[:number] for number, config in enumerate(configs))
    assert set(load("rows").ROWS) < set(rows)
    row = rows["resnet18_30_epochs"]
    assert row.run_command(3).endswith(
        "configs/resnet18.py --config.train.num_epochs=30.0 --config.train.seed=3"
    )
    assert rows["ternary_resnet20/twn"].command() == (
        "jaxcifar sweep --config configs/ternary_resnet20.py --only twn --seeds 0,1,2"
    )
    arguments = row.command().removeprefix("jaxcifar sweep ").split()
    code, out, err, _ = run_command(
        "jaxcifar.tools.sweep", *arguments, "--dry_run", f"--workdir={tmp_path}/out"
    )
    assert code == 0, err
    assert "--config.train.num_epochs=30.0 --config.train.seed=0" in out


def test_a_run_belongs_to_the_row_that_has_its_config(load):
    rows, find_row = load("rows").all_rows(), load("add").find_row
    for name in "speedrun94", "resnet18_30_epochs", "ablations_resnet20/batch_32":
        config = rows[name].config(5)
        config.dataset.data_dir = "elsewhere"
        assert find_row(config)[0] == name
    config.train.batch_size = 64
    with pytest.raises(SystemExit, match="no row of the tables has the config"):
        find_row(config)


def test_the_time_of_a_run_is_the_sum_of_its_attempts(load):
    day, minutes = "2026-01-01T00:{}:00+00:00", load("runs").minutes
    starts = [day.format(minute) for minute in ("00", "30")]
    rows = [day.format(minute) for minute in ("05", "10", "32", "45")]
    assert minutes(starts, rows) == 10 + 15
    assert minutes([*starts[:1], day.format("20"), *starts[1:]], rows) == 10 + 0 + 15


@pytest.fixture
def run(load):
    """A run with the given accuracies and minutes."""

    def make(accuracy, one_view=None, minutes=10.0):
        return load("runs").Run(accuracy, one_view, minutes, 500.0, "2 cores, X", "jax 1", "abc")

    return make


def test_tables_have_mean_and_deviation_over_seeds(load, run):
    tables, rows = load("tables"), load("rows").all_rows()
    found = {name: [] for name in rows} | {
        "speedrun94": [run(0.94, 0.93, 10.0), run(0.945, 0.94, 12.0), run(0.935, 0.935, 14.0)],
        "resnet20": [run(0.92, None, 120.0)],
    }
    cells = [line.split("|") for line in tables.recipes(found).splitlines()]
    assert cells[2][2:9] == [
        *(" 3 ", " 94.00 ± 0.50 % ", " 93.50 ± 0.50 % ", " 12.0 min ", " 500 ", " 2 cores, X "),
        " abc ",
    ]
    assert cells[3][3] == " open "
    assert cells[6][2:6] == [" 1 ", " 92.00 % ", " ", " 2.0 h "]
    lines = tables.commands(found).splitlines()
    assert "| 3 of 10 | 93.50, 94.50 % | jax 1 | `jaxcifar sweep --config" in lines[2]
    assert "| open | | | `jaxcifar sweep --config configs/speedrun95.py" in lines[3]
    text = tables.measured(rows["speedrun94"], found["speedrun94"])
    assert text.startswith("Measured: 94.00 ± 0.50 % test accuracy, 93.50 ± 0.50 % without the")
    assert "(3 seeds), in 12.0 min per run" in " ".join(text.split())


def test_variants_are_compared_with_the_first(load, run):
    name, tables = "speedrun_ingredients", load("tables")
    found = {row: [] for row in load("rows").all_rows()} | {
        "speedrun94": [run(0.94), run(0.942), run(0.944)],
        f"{name}/no_whitening": [run(0.93), run(0.934)],
    }
    lines = tables.sweep(name, found).splitlines()
    assert lines[2].startswith("| baseline | 3 | 94.20 ± 0.20 % | | 10.0 min |")
    # Variances 4e-6 and 8e-6: the standard error is the root of 4e-6 / 3 + 8e-6 / 2.
    assert lines[3].startswith("| no whitening | 2 | 93.20 ± 0.28 % | -1.00 (0.23) | 10.0 min |")
    assert lines[4].startswith("| no identity init | open: `jaxcifar sweep --config")


@pytest.fixture
def made(load):
    """Predictions of ten images, three of which are wrong."""
    labels = np.arange(10, dtype=np.uint8)
    classes = labels.copy()
    classes[[2, 5, 7]] = (3, 3, 0)
    probabilities = np.full(10, 0.95, np.float16)
    probabilities[[2, 5, 7]] = (0.35, 0.85, 0.99)
    return load("runs").Predictions(labels, classes, probabilities)


def test_shared_errors_are_counted_by_hand(load, made):
    other = made._replace(classes=made.classes.copy())
    other.classes[2], other.classes[9] = 2, 8  # wrong: 5, 7, 9
    text = load("tables").shared_errors([made, other])
    assert text == (
        "Two seeds have 67% of their test errors in common (mean of 1 pair); were errors "
        "independent, it would be 30.0%. 4 images are wrong in at least one of 2 seeds, 2 in all."
    )


def test_confusion_calibration_and_mistakes_are_counted_by_hand(load, made):
    pictures = load("pictures")
    counts = pictures.confusion(made, 10)
    assert counts.sum() == 10 and np.trace(counts) == 7
    assert counts[2, 3] == counts[5, 3] == counts[7, 0] == 1
    mean, accuracy, counts = pictures.calibration(made)
    np.testing.assert_array_equal(counts, [0, 0, 0, 1, 0, 0, 0, 0, 1, 8])
    assert accuracy[3] == accuracy[8] == 0 and accuracy[9] == 7 / 8
    assert mean[9] == pytest.approx((7 * 0.95 + 0.99) / 8, abs=1e-3)
    np.testing.assert_array_equal(load("runs").most_confident_mistakes(made), [7, 5, 2])


def test_pictures_are_drawn_and_know_what_they_show(load, made, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the pictures, is missing")
    pictures = load("pictures")
    monkeypatch.setattr(pictures, "IMAGES", tmp_path)
    strip, source = tmp_path / "strip.png", tmp_path / "source"
    Image.fromarray(np.zeros((32, 96, 3), np.uint8)).save(strip)
    epochs = np.arange(1.0, 6.0)
    drawings = {
        "curves": lambda: pictures.draw_curves("X", [(epochs, 80 + epochs), (epochs, 81 + epochs)]),
        "confusion": lambda: pictures.draw_confusion(made),
        "calibration": lambda: pictures.draw_calibration(made),
        "mistakes": lambda: pictures.draw_mistakes(made, strip),
    }
    texts = {
        "curves": "X, 85.50 % at the end",
        "confusion": "automobile",
        "calibration": "expected calibration error",
        "mistakes": "label: horse, no. 7",
    }
    for name, draw in drawings.items():
        source.write_text(name)
        picture = pictures.Picture(name, "", [source], draw)
        assert not picture.is_current()
        picture.save()
        assert picture.is_current()
        content = picture.path.read_bytes()
        picture.save()
        assert picture.path.read_bytes() == content
        assert texts[name] in "".join(ElementTree.parse(io.BytesIO(content)).getroot().itertext())
        source.write_text("changed")
        assert not pictures.Picture(name, "", [source], draw).is_current()
