"""The manifest: which config changes and data a run accepts, and what is recorded."""

import json
import shutil

import jax
import numpy as np
import pytest

from jaxcifar.config import RESUME, default, durations
from jaxcifar.config.earlier import OLD_NAMES
from jaxcifar.data import datasets
from jaxcifar.data.datasets import Split
from jaxcifar.errors import InputError
from jaxcifar.program import create_program
from jaxcifar.resilience.checkpoint import Checkpoints
from jaxcifar.resilience.files import write_json
from jaxcifar.resilience.manifest import (
    check_config,
    check_data,
    is_missing,
    plain,
    read,
    record_end,
    record_start,
    saved_step,
    to_carry,
    update,
)
from jaxcifar.resilience.nonfinite import rate_factors
from jaxcifar.resilience.progress import Progress
from jaxcifar.train import train
from tests.helpers import REPOSITORY

DATA = {"train": "1234", "test": "5678"}


@pytest.fixture
def config():
    config = default()
    config.train.num_steps = 100
    config.schedule.milestones_steps = (50, 75)
    return config


def test_a_new_workdir_fits_any_config(config, tmp_path):
    check_config(tmp_path / "new", config)


def test_a_run_resumes_with_the_same_config(config, tmp_path):
    record_start(tmp_path, config, 0, DATA)
    check_config(tmp_path, config)


def test_another_config_is_shown_and_refused(config, tmp_path):
    record_start(tmp_path, config, 0, DATA)
    config.optimizer.learning_rate = 0.05
    config.schedule.milestones_steps = (50, 80)
    with pytest.raises(InputError) as caught:
        check_config(tmp_path, config)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "optimizer.learning_rate: saved 0.1, requested 0.05" in message
    assert "schedule.milestones_steps: saved [50, 75], requested [50, 80]" in message
    assert "--accept_config_change" in message and "--workdir" in message
    assert "momentum" not in message


FIELDS = [f"{section}.{field}" for section, fields in default().items() for field in fields]


def test_every_field_has_a_class_and_no_other():
    assert sorted(RESUME) == sorted(FIELDS)
    assert set(RESUME.values()) == {"identity", "changeable", "free"}


def altered(config, path):
    """Returns a copy of a config with a different value in one field."""
    config = config.copy_and_resolve_references()
    section, field = path.split(".")
    value = config[section][field]
    if isinstance(value, bool):
        config[section][field] = not value
    elif path == "optimizer.groups":
        config[section][field] = (("bias", 2.0, 0.0, 0.0),)
    else:
        config[section][field] = value + {str: "x", int: 1, float: 0.25, tuple: (9,)}[type(value)]
    return config


@pytest.mark.parametrize("path", FIELDS)
def test_each_field_may_change_as_its_class_says(path, config, tmp_path):
    record_start(tmp_path, config, 0, DATA)
    other = altered(config, path)

    def is_refused(**accept):
        try:
            check_config(tmp_path, other, **accept)
        except InputError as error:
            assert f"{path}: " in str(error)
            assert ("--accept" in str(error)) == (RESUME[path] == "changeable")
            return True
        return False

    refused, refused_even_so = {
        "identity": (True, True),
        "changeable": (True, False),
        "free": (False, False),
    }[RESUME[path]]
    assert is_refused() == refused
    assert is_refused(accept=True) == refused_even_so
    record_start(tmp_path, other, 7, DATA)
    changes = json.loads((tmp_path / "manifest.json").read_text())["config_changes"]
    assert [(c["step"], c["field"]) for c in changes] == [(7, path)] * refused
    assert all(c["old"] != c["new"] for c in changes)


def test_a_field_that_may_change_leaves_the_state_as_it_is(config):
    config.model.name, config.dataset.name = "resnet8", "digits"

    def shapes(config):
        info = datasets.info(config.dataset)
        program = create_program(config, info, durations(config, info.train_size))
        return jax.eval_shape(program.create_state)

    expected = shapes(config)
    for path in FIELDS:
        section, kind = path.split(".")[0], RESUME[path]
        # num_epochs and num_steps exclude each other.
        if path == "train.num_epochs" or kind == "identity":
            continue
        if section in ("model", "optimizer", "train"):
            assert shapes(altered(config, path)) == expected, path


def test_a_field_younger_than_the_run_had_its_default(config, tmp_path):
    record_start(tmp_path, config, 0, DATA)
    run = read(tmp_path)
    del run["config"]["train"]["ema_decay"]
    write_json(tmp_path / "manifest.json", run)
    check_config(tmp_path, config)
    config.train.ema_decay = 0.5
    with pytest.raises(InputError, match="train.ema_decay: saved 0.0, requested 0.5"):
        check_config(tmp_path, config)


