import re

import pytest

from jaxcifar.config import default
from jaxcifar.config.structure import check_field
from jaxcifar.config.validation import validate
from jaxcifar.errors import InputError
from tests.helpers import make_config


def test_default_needs_only_a_length():
    with pytest.raises(InputError, match="no length: set --config.train.num_steps or --c"):
        validate(default())
    validate(make_config())


def test_a_misspelt_field_is_refused_by_the_lock():
    with pytest.raises(AttributeError, match="learning_rate"):
        default().optimizer.learning_rat = 0.1


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"checkpoint__timeout_seconds": 1e10}, "timeout_seconds = 10000000000.0: must be above 0"),
        ({"schedule__restart_steps": 9}, "restart_steps = 9 has no effect"),
        (
            {"schedule__name": "step", "schedule__step_every_steps": 100},
            "step_every_steps or _epochs: step 100 must come before the end",
        ),
        ({"dataset__name": "cifar11"}, "dataset.name 'cifar11'. Did you mean 'cifar10'"),
        ({"dataset__validation_size": -1}, "dataset.validation_size = -1: must be at least 0"),
        ({"dataset__validation_size": 50_000}, "dataset.validation_size = 50000"),
        ({"dataset__validation_seed": 1}, "validation_seed = 1 has no effect"),
        ({"dataset__name": "digits", "dataset__data_dir": "x"}, "data_dir = 'x' has no effect"),
        ({"augment__crop_padding": -1}, "augment.crop_padding"),
        ({"augment__policy": "randaugmnt"}, "augment.policy 'randaugmnt'. Did you mean 'randaug"),
        (
            {"augment__num_ops": 3},
            "augment.num_ops = 3 has no effect: it is used only if augment.policy = 'randau",
        ),
        ({"augment__policy": "randaugment", "augment__magnitude": 31}, "magnitude = 31"),
        (
            {"augment__policy": "one_of_groups", "augment__groups": ((0.5, (("blur", 1.0),)),)},
            "member of a group 'blur'",
        ),
        ({"augment__mix_probability": 0.5}, "augment.mix_probability = 0.5 has no effect"),
        ({"augment__mixup_alpha": 1.0, "augment__cutmix_share": 0.9}, "cutmix_share = 0.9 has no"),
        ({"augment__cutmix_alpha": -1.0}, "augment.cutmix_alpha = -1.0"),
        ({"augment__crop_area": 0.5}, "augment.crop_area = 0.5 has no effect"),
        ({"dataset__labels": "coarse"}, "dataset.labels = 'coarse' has no effect"),
        ({"dataset__name": "image_folder"}, "dataset.data_dir: dataset.name = 'image_folder' nee"),
        ({"model__depth": 21}, "depth = 21: must be 6n + 2"),
        ({"model__norm": "none", "model__zero_init_residual": True}, "zero_init_residual = True h"),
        ({"model__ternary_scale": "filter"}, "ternary_scale = 'filter' has no effect"),
        (
            {"model__name": "densenet121", "model__depth": 40},
            "model.depth = 40 and model.block_layers = (6, 12, 24, 16): only one",
        ),
        (
            {"model__preactivation": True, "model__shortcut": "B"},
            "model.preactivation = True: needs model.shortcut = 'A', a norm other than",
        ),
        ({"model__ternary": "bwn"}, "model.ternary = 'bwn': must be one of none, twn, ttq"),
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
        ({"model__shortcut": "C"}, "model.shortcut = 'C': must be one of A, B"),
        ({"optimizer__name": "sdg"}, "optimizer.name = 'sdg'"),
        ({"optimizer__learning_rate": 0.0}, "learning_rate = 0.0: must be above 0"),
        ({"optimizer__learning_rate": float("inf")}, "learning_rate = inf"),
        ({"optimizer__learning_rate": float("nan")}, "learning_rate = nan"),
        ({"optimizer__momentum": 1.0}, "momentum = 1.0: must be at least 0 and below 1"),
        (
            {"optimizer__nesterov": True, "optimizer__momentum": 0.0},
            "nesterov = True has no effect",
        ),
        ({"optimizer__weight_decay": -1e-4}, "optimizer.weight_decay"),
        ({"optimizer__weight_decay_mask": "biases"}, "weight_decay_mask = 'biases'"),
        (
            {"optimizer__weight_decay_mask": "kernels", "optimizer__weight_decay": 0.0},
            "weight_decay_mask = 'kernels' has no effect",
        ),
        ({"schedule__name": "cosin"}, "schedule.name = 'cosin'"),
        (
            {"schedule__name": "multistep"},
            "'multistep': set --config.schedule.milestones_steps or --config.schedule.m",
        ),
        (
            {"schedule__name": "step"},
            "set --config.schedule.step_every_steps or --config.schedule.step_every_e",
        ),
        (
            {"schedule__name": "warm_restarts"},
            "set --config.schedule.cycle_steps or --config.schedule.cycle_epochs",
        ),
        (
            {
                "schedule__name": "step",
                "schedule__step_every_steps": 9,
                "schedule__cycle_factor": 2.0,
            },
            "schedule.cycle_factor = 2.0 has no effect: it is used only if schedule.name = 'warm",
        ),
        ({"schedule__final_learning_rate": 0.1}, "final_learning_rate = 0.1 has no effect"),
        ({"schedule__name": "one_cycle", "schedule__rise_fraction": 1.0}, "rise_fraction = 1.0"),
        ({"optimizer__name": "adamw", "optimizer__momentum": 0.8}, "momentum = 0.8 has no effect"),
        (
            {"optimizer__beta2": 0.99},
            "optimizer.beta2 = 0.99 has no effect: it is used only if opt",
        ),
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
            "are both set; unset one of them with '--config.schedule.milestones_steps=()' or "
            "'--config.schedule.milestones_epochs=()'",
        ),
        ({"schedule__warmup_steps": 100}, "schedule.warmup_steps or _epochs: step 100 must"),
        ({"schedule__warmup_learning_rate": 0.01}, "warmup_learning_rate = 0.01 has no effect"),
        ({"schedule__warmup_shape": "constant"}, "warmup_shape = 'constant' has no effect"),
        ({"train__num_epochs": 1.0}, "train.num_steps = 100 and train.num_epochs = 1.0 are both"),
        ({"train__num_steps": -5}, "train.num_steps = -5"),
        ({"train__batch_size": 0}, "train.batch_size = 0: must be from 1 to 1048576"),
        ({"train__precision": "float64"}, "train.precision = 'float64'"),
        ({"train__accumulation_steps": 3}, "accumulation_steps = 3: must divide"),
        ({"train__label_smoothing": 1.0}, "train.label_smoothing = 1.0"),
        ({"train__ema_decay": 1.0}, "train.ema_decay = 1.0"),
        ({"train__early_stopping_patience": 5}, "train.early_stopping_patience = 5 has no effect"),
        (
            {"train__early_stopping_min_delta": 0.1},
            "min_delta = 0.1 has no effect: it is used only if train.early_stopping_patience",
        ),
        ({"eval__best_metric": "loss"}, "eval.best_metric = 'loss' has no effect"),
        ({"eval__best_metric": "f1"}, "eval.best_metric = 'f1': must be one of accuracy, loss"),
        ({"log__histograms": True}, "log.histograms = True has no effect"),
        ({"train__seed": -1}, "train.seed = -1"),
        ({"eval__batch_size": 0}, "eval.batch_size"),
        ({"eval__checkpoint": "newest"}, "eval.checkpoint = 'newest'"),
        ({"eval__every_steps": 5, "eval__every_epochs": 1.0}, "are both set"),
        ({"checkpoint__every_epochs": -1.0}, "checkpoint.every_epochs"),
        ({"log__every_steps": -1}, "log.every_steps = -1"),
        ({"log__every_steps": 5, "log__every_epochs": 1.0}, "are both set"),
        ({"train__steps_per_call": 5, "dataset__pipeline": "tf"}, "steps_per_call = 5 has no eff"),
        ({"augment__fill": 9}, "augment.fill = 9 has no effect"),
        ({"augment__cutout_size": 33}, "augment.cutout_size = 33: must be at most 32"),
        ({"eval__test_time_shift": 32}, "eval.test_time_shift = 32: must be at most 31"),
    ],
)
def test_invalid_configs_are_refused_by_field_and_value(fields, message):
    with pytest.raises(InputError, match=re.escape(message)):
        validate(make_config(**fields))


