"""Metrics over whole splits, for a network and for guesses with known metrics."""

import dataclasses
import io
import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from rich.console import Console

from jaxcifar import devices, metrics
from jaxcifar.config import default, durations
from jaxcifar.data import datasets
from jaxcifar.evaluate import Evaluator, _class_table, evaluate_run, print_report
from jaxcifar.program import create_program
from jaxcifar.resilience.checkpoint import Restored
from jaxcifar.resilience.progress import Progress


@pytest.fixture(scope="module")
def trained():
    """A config of the fake data, its program, its state and the data."""
    config = default()
    config.dataset.name, config.model.name, config.train.num_steps = "fake", "resnet8", 1
    info = datasets.info(config.dataset)
    program = create_program(config, info, durations(config, info.train_size))
    return config, program, program.create_state(), datasets.load(config.dataset)


def with_batch_size(config, batch_size):
    """A copy of a config."""
    config = config.copy_and_resolve_references()
    config.eval.batch_size = batch_size
    return config


def reference(program, variables, split):
    """Mean loss and accuracy from the logits of all images at once."""
    keywords = program.eval_step.keywords
    images = keywords["preprocess"](split.images)
    apply = jax.jit(partial(keywords["model"].apply, train=False))
    logits = np.asarray(apply(variables, images), np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(split.size), split.labels]
    return losses.mean(), np.mean(logits.argmax(1) == split.labels)


@pytest.mark.parametrize("batch_size", [1000, 130, 64, 33])
def test_every_example_counts_once_for_any_batch_size(trained, batch_size):
    config, program, state, splits = trained
    loss, accuracy = reference(program, state.variables(), splits["test"])
    evaluator = Evaluator(with_batch_size(config, batch_size), program, splits)
    results = evaluator(devices.replicate(state))
    assert list(results) == ["test"]
    assert results["test"]["accuracy"] == accuracy
    assert results["test"]["loss"] == pytest.approx(loss, rel=1e-5)


