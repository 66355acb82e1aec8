"""The learning-rate range test."""

import csv
import io
import re

import numpy as np
import pytest
from PIL import Image

from jaxcifar.tools.range_test import Curve, measure, suggest
from tests.helpers import make_config

RATES = np.geomspace(1e-4, 10, 200)


def curve(lowest=1.0, noise=0.0, seeds=1, drop=1.5, end=200):
    """Losses that fall until the rate is `lowest`, and rise steeply beyond it."""
    position = np.log10(RATES / lowest)
    losses = 2.3 - drop * np.clip(position + 2, 0, 2) / 2 + 8 * np.clip(position, 0, None)
    losses = losses + noise * np.random.RandomState(0).normal(size=(seeds, 200))
    losses[:, end:] = np.nan
    return Curve(RATES, losses)


@pytest.mark.parametrize("lowest", [0.03, 1.0])
@pytest.mark.parametrize("noise, seeds", [(0.0, 1), (0.05, 3)])
def test_a_tenth_of_the_best_rate_is_suggested(lowest, noise, seeds):
    suggestion = suggest(curve(lowest, noise, seeds))
    # The moving average lags behind by a few of 40 steps per decade.
    assert 0.9 * lowest / 10 < suggestion.rate < lowest / 10 * 2.5
    assert "where the smoothed loss is lowest" in suggestion.reason


@pytest.mark.parametrize(
    "losses, reason",
    [
        (curve(drop=0.05, noise=0.5), "the curve is too noisy"),
        (curve(drop=0.0), "the curve is too noisy"),
        (curve(lowest=30), "the loss still falls at the highest rate; raise --high"),
        (curve(end=5), "diverged within ten steps; lower --low"),
        (
            Curve(RATES, np.concatenate([curve(0.01).losses, curve(1.0).losses])),
            "the seeds disagree",
        ),
    ],
)
def test_nothing_is_suggested_where_the_curve_does_not_tell(losses, reason):
    suggestion = suggest(losses)
    assert suggestion.rate is None and reason in suggestion.reason


def test_the_average_of_a_constant_is_the_constant():
    flat = Curve(RATES, np.full((2, 200), 1.7))
    np.testing.assert_allclose(flat.smoothed(), 1.7)


def small(**fields):
    return make_config(
        dataset__name="digits",
        augment__crop_padding=0,
        augment__horizontal_flip=False,
        model__name="resnet8",
        train__batch_size=32,
        **fields,
    )


def test_the_rate_rises_exponentially_and_the_loss_is_that_of_each_step():
    """With a rate of practically 0 the loss stays; with the usual ones it falls."""
    still = measure(small(), 1e-12, 1e-11, 24, [0])
    np.testing.assert_allclose(still.rates[[0, -1]], [1e-12, 1e-11])
    ratios = still.rates[1:] / still.rates[:-1]
    np.testing.assert_allclose(ratios, ratios[0])
    assert still.losses.shape == (1, 24) and not np.isnan(still.losses).any()
    moving = measure(small(), 1e-2, 0.1, 48, [0, 1])
    np.testing.assert_allclose(moving.losses[0, 0], still.losses[0, 0], rtol=1e-5)
    first, last = moving.losses[:, :10].mean(axis=1), moving.losses[:, -10:].mean(axis=1)
    assert (last < first - 1.0).all()
    assert (moving.losses[0] != moving.losses[1]).any()


def test_a_diverging_run_ends_early():
    found = measure(small(model__norm="none"), 1.0, 1e6, 24, [0])
    assert np.isnan(found.losses[0, -1]) and np.isfinite(found.losses[0, 0])


@pytest.mark.slow
def test_the_command_draws_and_suggests(run_command, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra figures")
    out = tmp_path / "new" / "rates.png"
    code, text, err, _ = run_command(
        "jaxcifar",
        "find-lr",
        *("--config=configs/quickstart.py", "--config.model.name=resnet8"),
        *("--low=0.001", "--high=100", "--steps=60", "--seeds=0,1", f"--out={out}"),
    )
    assert code == 0, err
    assert re.search(r"^(suggested: --config.optimizer.learning_rate=|no suggestion: )", text, re.M)
    with Image.open(out) as image:
        assert min(image.size) > 300
    rows = list(csv.DictReader(io.StringIO(out.with_suffix(".csv").read_text())))
    assert len(rows) == 60 and float(rows[0]["learning_rate"]) == 0.001
    assert float(rows[-1]["learning_rate"]) == 100 and float(rows[0]["loss_1"]) > 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--low=1", "--high=0.1"], "--high=0.1: must be above --low=1.0"),
        (["--steps=3"], "--steps=3"),
        (["--seeds=a"], "--seeds=a: must be numbers, e.g. 0,1,2"),
        (["--out=rates.jpg"], "must end in .png, .svg or .pdf"),
    ],
)
def test_mistakes_are_explained(run_command, flags, message):
    code, out, err, _ = run_command("jaxcifar", "find-lr", "--config=configs/quickstart.py", *flags)
    assert code == 1 and not out and message in err
