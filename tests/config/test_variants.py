import re

import pytest

from jaxcifar.config import split_argument, with_variant
from jaxcifar.config.validation import validate
from jaxcifar.config.variants import length_factor
from jaxcifar.errors import InputError
from tests.helpers import make_config


def test_a_factor_scales_every_duration_of_the_schedule():
    config = make_config(
        train__num_steps=64_000,
        schedule__name="multistep",
        schedule__milestones_steps=(32_000, 48_000),
        schedule__warmup_steps=400,
        schedule__restart_steps=60_000,
        checkpoint__keep_every_steps=5_000,
    )
    with_variant(config, "0.1")
    assert config.train.num_steps == 6_400
    assert config.schedule.milestones_steps == (3_200, 4_800)
    assert config.schedule.warmup_steps == 40
    assert config.schedule.restart_steps == 6_000
    assert config.checkpoint.keep_every_steps == 500


def test_a_factor_scales_epochs_without_rounding_errors():
    config = make_config(
        train__num_steps=0,
        train__num_epochs=20.0,
        schedule__name="multistep",
        schedule__milestones_epochs=(12, 16),
        schedule__warmup_epochs=3.0,
    )
    with_variant(config, "0.1")
    assert config.train.num_epochs == 2.0
    assert config.schedule.milestones_epochs == (1.2, 1.6)
    assert config.schedule.warmup_epochs == 0.3


@pytest.mark.parametrize("name, field", [("step", "step_every"), ("warm_restarts", "cycle")])
def test_a_factor_scales_intervals_of_the_schedule(name, field):
    config = make_config(schedule__name=name, **{f"schedule__{field}_steps": 30})
    assert with_variant(config, "0.5").schedule[f"{field}_steps"] == 15


def test_a_factor_leaves_how_often_a_run_is_logged_evaluated_and_saved():
    intervals = {
        "log__every_steps": 50,
        "log__layer_stats_every_steps": 70,
        "eval__every_epochs": 2.0,
        "checkpoint__every_steps": 90,
    }
    config = with_variant(make_config(**intervals), "0.1")
    assert config == make_config(**intervals, train__num_steps=10)


@pytest.mark.parametrize("factor, steps", [("2", 200), ("1", 100), ("1e-9", 1), ("0.015", 2)])
def test_a_run_of_any_length_has_a_step(factor, steps):
    config = with_variant(make_config(), factor)
    assert config.train.num_steps == steps
    validate(config)


def test_a_run_too_short_for_its_schedule_is_refused():
    config = make_config(schedule__name="multistep", schedule__milestones_steps=(50, 75))
    with pytest.raises(InputError, match="schedule.milestones_steps = .1, 1.: must be increasing"):
        validate(with_variant(config, "0.01"))


@pytest.mark.parametrize("argument", ["smok", "0", "-1", "0.0", "inf", "nan", "0.1,smoke", " "])
def test_another_argument_is_refused_with_what_it_may_be(argument):
    message = f"recipe argument {argument!r}: must be smoke or a number above 0"
    with pytest.raises(InputError, match=re.escape(message)):
        with_variant(make_config(), argument)


def test_no_argument_is_the_recipe_itself():
    assert with_variant(make_config(), "") == make_config()


NETWORKS, DATASETS = ("densenet121", "densenet201"), ("cifar10", "cifar100")


@pytest.mark.parametrize(
    "argument, chosen, variant",
    [
        ("", ["densenet121", "cifar10"], ""),
        ("densenet201", ["densenet201", "cifar10"], ""),
        ("cifar100", ["densenet121", "cifar100"], ""),
        ("densenet201,cifar100,0.1", ["densenet201", "cifar100"], "0.1"),
        ("smoke,cifar100", ["densenet121", "cifar100"], "smoke"),
        ("0.5", ["densenet121", "cifar10"], "0.5"),
    ],
)
def test_an_argument_is_split_into_choices_and_variant(argument, chosen, variant):
    assert split_argument(argument, NETWORKS, DATASETS) == (chosen, variant)


@pytest.mark.parametrize(
    "argument",
    [
        "densenet211",
        "cifar",
        "densenet121,densenet201",
        "cifar10,cifar10",
        "0.1,0.2",
        "smoke,2",
        ",",
    ],
)
def test_unknown_and_repeated_choices_are_refused(argument):
    with pytest.raises(InputError, match=re.escape(f"recipe argument {argument!r}")) as caught:
        split_argument(argument, NETWORKS, DATASETS)
    for word in (*NETWORKS, *DATASETS, "smoke", "0.1"):
        assert word in str(caught.value)


def test_the_factor_of_an_argument():
    found = [length_factor(a) for a in ("", "smoke", "0.1", "densenet201,cifar100,0.25", "2")]
    assert found == [1.0, 1.0, 0.1, 0.25, 2.0]


def test_the_smoke_variant_has_no_option_of_the_recipes_own_data():
    config = make_config(
        dataset__name="image_folder",
        dataset__data_dir="images",
        dataset__image_size=96,
        dataset__exif_orientation=True,
        dataset__fingerprint="sample",
        augment__crop_area=0.35,
        augment__horizontal_flip=False,
    )
    validate(with_variant(config, "smoke"))
    assert (config.dataset.name, config.augment.horizontal_flip) == ("fake", False)
