import inspect
import re
import runpy

import pytest

from jaxcifar.config import default, durations
from jaxcifar.config.validation import validate
from jaxcifar.errors import InputError
from tests.helpers import REPOSITORY

RECIPES = sorted((REPOSITORY / "configs").glob("*.py"))


def recipe(path, *argument):
    return runpy.run_path(str(path))["get_config"](*argument)


def changed(**fields):
    """A valid config with fields changed, given as section__field=value."""
    config = default()
    config.train.num_steps = 100
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


def test_default_needs_only_a_length():
    with pytest.raises(InputError, match="train.num_steps or train.num_epochs"):
        validate(default())
    validate(changed())


def test_every_field_has_a_comment():
    source = inspect.getsource(default)
    fields = re.findall(r"^    config\.(\w+)\.(\w+) = (.*)$", source, re.MULTILINE)
    assert {f"{s}.{f}" for s, f, _ in fields} == {
        f"{s}.{f}" for s, fs in default().items() for f in fs
    }
    assert [f"{s}.{f}" for s, f, rest in fields if not re.search(r"  # [-\w]", rest)] == []


def test_a_misspelt_field_is_refused_by_the_lock():
    with pytest.raises(AttributeError, match="learning_rate"):
        default().optimizer.learning_rat = 0.1


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"checkpoint__timeout_seconds": 1e10}, "timeout_seconds = 10000000000.0: allowed is abov"),
        (
            {"schedule__restart_steps": 9},
            "restart_steps = 9 has no effect here: it needs a schedul",
        ),
        (
            {"schedule__name": "step", "schedule__every_steps": 100},
            "every_steps or _epochs: step 1",
        ),
        ({"dataset__name": "cifar11"}, "dataset.name 'cifar11'. Did you mean 'cifar10'"),
        ({"dataset__validation_size": -1}, "dataset.validation_size = -1: allowed is 0 or more"),
        ({"dataset__validation_size": 50_000}, "dataset.validation_size = 50000"),
        ({"dataset__validation_seed": 1}, "validation_seed = 1 has no effect"),
        ({"dataset__name": "digits", "dataset__data_dir": "x"}, "data_dir = 'x' has no effect"),
        ({"augment__crop_padding": -1}, "augment.crop_padding"),
        ({"augment__policy": "randaugmnt"}, "augment.policy 'randaugmnt'. Did you mean 'randaug"),
        ({"augment__num_ops": 3}, "augment.num_ops = 3 has no effect here: it needs augment.pol"),
        ({"augment__policy": "randaugment", "augment__magnitude": 31}, "magnitude = 31"),
        (
            {"augment__policy": "one_of_groups", "augment__groups": ((0.5, (("blur", 1.0),)),)},
            "member of a group 'blur'",
        ),
        ({"augment__mix_probability": 0.5}, "mix_probability = 0.5 has no effect here: it needs"),
        ({"augment__mixup_alpha": 1.0, "augment__cutmix_share": 0.9}, "cutmix_share = 0.9 has no"),
        ({"augment__cutmix_alpha": -1.0}, "augment.cutmix_alpha = -1.0"),
        ({"augment__crop_area": 0.5}, "augment.crop_area = 0.5 has no effect"),
        ({"dataset__labels": "coarse"}, "dataset.labels = 'coarse' has no effect"),
        ({"dataset__name": "image_folder"}, "dataset.data_dir: dataset.name = 'image_folder' nee"),
        ({"model__depth": 21}, "depth = 21: must be 6n + 2"),
        ({"model__norm": "none", "model__zero_init_residual": True}, "zero_init_residual = True h"),
        ({"model__ternary_scale": "filter"}, "ternary_scale = 'filter' has no effect"),
        ({"model__ternary": "bwn"}, "model.ternary = 'bwn': allowed is one of none, twn, ttq"),
        ({"model__norm": "group", "model__sync_batch_norm": True}, "sync_batch_norm = True has"),
        ({"model__name": "resnet21"}, "model.name 'resnet21'. Did you mean"),
        ({"model__stem": "imagenet"}, "model.stem = 'imagenet' has no effect on resnet20"),
        ({"model__growth_rate": 12}, "model.growth_rate = 12 has no effect on resnet20"),
        (
            {"model__name": "resnet18", "model__shortcut": "B"},
            "model.shortcut = 'B' has no effect on resnet18",
        ),
        ({"model__name": "densenet121", "model__dropout_rate": 1.0}, "dropout_rate = 1.0"),
        ({"model__name": "densenet121", "model__block_layers": (6, 0)}, "model.block_layers"),
        ({"model__shortcut": "C"}, "model.shortcut = 'C': allowed is one of A, B"),
        ({"optimizer__name": "sdg"}, "optimizer.name = 'sdg'"),
        ({"optimizer__learning_rate": 0.0}, "learning_rate = 0.0: allowed is above 0"),
        ({"optimizer__learning_rate": float("inf")}, "learning_rate = inf"),
        ({"optimizer__learning_rate": float("nan")}, "learning_rate = nan"),
        ({"optimizer__momentum": 1.0}, "momentum = 1.0: allowed is from 0 to below 1"),
        (
            {"optimizer__nesterov": True, "optimizer__momentum": 0.0},
            "nesterov = True has no effect",
        ),
        ({"optimizer__weight_decay": -1e-4}, "optimizer.weight_decay"),
        ({"optimizer__weight_decay_on": "biases"}, "weight_decay_on = 'biases'"),
        (
            {"optimizer__weight_decay_on": "kernels", "optimizer__weight_decay": 0.0},
            "weight_decay_on = 'kernels' has no effect",
        ),
        ({"schedule__name": "cosin"}, "schedule.name = 'cosin'"),
        ({"schedule__name": "multistep"}, "needs schedule.milestones_steps"),
        ({"schedule__name": "step"}, "needs schedule.every_steps or _epochs"),
        ({"schedule__name": "warm_restarts"}, "needs schedule.cycle_steps or _epochs"),
        (
            {"schedule__name": "step", "schedule__every_steps": 9, "schedule__cycle_factor": 2.0},
            "schedule.cycle_factor = 2.0 has no effect here: it needs schedule.name = 'warm_rest",
        ),
        ({"schedule__final_learning_rate": 0.1}, "final_learning_rate = 0.1 has no effect"),
        ({"schedule__name": "one_cycle", "schedule__rise": 1.0}, "schedule.rise = 1.0"),
        ({"optimizer__name": "adamw", "optimizer__momentum": 0.8}, "momentum = 0.8 has no effect"),
        ({"optimizer__beta2": 0.99}, "optimizer.beta2 = 0.99 has no effect here: it needs optim"),
        ({"optimizer__clip_global_norm": -1.0}, "optimizer.clip_global_norm"),
        ({"schedule__milestones_steps": (50,)}, "milestones_steps = (50,) has no effect"),
        ({"schedule__gamma": 0.2}, "schedule.gamma = 0.2 has no effect"),
        ({"schedule__name": "multistep", "schedule__gamma": 0.0}, "schedule.gamma = 0.0"),
        ({"schedule__name": "multistep", "schedule__milestones_steps": (50, 20)}, "increasing"),
        ({"schedule__name": "multistep", "schedule__milestones_steps": (1.5,)}, "increasing"),
        ({"schedule__name": "multistep", "schedule__milestones_steps": (100,)}, "step 100 must"),
        (
            {
                "schedule__name": "multistep",
                "schedule__milestones_steps": (50,),
                "schedule__milestones_epochs": (0.1,),
            },
            "are both set",
        ),
        ({"schedule__warmup_steps": 100}, "schedule.warmup_steps or _epochs: step 100 must"),
        ({"schedule__warmup_learning_rate": 0.01}, "warmup_learning_rate = 0.01 has no effect"),
        ({"schedule__warmup_shape": "constant"}, "warmup_shape = 'constant' has no effect"),
        ({"train__num_epochs": 1.0}, "train.num_steps = 100 and train.num_epochs = 1.0 are both"),
        ({"train__num_steps": -5}, "train.num_steps = -5"),
        ({"train__batch_size": 0}, "train.batch_size = 0: allowed is from 1 to 1048576"),
        ({"train__precision": "float64"}, "train.precision = 'float64'"),
        ({"train__accumulation_steps": 3}, "accumulation_steps = 3: it must divide"),
        ({"train__label_smoothing": 1.0}, "train.label_smoothing = 1.0"),
        ({"train__ema_decay": 1.0}, "train.ema_decay = 1.0"),
        ({"train__early_stopping_patience": 5}, "patience = 5 has no effect here: it needs data"),
        (
            {"train__early_stopping_min_delta": 0.1},
            "min_delta = 0.1 has no effect here: it needs train.early_stopping_patience",
        ),
        ({"eval__best_metric": "loss"}, "eval.best_metric = 'loss' has no effect here"),
        ({"eval__best_metric": "f1"}, "eval.best_metric = 'f1': allowed is one of accuracy, loss"),
        ({"log__histograms": True}, "log.histograms = True has no effect here"),
        ({"train__seed": -1}, "train.seed = -1"),
        ({"eval__batch_size": 0}, "eval.batch_size"),
        ({"eval__checkpoint": "newest"}, "eval.checkpoint = 'newest'"),
        ({"eval__every_steps": 5, "eval__every_epochs": 1.0}, "are both set"),
        ({"checkpoint__every_epochs": -1.0}, "checkpoint.every_epochs"),
        ({"log__every_steps": -1}, "log.every_steps = -1"),
        ({"log__every_steps": 5, "log__every_epochs": 1.0}, "are both set"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(fields, message):
    with pytest.raises(InputError, match=re.escape(message)):
        validate(changed(**fields))


def test_fields_and_sections_of_foreign_configs_are_refused():
    config = changed().unlock()
    config.train.momentun = 0.9
    with pytest.raises(InputError, match="unknown config field 'train.momentun'. Kn"):
        validate(config)
    del config.train["momentun"]
    config.optimiser = config.optimizer
    with pytest.raises(InputError, match="unknown config section 'optimiser'"):
        validate(config)


def test_epochs_become_steps():
    config = changed(
        train__num_steps=0,
        train__num_epochs=205.0,
        schedule__name="multistep",
        schedule__milestones_epochs=(102, 154),
        schedule__warmup_epochs=0.5,
        checkpoint__every_steps=1000,
        checkpoint__keep_every_epochs=10.0,
        log__every_epochs=1.0,
        log__layers_every_epochs=2.0,
    )
    result = durations(config, 50_000)  # 390.625 steps an epoch
    assert result.num_steps == 80_078
    assert result.milestones == (39_844, 60_156)
    assert result.warmup_steps == 195
    assert result.eval_every == 391
    assert result.checkpoint_every == 1000
    assert result.keep_every == 3906
    assert (result.log_every, result.watch_every) == (391, 781)
    assert durations(changed(), 50_000).log_every == 100 and not durations(changed(), 9).watch_every


def test_a_tiny_share_of_an_epoch_is_a_step():
    config = changed(train__num_steps=0, train__num_epochs=1e-6)
    assert durations(config, 50_000).num_steps == 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid_and_say_how_to_run_them(path, tmp_path):
    config = recipe(path)
    if config.dataset.name == "image_folder":
        for name in ("train", "val"):
            (tmp_path / name / "class").mkdir(parents=True)
            (tmp_path / name / "class" / "image.jpg").touch()
        config.dataset.data_dir = str(tmp_path)
        config.train.batch_size = 1  # or 90 epochs of an image are not a step
    validate(config)
    assert f"python -m jaxcifar.main --config configs/{path.name}" in path.read_text()


SMOKE = [path for path in RECIPES if path.stem != "quickstart"]


@pytest.mark.parametrize("path", SMOKE, ids=lambda path: path.stem)
def test_smoke_forms_are_short_and_switch_on_the_same(path):
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
    with pytest.raises(InputError, match="form of the recipe 'smok'. Did you mean 'smoke'"):
        recipe(path, "smok")


LENGTHS = ("num", "milestones", "warmup", "every", "cycle", "restart")


def test_densenets_argument_names_variant_and_data_set():
    path = REPOSITORY / "configs" / "densenet121.py"
    config = recipe(path, "densenet201,cifar100")
    assert (config.model.name, config.dataset.name) == ("densenet201", "cifar100")
    config = recipe(path, "cifar100")
    assert (config.model.name, config.dataset.name) == ("densenet121", "cifar100")
    config = recipe(path, "densenet169,smoke")
    assert (config.model.name, config.train.num_steps) == ("densenet169", 20)


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
