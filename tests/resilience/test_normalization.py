"""The mean and deviation in the manifest, and which of them a run is resumed with."""

import dataclasses

import pytest

from jaxcifar.data import datasets
from jaxcifar.errors import InputError
from jaxcifar.resilience import normalization
from tests.helpers import make_config


def test_measured_statistics_are_those_of_the_first_start(tmp_path):
    def info(level, is_measured=True):
        facts = datasets.info(make_config(dataset__name="digits").dataset)
        return dataclasses.replace(facts, mean=(level,), std=(0.5,), is_measured=is_measured)

    assert normalization.with_recorded(tmp_path, info(0.1)) == info(0.1)
    normalization.record(tmp_path, info(0.1))
    assert normalization.with_recorded(tmp_path, info(0.2)) == info(0.1)
    assert normalization.with_recorded(tmp_path, info(0.2, False)) == info(0.2, False)
    normalization.record(tmp_path, info(0.3, False))
    assert normalization.with_recorded(tmp_path, info(0.2)) == info(0.2)
    three = dataclasses.replace(info(0.2), mean=(0.1,) * 3, std=(0.5,) * 3)
    normalization.record(tmp_path, three)
    with pytest.raises(InputError, match="images of 3 channels, and these have 1"):
        normalization.with_recorded(tmp_path, info(0.2))