def test_moving_averages_are_evaluated_beside_the_weights(trained):
    config, program, state, splits = trained
    ema = jax.tree.map(lambda x: 0.5 * x, state.variables())
    loss, accuracy = reference(program, ema, splits["test"])
    evaluator = Evaluator(with_batch_size(config, 130), program, splits)
    results = evaluator(devices.replicate(state.replace(ema=ema)))
    assert list(results) == ["test", "test_ema"]
    assert results["test_ema"]["accuracy"] == accuracy
    assert results["test_ema"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert results["test"]["loss"] != pytest.approx(loss, rel=1e-5)


def guess(labels):
    """The guess of `guess_step`: the label itself if it is even, otherwise the class after it."""
    return (labels + labels % 2) % 10


def guess_step(variables, batch):
    """An eval_step without a network, whose confidence is 0.75."""
    probabilities = jnp.eye(10) * 0.75 + (1 - jnp.eye(10)) * 0.25 / 9
    logits = jnp.log(probabilities)[guess(batch["label"])]
    return lax.psum(metrics.evaluation_sums(logits, batch["label"], batch["mask"]), devices.AXIS)


@pytest.mark.parametrize("batch_size", [130, 33])
def test_arrays_of_sums_add_up_over_devices_and_batches(trained, batch_size):
    config, program, state, splits = trained
    program = dataclasses.replace(program, eval_step=guess_step)
    evaluator = Evaluator(with_batch_size(config, batch_size), program, splits)
    total = evaluator.totals(devices.replicate(state))
    labels = splits["test"].labels
    expected = np.zeros((10, 10))
    np.add.at(expected, (labels, guess(labels)), 1)
    np.testing.assert_array_equal(total["test"]["confusion"], expected)
    # 0.75 lies between 11/15 and 12/15.
    assert total["test"]["bin_count"].tolist() == [0] * 11 + [130] + [0] * 3
    np.testing.assert_allclose(total["test"]["bin_confidence"][11], 130 * 0.75, rtol=1e-6)


def test_a_run_is_evaluated_in_full(trained, tmp_path, monkeypatch, capsys):
    config, program, state, splits = trained
    program = dataclasses.replace(program, eval_step=guess_step)
    found = program, Restored(7, state, Progress())
    monkeypatch.setattr("jaxcifar.evaluate.restore", lambda config, workdir: found)

    results = evaluate_run(config, tmp_path)
    accuracy = np.mean(splits["test"].labels % 2 == 0)
    assert list(results) == ["test"]
    assert list(results["test"]) == ["loss", "accuracy", "top5_accuracy", "calibration_error"]
    assert results["test"]["accuracy"] == accuracy
    assert results["test"]["calibration_error"] == pytest.approx(abs(accuracy - 0.75), abs=1e-6)

    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(report) == ["step", "test"] and report["step"] == 7
    assert {name: report["test"][name] for name in results["test"]} == results["test"]
    assert report["test"]["per_class_accuracy"] == [1, 0] * 5
    assert np.sum(report["test"]["confusion"]) == 130
    assert report["test"]["calibration"][11]["count"] == 130

    headline, *table, mistakes = capsys.readouterr().out.splitlines()
    assert headline.startswith("test, 130 images, step 7: loss ")
    accuracies = ["0.0%" if label % 2 else "100.0%" for label in range(10)]
    rows = [[str(label), accuracy] for label, accuracy in enumerate(accuracies)]
    assert [line.split() for line in table] == [["class", "accuracy"], *rows]
    counts = np.bincount(splits["test"].labels)
    worst = sorted(range(1, 10, 2), key=lambda label: -counts[label])
    pairs = [f"{x} as {(x + 1) % 10} ({counts[x]} of {counts[x]})" for x in worst]
    assert mistakes == f"most confused: {', '.join(pairs)}"


def test_a_report_has_the_names_of_classes_whatever_is_in_them(capsys):
    names = ["cat", "[red]dog[/]", "tab\there", "nicht\udcff", "Gänse"]
    labels = jnp.array([0, 0, 0, 1, 2, 3])
    logits = jax.nn.one_hot(jnp.array([0, 1, 1, 1, 4, 3]), 5)
    sums = metrics.evaluation_sums(logits, labels, jnp.ones(6, bool))
    print_report(3, {"test": metrics.add({}, sums)}, names)
    _, _, *table, mistakes = capsys.readouterr().out.splitlines()
    shown = ["cat", "[red]dog[/]", "tab\\there", "nicht\\udcff", "Gänse"]
    accuracies = ["33.3%", "100.0%", "0.0%", "100.0%", "-"]
    assert [line.split() for line in table] == [
        list(row) for row in zip(shown, accuracies, strict=True)
    ]
    assert mistakes == ("most confused: cat as [red]dog[/] (2 of 3), tab\\there as Gänse (1 of 1)")


def test_a_name_is_escaped_where_the_terminal_lacks_its_letters(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    sums = metrics.evaluation_sums(jnp.eye(2), jnp.array([1, 1]), jnp.ones(2, bool))
    print_report(3, {"test": metrics.add({}, sums)}, ["Gänse", "狗"])
    out.flush()
    text = out.buffer.getvalue().decode("ascii")
    assert "G\\xe4nse  -" in text and "\\u72d7 as G\\xe4nse (1 of 2)" in text


def test_no_mistakes_give_no_line(capsys):
    sums = metrics.evaluation_sums(jnp.eye(2), jnp.arange(2), jnp.ones(2, bool))
    print_report(3, {"test": metrics.add({}, sums)}, ["a", "b"])
    assert "confused" not in capsys.readouterr().out


def test_a_run_of_the_tf_pipeline_is_evaluated_without_tensorflow(trained, tmp_path, monkeypatch):
    config, program, state, _ = trained
    config = with_batch_size(config, 65)
    config.dataset.pipeline = "tf"
    program = dataclasses.replace(program, eval_step=guess_step)
    found = program, Restored(7, state, Progress())
    monkeypatch.setattr("jaxcifar.evaluate.restore", lambda config, workdir: found)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    evaluate_run(config, tmp_path)
    assert (
        np.sum(json.loads((tmp_path / "evaluation.json").read_text())["test"]["confusion"]) == 130
    )


@pytest.mark.parametrize("batch_size", [130, 33])
def test_predictions_are_the_logits_of_every_image_in_order(trained, batch_size):
    config, program, state, splits = trained
    averages = jax.tree.map(lambda x: 0.5 * x, state.variables())
    evaluator = Evaluator(with_batch_size(config, batch_size), program, splits)
    found = evaluator.predictions(devices.replicate(state.replace(ema=averages)))
    assert list(found) == ["test_logits", "test_labels", "test_ema_logits", "test_ema_labels"]
    split, keywords = splits["test"], program.eval_step.keywords
    apply = jax.jit(partial(keywords["model"].apply, train=False))
    for name, variables in ("test", state.variables()), ("test_ema", averages):
        expected = apply(variables, keywords["preprocess"](split.images))
        np.testing.assert_allclose(found[f"{name}_logits"], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found[f"{name}_labels"], split.labels)


def test_the_class_table_has_a_row_per_class_and_marks_empty_classes():
    console = Console(width=40, file=io.StringIO())
    console.print(_class_table(["a", "b", "c"], [0.5, None, 0.125]))
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert rows == [["class", "accuracy"], ["a", "50.0%"], ["b", "-"], ["c", "12.5%"]]


def test_a_split_on_the_device_is_evaluated_as_one_from_the_host(trained):
    config, program, state, splits = trained
    config = with_batch_size(config, 48)
    state = devices.replicate(state)
    one = Evaluator(config, program, splits).totals(state)["test"]
    config.dataset.pipeline = "tf"
    other = Evaluator(config, program, splits).totals(state)["test"]
    assert one["count"] == other["count"] == 130
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5)
