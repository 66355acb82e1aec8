import runpy

import numpy as np
import pytest

from jaxcifar.config.validation import validate
from jaxcifar.errors import InputError
from tests.helpers import REPOSITORY

RECIPES = sorted((REPOSITORY / "configs").glob("*.py"))


def recipe(path, *argument):
    return runpy.run_path(str(path))["get_config"](*argument)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid_and_say_how_to_run_them(path, tmp_path):
    config = recipe(path)
    if config.dataset.name == "image_folder":
        for name in ("train", "val"):
            (tmp_path / name / "class").mkdir(parents=True)
            (tmp_path / name / "class" / "image.jpg").touch()
        config.dataset.data_dir = str(tmp_path)
        config.train.batch_size = 1  # or 90 epochs of an image are not a step
    if config.dataset.name == "arrays":
        arrays = {"image": np.arange(2048, dtype=np.uint8).reshape(2, 32, 32), "label": [0, 1]}
        config.dataset.data_dir = str(tmp_path / "data.npz")
        np.savez(
            config.dataset.data_dir,
            **{
                f"{part}_{name}": array
                for part in ("train", "test")
                for name, array in arrays.items()
            },
        )
        config.train.batch_size = 1
    validate(config)
    assert f"python -m jaxcifar.main --config configs/{path.name}" in path.read_text()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_smoke_variants_are_short_and_use_the_same_features(path):
    whole, smoke = recipe(path), recipe(path, "smoke")
    validate(smoke)
    assert (smoke.dataset.name, smoke.train.num_steps) == ("fake", 20)
    for section in ("augment", "optimizer", "schedule", "model", "train"):
        on = {field for field, value in whole[section].items() if value}
        lengths = {f"{field}_{unit}" for field in LENGTHS for unit in ("steps", "epochs")}
        assert on - lengths <= {field for field, value in smoke[section].items() if value}
    for field in LENGTHS:
        if field in whole.schedule or f"{field}_steps" in whole.schedule:
            set_there = whole.schedule[f"{field}_steps"] or whole.schedule[f"{field}_epochs"]
            assert bool(set_there) == bool(smoke.schedule[f"{field}_steps"])
    with pytest.raises(InputError, match="recipe argument 'smok'.* smoke"):
        recipe(path, "smok")


LENGTHS = ("num", "milestones", "warmup", "step_every", "cycle", "restart")


def test_densenets_argument_names_variant_and_data_set():
    path = REPOSITORY / "configs" / "densenet121.py"
    config = recipe(path, "densenet201,cifar100")
    assert (config.model.name, config.dataset.name) == ("densenet201", "cifar100")
    config = recipe(path, "cifar100")
    assert (config.model.name, config.dataset.name) == ("densenet121", "cifar100")
    config = recipe(path, "densenet169,smoke")
    assert (config.model.name, config.train.num_steps) == ("densenet169", 20)
    config = recipe(path, "cifar100,0.1")
    assert (config.dataset.name, config.train.num_epochs) == ("cifar100", 20.0)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_has_any_length(path):
    full, tenth = recipe(path), recipe(path, "0.1")
    for name in ("num_steps", "num_epochs"):
        assert tenth.train[name] == pytest.approx(full.train[name] / 10)
    if full.dataset.name not in ("image_folder", "arrays"):  # which need data
        validate(tenth)


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_he_et_al_2015_section_4_2(depth):
    config = recipe(REPOSITORY / "configs" / f"resnet{depth}.py")
    assert config.model.name == f"resnet{depth}"
    assert (config.dataset.name, config.model.shortcut) == ("cifar10", "A")
    assert (config.train.batch_size, config.train.num_steps) == (128, 64_000)
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("sgd", 0.1)
    assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 1e-4)
    assert not config.optimizer.nesterov
    assert (config.schedule.milestones_steps, config.schedule.gamma) == ((32_000, 48_000), 0.1)
    assert (config.augment.crop_padding, config.augment.horizontal_flip) == (4, True)
    warmup = (400, 0.01, "constant") if depth == 110 else (0, 0.0, "linear")
    schedule = config.schedule
    assert (
        schedule.warmup_steps,
        schedule.warmup_learning_rate,
        schedule.warmup_shape,
    ) == warmup