def test_a_manifest_with_old_field_names_is_that_of_the_same_config(config, tmp_path):
    config.schedule.name, config.schedule.milestones_steps = "one_cycle", ()
    config.schedule.rise_fraction = 0.4
    config.log.layer_stats_every_steps = 10
    record_start(tmp_path, config, 0, DATA)
    run = read(tmp_path)
    for old, new in OLD_NAMES.items():
        section, name = old.split(".")
        run["config"][section][name] = run["config"][section].pop(new.split(".")[1])
    write_json(tmp_path / "manifest.json", run)
    check_config(tmp_path, config)
    config.schedule.rise_fraction = 0.5
    with pytest.raises(InputError, match="schedule.rise_fraction: saved 0.4, requested 0.5"):
        check_config(tmp_path, config)
    record_start(tmp_path, config, 7, DATA)
    run = json.loads((tmp_path / "manifest.json").read_text())
    assert run["config"]["schedule"]["rise_fraction"] == 0.5
    assert "rise" not in run["config"]["schedule"]


@pytest.mark.parametrize("name", ["cifar10", "image_folder"])
def test_a_manifest_with_an_old_default_is_that_of_the_same_config(config, tmp_path, name):
    config.dataset.name = name
    record_start(tmp_path, config, 0, DATA)
    run = read(tmp_path)
    run["config"]["dataset"]["image_size"] = 224
    write_json(tmp_path / "manifest.json", run)
    check_config(tmp_path, config)
    config.dataset.image_size = 225
    with pytest.raises(InputError, match="dataset.image_size: saved (0|224), requested 225"):
        check_config(tmp_path, config)


def test_other_data_are_refused_with_both_fingerprints(config, tmp_path):
    check_data(tmp_path, DATA)
    record_start(tmp_path, config, 0, DATA)
    check_data(tmp_path, DATA)
    with pytest.raises(InputError, match="(?s)test split.*saved .* 5678.*found .* 9999"):
        check_data(tmp_path, DATA | {"test": "9999"})


def test_other_data_stop_a_run_before_it_starts(config, tmp_path, monkeypatch):
    config.dataset.name, config.model.name = "digits", "resnet8"
    config.schedule.name = "multistep"
    splits = datasets.load(config.dataset)
    record_start(tmp_path, config, 0, datasets.fingerprints(splits))
    images = splits["train"].images.copy()
    images[700, 3, 4] += 1
    other = splits | {"train": splits["train"]._replace(images=images)}
    monkeypatch.setattr(datasets, "load", lambda _: other)
    with pytest.raises(InputError, match="the train split differs from"):
        train(config, tmp_path)


def test_fingerprints_see_pixels_labels_order_and_shape():
    random = np.random.RandomState(0)
    split = Split(random.randint(0, 256, (6, 4, 4, 3), np.uint8), np.arange(6, dtype=np.int32))
    images = split.images.copy()
    images[5, 3, 3, 2] ^= 1
    others = [
        Split(images, split.labels),
        Split(split.images, split.labels[::-1]),
        Split(split.images[::-1], split.labels[::-1]),
        Split(split.images.reshape(6, 2, 8, 3), split.labels),
        Split(split.images[:5], split.labels[:5]),
    ]
    prints = [part.fingerprint() for part in [split, *others]]
    assert len(set(prints)) == 6
    copy = Split(np.asfortranarray(split.images), split.labels.copy())
    assert copy.fingerprint() == prints[0]


def test_the_end_is_recorded_until_the_next_start(config, tmp_path):
    record_start(tmp_path, config, 0, DATA)
    record_end(tmp_path, 3, {"a": np.ones(2)}, {"test": {"loss": np.float32(0.1)}})
    end = read(tmp_path)["end"]
    assert end["step"] == 3 and end["metrics"] == {"test": {"loss": float(np.float32(0.1))}}
    record_start(tmp_path, config, 3, DATA)
    assert "end" not in read(tmp_path)


def test_an_end_that_is_not_finite_is_valid_json_and_equal_to_itself(config, tmp_path):
    record_start(tmp_path, config, 0, DATA)
    record_end(tmp_path, 3, {"a": np.ones(2)}, {"test": {"loss": np.float32(np.nan)}})
    path = tmp_path / "manifest.json"
    json.loads(path.read_text(), parse_constant=pytest.fail)
    end = read(tmp_path)["end"]
    assert end["metrics"] == {"test": {"loss": "NaN"}}
    path.write_text(path.read_text().replace('"NaN"', "NaN"))  # as earlier versions wrote it
    assert read(tmp_path)["end"] == end


