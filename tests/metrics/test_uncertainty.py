"""Intervals of shares, and temperatures of logits."""

import numpy as np
import pytest

from jaxcifar.metrics.uncertainty import fit_temperature, wilson_interval


def test_intervals_are_the_published_ones():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    for correct, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(correct, count) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_of_logits_is_found(temperature):
    random = np.random.RandomState(0)
    logits = random.normal(size=(20_000, 5)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = random.uniform(size=(20_000, 1))
    labels = (drawn > probabilities.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.03)
