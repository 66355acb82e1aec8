import re

import pytest

from jaxcifar.config import durations
from jaxcifar.errors import InputError
from tests.helpers import make_config


def test_epochs_become_steps():
    config = make_config(
        train__num_steps=0,
        train__num_epochs=205.0,
        schedule__name="multistep",
        schedule__milestones_epochs=(102, 154),
        schedule__warmup_epochs=0.5,
        checkpoint__every_steps=1000,
        checkpoint__keep_every_epochs=10.0,
        log__every_epochs=1.0,
        log__layer_stats_every_epochs=2.0,
    )
    result = durations(config, 50_000)  # 390.625 steps an epoch
    assert result.num_steps == 80_078
    assert result.milestones == (39_844, 60_156)
    assert result.warmup_steps == 195
    assert result.eval_every == 391
    assert result.checkpoint_every == 1000
    assert result.keep_every == 3906
    assert (result.log_every, result.layer_stats_every) == (391, 781)
    assert durations(make_config(), 50_000).log_every == 100
    assert durations(make_config(), 50_000).layer_stats_every == 0


def test_a_tiny_share_of_an_epoch_is_a_step():
    config = make_config(train__num_steps=0, train__num_epochs=1e-6)
    assert durations(config, 50_000).num_steps == 1


def test_a_milestone_after_the_end_suggests_scaling_the_recipe():
    config = make_config(schedule__name="multistep", schedule__milestones_steps=(50, 100))
    with pytest.raises(InputError, match=re.escape("as in --config=configs/resnet56.py:0.1")):
        durations(config, 50_000)
