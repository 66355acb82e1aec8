import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar import metrics

LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0], [0.5, 0.5, 0.0], [9.0, 0.0, 0.0]], np.float32)
LABELS = np.array([0, 1, 2, 0])


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
