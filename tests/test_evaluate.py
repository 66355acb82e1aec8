import numpy as np
import pytest

from jaxcifar import parallel
from jaxcifar.config import default, durations
from jaxcifar.data import datasets
from jaxcifar.evaluate import evaluate
from jaxcifar.steps import create_program


@pytest.fixture(scope="module")
def trained():
    """A program, its state and the fake data."""
    config = default()
    config.dataset.name, config.model.name, config.train.num_steps = "fake", "resnet8", 1
    info = datasets.info("fake")
    program = create_program(config, info, durations(config, info.train_size))
    return program, program.create_state(), datasets.load(config.dataset)


@pytest.mark.parametrize("batch_size", [1000, 130, 64, 33])
def test_every_example_counts_once_for_any_batch_size(trained, batch_size):
    program, state, splits = trained
    keywords = program.eval_step.keywords
    logits = np.asarray(
        keywords["model"].apply(
            {"params": state.params, "batch_stats": state.batch_stats},
            keywords["preprocess"](splits["test"].images),
            train=False,
        ),
        np.float64,
    )
    labels = splits["test"].labels
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(130), labels]

    results = evaluate(
        parallel.map_eval_step(program.eval_step),
        parallel.replicate(state),
        splits,
        batch_size,
    )
    assert list(results) == ["test"]
    assert results["test"]["accuracy"] == np.mean(logits.argmax(1) == labels)
    assert results["test"]["loss"] == pytest.approx(losses.mean(), rel=1e-5)
