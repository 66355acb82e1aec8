import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from jaxcifar import metrics

LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0], [0.5, 0.5, 0.0], [9.0, 0.0, 0.0]], np.float32)
LABELS = np.array([0, 1, 2, 0])


def random_predictions(*, size: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right more often than not."""
    random = np.random.RandomState(0)
    labels = random.randint(0, num_classes, size)
    logits = 2 * random.randn(size, num_classes) + 3 * np.eye(num_classes)[labels]
    return logits.astype(np.float32), labels


def evaluation_total(logits: np.ndarray, labels: np.ndarray, batch_size: int) -> metrics.Total:
    """The total over batches, the last of which has padding that must not count."""
    step = jax.jit(metrics.evaluation_sums)
    total = {}
    for start in range(0, len(labels), batch_size):
        batch, batch_labels = logits[start : start + batch_size], labels[start : start + batch_size]
        missing = batch_size - len(batch)
        total = metrics.add(
            total,
            step(
                jnp.array(np.pad(batch, [(0, missing), (0, 0)], constant_values=np.nan)),
                jnp.array(np.pad(batch_labels, (0, missing))),
                jnp.arange(batch_size) < len(batch),
            ),
        )
    return total


def test_sums_count_only_real_examples():
    sums = metrics.batch_sums(
        jnp.array(LOGITS), jnp.array(LABELS), jnp.array([True, True, True, False])
    )
    log_z = [np.log(np.exp(row).sum()) for row in LOGITS.astype(np.float64)]
    loss = sum(log_z[i] - LOGITS[i, LABELS[i]] for i in range(3))
    assert float(sums["count"]) == 3
    assert float(sums["correct"]) == 1
    assert float(sums["loss"]) == pytest.approx(loss, rel=1e-6)


def test_sums_of_batches_add_up_to_the_mean_over_all():
    total = {}
    for part in (slice(0, 1), slice(1, 4)):
        mask = jnp.ones(len(LABELS[part]), bool)
        sums = metrics.batch_sums(jnp.array(LOGITS[part]), jnp.array(LABELS[part]), mask)
        total = metrics.add(total, sums)
    log_z = np.log(np.exp(LOGITS.astype(np.float64)).sum(1))
    result = metrics.summarize(total)
    assert result["accuracy"] == 0.5
    assert result["loss"] == pytest.approx(np.mean(log_z - LOGITS[range(4), LABELS]), rel=1e-6)


def test_large_logits_do_not_overflow():
    logits = jnp.array([[1000.0, 0.0], [0.0, 1000.0]])
    sums = metrics.batch_sums(logits, jnp.array([0, 0]), jnp.array([True, True]))
    assert float(sums["loss"]) == 1000.0


def test_soft_targets_change_the_loss_and_not_what_is_correct():
    targets = np.array([[0.8, 0.1, 0.1], [0.0, 0.5, 0.5], [0.3, 0.3, 0.4], [1.0, 0.0, 0.0]])
    mask = jnp.array([True, True, True, False])
    sums = metrics.batch_sums(jnp.array(LOGITS), jnp.array(LABELS), mask, jnp.array(targets))
    log_p = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum(1, keepdims=True))
    assert float(sums["loss"]) == pytest.approx(-(targets * log_p)[:3].sum(), rel=1e-6)
    assert (float(sums["count"]), float(sums["correct"])) == (3, 1)


def test_one_hot_targets_give_the_loss_of_the_labels():
    arguments = jnp.array(LOGITS), jnp.array(LABELS), jnp.ones(4, bool)
    soft = metrics.batch_sums(*arguments, jnp.eye(3)[LABELS])
    assert float(soft["loss"]) == pytest.approx(float(metrics.batch_sums(*arguments)["loss"]))


def test_what_pads_a_batch_has_no_gradient():
    def loss(logits: jax.Array) -> jax.Array:
        mask = jnp.array([True, True, True, False])
        return metrics.batch_sums(logits, jnp.array(LABELS), mask)["loss"]

    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    expected = (p - np.eye(3)[LABELS]) * [[1], [1], [1], [0]]
    np.testing.assert_allclose(jax.grad(loss)(jnp.array(LOGITS)), expected, atol=1e-6)


@pytest.mark.parametrize("num_classes", [6, 10, 100])
def test_an_evaluation_counts_as_scikit_learn_does(num_classes):
    logits, labels = random_predictions(size=333, num_classes=num_classes)
    total = evaluation_total(logits, labels, batch_size=64)
    scalars, details = metrics.summarize(total), metrics.details(total)
    classes = np.arange(num_classes)

    expected = confusion_matrix(labels, logits.argmax(1), labels=classes)
    assert details["confusion"] == expected.tolist()
    top5 = top_k_accuracy_score(labels, logits, k=5, labels=classes)
    assert scalars["top5_accuracy"] == pytest.approx(top5)
    assert scalars["accuracy"] == np.mean(logits.argmax(1) == labels)
    for label, accuracy in enumerate(details["per_class_accuracy"]):
        own = logits.argmax(1)[labels == label] == label
        assert accuracy == (pytest.approx(own.mean()) if own.size else None)


def test_five_classes_have_no_top5_accuracy():
    total = evaluation_total(*random_predictions(size=20, num_classes=5), batch_size=20)
    assert list(metrics.summarize(total)) == ["loss", "accuracy", "calibration_error"]


def test_the_calibration_error_is_that_computed_by_hand():
    # Confidence 0.9 and 0.92 share the bin from 13/15 to 14/15; 0.5 and 0.8 have one each.
    p = np.array([[0.9, 0.05, 0.05], [0.04, 0.92, 0.04], [0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
    labels = np.array([0, 0, 0, 2])
    total = evaluation_total(np.log(p).astype(np.float32), labels, batch_size=3)
    # (|1 - 1.82| + |1 - 0.5| + |1 - 0.8|) / 4
    assert metrics.summarize(total)["calibration_error"] == pytest.approx(0.38, abs=1e-6)

    table = metrics.details(total)["calibration"]
    assert len(table) == 15
    assert {m: row["count"] for m, row in enumerate(table) if row["count"]} == {7: 1, 11: 1, 13: 2}
    assert table[13] == {
        "above": 13 / 15,
        "up_to": 14 / 15,
        "count": 2,
        "confidence": pytest.approx(0.91),
        "accuracy": 0.5,
    }
    assert (table[0]["confidence"], table[0]["accuracy"]) == (None, None)


@pytest.mark.parametrize(
    "logits, expected",
    [([1000.0, 0.0], 14), ([0.0, 0.0], 7), ([0.0] * 3, 4), ([0.0] * 5, 2), ([0.0] * 4, 3)],
)
def test_a_bin_includes_its_upper_bound(logits, expected):
    sums = metrics.evaluation_sums(jnp.array([logits]), jnp.array([0]), jnp.array([True]))
    assert np.flatnonzero(sums["bin_count"]).tolist() == [expected]


def test_how_the_examples_are_batched_makes_no_difference():
    logits, labels = random_predictions(size=100, num_classes=10)
    whole = evaluation_total(logits, labels, batch_size=100)
    for batch_size in (1, 7, 64, 128):
        parts = evaluation_total(logits, labels, batch_size)
        assert parts.keys() == whole.keys()
        for name, value in whole.items():
            if name in ("loss", "bin_confidence"):
                np.testing.assert_allclose(parts[name], value, rtol=1e-6)
            else:
                np.testing.assert_array_equal(parts[name], value, err_msg=name)


def test_a_diverged_network_is_not_well_calibrated():
    total = evaluation_total(np.full((2, 10), np.nan, np.float32), np.array([0, 1]), batch_size=4)
    assert total["bin_count"].sum() == total["count"] == 2
    assert np.isnan(metrics.summarize(total)["calibration_error"])


def test_totals_hold_floats_and_details_are_json():
    total = evaluation_total(*random_predictions(size=9, num_classes=10), batch_size=4)
    assert type(total["loss"]) is float
    assert all(type(value) is float for value in metrics.summarize(total).values())
    details = metrics.details(total)
    assert json.loads(json.dumps(details)) == details


def test_training_sums_have_no_details():
    arguments = jnp.array(LOGITS), jnp.array(LABELS), jnp.ones(4, bool)
    total = metrics.add({}, metrics.batch_sums(*arguments))
    assert list(metrics.summarize(total)) == ["loss", "accuracy"]
    assert metrics.details(total) == {}


def test_the_most_frequent_mistakes_come_first():
    confusion = np.array([[9, 2, 0], [3, 9, 1], [2, 0, 9]])
    before = confusion.copy()
    assert metrics.most_confused(confusion) == [(1, 0, 3), (0, 1, 2), (2, 0, 2), (1, 2, 1)]
    assert metrics.most_confused(confusion, count=2) == [(1, 0, 3), (0, 1, 2)]
    assert metrics.most_confused(np.eye(3)) == []
    np.testing.assert_array_equal(confusion, before)
