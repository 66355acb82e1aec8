"""What the manifest has of the data set: for a resumed run, and for a network in use."""

import dataclasses

import pytest

from jaxcifar.data import datasets
from jaxcifar.errors import InputError
from jaxcifar.resilience import dataset_facts
from tests.helpers import make_config


def record(workdir, info):
    dataset_facts.record(workdir, info, tuple("0123456789"))


def test_measured_statistics_are_those_of_the_first_start(tmp_path):
    def info(level, is_measured=True):
        facts = datasets.info(make_config(dataset__name="digits").dataset)
        return dataclasses.replace(facts, mean=(level,), std=(0.5,), is_measured=is_measured)

    assert dataset_facts.with_recorded(tmp_path, info(0.1)) == info(0.1)
    record(tmp_path, info(0.1))
    assert dataset_facts.with_recorded(tmp_path, info(0.2)) == info(0.1)
    assert dataset_facts.with_recorded(tmp_path, info(0.2, False)) == info(0.2, False)
    record(tmp_path, info(0.3, False))
    assert dataset_facts.with_recorded(tmp_path, info(0.2)) == info(0.2)
    three = dataclasses.replace(info(0.2), mean=(0.1,) * 3, std=(0.5,) * 3)
    record(tmp_path, three)
    with pytest.raises(InputError, match="images of 3 channels, and these have 1"):
        dataset_facts.with_recorded(tmp_path, info(0.2))


def test_what_a_network_needs_is_recorded_and_else_taken_from_the_data_set(tmp_path):
    dataset = make_config(dataset__name="cifar10").dataset
    published = datasets.info(dataset)
    names = datasets.class_names(dataset)
    assert dataset_facts.recorded(tmp_path, dataset) == (published, names)

    dataset.name, dataset.data_dir = "arrays", "/nowhere"
    mine = dataclasses.replace(published, name="arrays", mean=(0.1,) * 3, is_measured=True)
    dataset_facts.record(tmp_path, mine, names)
    expected = dataclasses.replace(mine, train_size=0, test_size=0)
    assert dataset_facts.recorded(tmp_path, dataset) == (expected, names)
