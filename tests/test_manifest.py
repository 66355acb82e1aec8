import json

import pytest

from jaxcifar.config import default
from jaxcifar.errors import InputError
from jaxcifar.manifest import check_config, record_start, write_json

DATA = {"train": "1234", "test": "5678"}


@pytest.fixture
def config():
    config = default()
    config.train.num_steps = 100
    config.schedule.milestones_steps = (50, 75)
    return config


def test_a_new_workdir_fits_any_config(config, tmp_path):
    check_config(tmp_path / "new", config)


def test_the_same_config_may_go_on(config, tmp_path):
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
    assert "optimizer.learning_rate: 0.1 there, 0.05 here" in message
    assert "schedule.milestones_steps: [50, 75] there, [50, 80] here" in message
    assert "--accept_config_change" in message and "--workdir" in message
    assert "momentum" not in message


def test_where_and_how_often_may_change(config, tmp_path):
    record_start(tmp_path, config, 0, DATA)
    config.dataset.data_dir = "elsewhere"
    config.log.every_steps = 7
    config.eval.batch_size = 10
    config.checkpoint.every_steps = 3
    check_config(tmp_path, config)


def test_each_start_is_recorded(config, tmp_path):
    record_start(tmp_path, config, 0, DATA)
    config.optimizer.learning_rate = 0.05
    record_start(tmp_path, config, 40, DATA)
    run = json.loads((tmp_path / "manifest.json").read_text())
    assert run["config"]["optimizer"]["learning_rate"] == 0.05
    assert [start["step"] for start in run["starts"]] == [0, 40]
    for field in ("time", "command", "commit", "versions", "hardware"):
        assert field in run["starts"][0]
    assert {"python", "jax", "flax", "optax", "numpy"} <= run["starts"][0]["versions"].keys()
    assert len(run["starts"][0]["hardware"]["devices"]) == 2


def test_a_broken_manifest_is_named(config, tmp_path):
    (tmp_path / "manifest.json").write_text('{"config": ')
    with pytest.raises(InputError, match="manifest.json: not valid JSON"):
        check_config(tmp_path, config)


def test_json_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