def test_each_start_is_recorded(config, tmp_path):
    record_start(tmp_path, config, 0, DATA)
    config.optimizer.learning_rate = 0.05
    record_start(tmp_path, config, 40, DATA)
    run = json.loads((tmp_path / "manifest.json").read_text())
    assert run["config"]["optimizer"]["learning_rate"] == 0.05
    assert [start["step"] for start in run["starts"]] == [0, 40]
    assert bool(run["starts"][0]["commit"]) == (REPOSITORY / ".git").exists()
    for field in ("time", "command", "versions", "hardware"):
        assert field in run["starts"][0]
    assert {"python", "jax", "flax", "optax", "numpy"} <= run["starts"][0]["versions"].keys()
    assert len(run["starts"][0]["hardware"]["devices"]) == 2


def test_a_broken_manifest_is_named(config, tmp_path):
    (tmp_path / "manifest.json").write_text('{"config": ')
    with pytest.raises(InputError, match="manifest.json: not a valid manifest"):
        check_config(tmp_path, config)


@pytest.fixture
def without_file(config, tmp_path):
    """The workdir of a run whose manifest.json is lost, with a checkpoint at step 5."""
    record_start(tmp_path, config, 0, DATA)
    update(tmp_path, rollbacks=[{"step": 4, "to_step": 3, "rate_factor": 0.5, "reason": ""}])
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        carried = {"run_manifest": to_carry(tmp_path)}
        checkpoints.save(5, {"a": np.ones(2)}, Progress(), carried)
    (tmp_path / "manifest.json").unlink()
    return tmp_path


def test_a_lost_manifest_is_read_from_the_newest_checkpoint(config, without_file):
    check_config(without_file, config)
    check_data(without_file, DATA)
    with pytest.raises(InputError, match="test split"):
        check_data(without_file, DATA | {"test": "9999"})
    assert rate_factors(without_file) == [(3, 0.5)]
    config.optimizer.learning_rate = 0.05
    with pytest.raises(InputError, match="optimizer.learning_rate: saved 0.1, requested 0.05"):
        check_config(without_file, config)
    check_config(without_file, config, accept=True)
    config.train.seed = 3
    for trains in (True, False):
        with pytest.raises(InputError, match="train.seed: saved 0, requested 3"):
            check_config(without_file, config, accept=True, trains=trains)


def test_a_lost_manifest_is_written_again_at_the_next_start(config, without_file):
    assert is_missing(without_file)
    record_start(without_file, config, 5, DATA)
    assert not is_missing(without_file)
    run = json.loads((without_file / "manifest.json").read_text())
    assert run["data"] == DATA and len(run["rollbacks"]) == 1
    assert [start["step"] for start in run["starts"]] == [0, 5]


def test_an_entry_written_alone_does_not_hide_the_lost_config(config, without_file):
    (without_file / "manifest.json").write_text('{"end": {"step": 5}}')
    assert is_missing(without_file)
    config.train.seed = 3
    with pytest.raises(InputError, match="train.seed: saved 0, requested 3"):
        check_config(without_file, config)


def test_checkpoints_of_another_run_are_noticed_by_their_config(config, without_file):
    config.train.seed = 3
    config.optimizer.learning_rate = 0.05
    record_start(without_file, config, 0, DATA)
    write_json(without_file / "manifest.json", {"config": plain(config)})
    # The learning rate may have been changed after the checkpoint.
    with pytest.raises(InputError) as caught:
        check_config(without_file, config)
    assert "train.seed: saved 0, requested 3" in str(caught.value)
    assert "learning_rate" not in str(caught.value)


def test_a_damaged_checkpoint_is_not_asked_for_the_config(config, without_file):
    file = without_file / "checkpoints" / "5" / "manifest.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 3'))
    assert read(without_file) == {}


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "", "\0" * 100, '{"starts": 5}', '{"end": []}', '{"config": {"train": 3}}'],
)
def test_a_manifest_that_cannot_be_read_names_the_way_out(config, without_file, text):
    (without_file / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="not a valid manifest: .*; remove it to have it written"):
        check_config(without_file, config)
    shutil.rmtree(without_file / "checkpoints")
    with pytest.raises(InputError, match="not a valid manifest: ") as caught:
        check_config(without_file, config)
    assert "remove it" not in str(caught.value)


def test_checkpoints_carry_the_last_start_and_no_end(config, tmp_path):
    for step in (0, 3, 8):
        record_start(tmp_path, config, step, DATA)
    update(tmp_path, end={"step": 9})
    carried = to_carry(tmp_path)
    assert [start["step"] for start in carried["starts"]] == [8]
    assert "end" not in carried and carried["data"] == DATA


@pytest.mark.parametrize(
    "run, step",
    [
        ({}, 0),
        ({"starts": [{"step": 0}]}, 0),
        ({"starts": [{"step": 0}, {"step": 7}, {"step": 0}]}, 7),
        ({"end": {"step": 9}}, 9),
        ({"rollbacks": [{"to_step": 4}]}, 4),
        ({"first_checkpoint": 3}, 3),
    ],
)
def test_a_manifest_shows_that_a_run_has_saved(run, step):
    assert saved_step(run) == step
