import pytest

from jaxcifar.config import default
from jaxcifar.config.earlier import OLD_DEFAULTS, OLD_NAMES
from jaxcifar.config.fields import DURATIONS, FIELDS, RESUME, SECTIONS
from jaxcifar.config.rules import get
from jaxcifar.config.structure import with_new_names


def test_default_has_the_fields_of_the_table_and_no_others():
    config = default()
    assert config.is_locked
    assert {f"{s}.{f}": v for s, fs in config.items() for f, v in fs.items()} == {
        path: field.default for path, field in FIELDS.items()
    }
    assert list(SECTIONS) == list(dict.fromkeys(path.split(".")[0] for path in FIELDS))


@pytest.mark.parametrize("path", FIELDS)
def test_each_field_is_described(path):
    field = FIELDS[path]
    assert len(field.help) > 10 and not field.help.endswith(".")
    assert field.resume in ("identity", "changeable", "free") and RESUME[path] == field.resume
    if isinstance(field.default, bool) or path == "dataset.data_dir":
        assert field.allowed is None
    else:
        assert field.allowed.allows(field.default) or field.default == 0


@pytest.mark.parametrize("path", [path for path, field in FIELDS.items() if field.only_if])
def test_each_condition_names_fields_that_exist(path):
    condition = FIELDS[path].only_if
    assert condition.holds(default()) in (True, False)
    named = [
        w.removesuffix("_steps") for w in condition.text.split() if w.split(".")[0] in SECTIONS
    ]
    assert named and all(name in FIELDS or name in DURATIONS for name in named)


def test_durations_are_the_pairs_of_the_table():
    for path in DURATIONS:
        steps, epochs = FIELDS[f"{path}_steps"], FIELDS[f"{path}_epochs"]
        assert steps.help == epochs.help and steps.only_if == epochs.only_if
        assert type(steps.default) in (int, tuple) and type(epochs.default) in (float, tuple)
    assert "train.num" in DURATIONS and "train.accumulation" not in DURATIONS


def test_old_names_have_gone_and_new_ones_exist():
    for old, new in OLD_NAMES.items():
        assert old not in FIELDS and new in FIELDS
        assert old.split(".")[0] == new.split(".")[0]
    config = {"schedule": {"rise": 0.5, "gamma": 0.2}, "log": {"every_steps": 3}}
    assert with_new_names(config) == {
        "schedule": {"rise_fraction": 0.5, "gamma": 0.2},
        "log": {"every_steps": 3},
    }


def test_old_defaults_are_those_of_fields_that_have_others_now():
    for path, value in OLD_DEFAULTS.items():
        assert type(value) is type(FIELDS[path].default) and value != FIELDS[path].default
    cifar, folder = (
        {"dataset": {"name": name, "image_size": 224}} for name in ("cifar10", "image_folder")
    )
    assert with_new_names(cifar) == {"dataset": {"name": "cifar10", "image_size": 0}}
    assert with_new_names(folder) == folder  # where the field has an effect


def test_a_field_is_read_by_its_path():
    assert get(default(), "train.batch_size") == 128