def test_fields_and_sections_of_foreign_configs_are_refused():
    config = make_config().unlock()
    config.train.momentun = 0.9
    with pytest.raises(InputError, match="unknown config field 'train.momentun'. Kn"):
        validate(config)
    del config.train["momentun"]
    config.optimiser = config.optimizer
    with pytest.raises(InputError, match="unknown config section 'optimiser'"):
        validate(config)


def test_an_old_name_is_refused_with_the_new_one():
    with pytest.raises(InputError, match="'schedule.rise' has been renamed to 'schedule.rise_frac"):
        check_field("schedule.rise")
    with pytest.raises(AttributeError, match="'log.layers_every_steps' has been renamed to 'log."):
        default().log.layers_every_steps = 5
    with pytest.raises(AttributeError, match="renamed to 'schedule.step_every_epochs'"):
        default().schedule.every_epochs = 30.0
    with pytest.raises(AttributeError) as caught:
        default().dataset.every_epochs = 30.0
    assert "renamed" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [{"dataset__pipeline": "tf"}, {"log__histograms": True, "log__layer_stats_every_steps": 5}],
)
def test_what_needs_tensorflow_is_refused_without_it(fields, monkeypatch):
    config = make_config(**fields)
    validate(config)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"(pipeline = 'tf'|histograms = True) needs TensorFlow: pip"
    ):
        validate(config)
    validate(config, trains=False)
