"""The quickstart recipe, run as a user would."""

import importlib.util

import pytest

from tests.helpers import read_metrics


@pytest.mark.parametrize(
    "epochs, steps, accuracy", [(5, 112, 0.8), pytest.param(20, 449, 0.97, marks=pytest.mark.slow)]
)
def test_the_quickstart_recipe_learns_the_digits(run_main, tmp_path, epochs, steps, accuracy):
    tensorboard = importlib.util.find_spec("tensorflow") is not None
    milestones = tuple(share * epochs for share in (0.6, 0.8))  # the recipe has 12 and 16 of 20
    code, out, err = run_main(
        *("--config=configs/quickstart.py", f"--workdir={tmp_path}"),
        f"--config.train.num_epochs={epochs}",
        f"--config.schedule.milestones_epochs={milestones}",
    )
    assert code == 0, err
    # Without TensorFlow a line about event files comes before it.
    headline = next(line for line in out.splitlines() if "172,218 parameters" in line)
    for word in ("cpu", "float32", "digits", f"{steps} steps"):
        assert word in headline
    rows = read_metrics(tmp_path)
    assert rows[-1]["split"] == "test" and float(rows[-1]["accuracy"]) >= accuracy
    assert (tmp_path / "checkpoints" / f"{steps}").is_dir()
    assert tensorboard == bool(list(tmp_path.glob("events.out.tfevents.*")))
    assert "172,218" in (tmp_path / "parameters.txt").read_text()
    assert f"{tmp_path} has checkpoints/" in out
    assert tensorboard == ("tensorboard --logdir" in out)
