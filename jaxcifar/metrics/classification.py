"""Classification metrics as masked sums, which add up over batches, devices and processes."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

Sums = dict[str, jax.Array]
Total = dict[str, float | np.ndarray]

NUM_BINS = 15  # confidence bins, as in Guo et al., table 1


def example_losses(
    logits: jax.Array, labels: jax.Array, targets: jax.Array | None = None
) -> jax.Array:
    """Returns the cross-entropy of each example in nats, float32 [B]; see `batch_sums`."""
    if targets is None:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return optax.softmax_cross_entropy(logits, targets)


def batch_sums(
    logits: jax.Array, labels: jax.Array, mask: jax.Array, targets: jax.Array | None = None
) -> Sums:
    """Returns the sums over one batch's real examples, as float32 scalars.

    Args:
      logits: float32 [B, classes].
      labels: int [B].
      mask: bool [B], False where an example only pads the batch.
      targets: float32 [B, classes], target distributions of the loss, such as labels after
        smoothing and mixing; None for one-hot labels.

    Returns:
      `count`: number of examples.
      `loss`: summed cross-entropy in nats.
      `correct`: number of examples whose largest logit is that of the label, whatever the targets.
    """
    return {
        "count": _count(mask),
        "loss": jnp.sum(example_losses(logits, labels, targets), where=mask),
        "correct": _count((jnp.argmax(logits, axis=-1) == labels) & mask),
    }


def evaluation_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
    """Returns everything an evaluation counts over one batch's real examples.

    Args:
      logits, labels, mask: as in `batch_sums`.

    Returns:
      The sums of `batch_sums`, and
      `correct_top5`: number of examples with the label's logit among the five largest; only with
      more than five classes.
      `confusion`: int32 [classes, classes], examples by label (row) and prediction (column).
      `bin_count`, `bin_confidence`, `bin_correct`: float32 [NUM_BINS], by confidence: number of
      examples, summed confidence, and number of correct examples. The confidence is the largest
      probability p; bin m, from 0, holds m < NUM_BINS * p <= m + 1 (Guo et al., "On Calibration of
      Modern Neural Networks", 2017, section 2).
    """
    sums = batch_sums(logits, labels, mask)
    num_classes = logits.shape[-1]
    if num_classes > 5:
        _, largest = lax.top_k(logits, 5)
        sums["correct_top5"] = _count(jnp.any(largest == labels[:, None], axis=-1) & mask)

    predictions = jnp.argmax(logits, axis=-1)
    # Integers, because a GPU's scatter adds in any order; one-hot vectors would take more memory.
    empty = jnp.zeros((num_classes, num_classes), jnp.int32)
    sums["confusion"] = empty.at[labels, predictions].add(mask.astype(jnp.int32))

    confidence = jnp.max(jax.nn.softmax(logits), axis=-1)
    # Clipped, so that rounding or a non-finite value leaves no example without a bin.
    bins = jnp.clip(jnp.ceil(NUM_BINS * confidence).astype(jnp.int32) - 1, 0, NUM_BINS - 1)
    in_bin = (bins[:, None] == jnp.arange(NUM_BINS)) & mask[:, None]
    sums["bin_count"] = _count(in_bin)
    sums["bin_confidence"] = jnp.sum(jnp.where(in_bin, confidence[:, None], 0), axis=0)
    sums["bin_correct"] = _count(in_bin & (predictions == labels)[:, None])
    return sums


def _count(chosen: jax.Array) -> jax.Array:
    return jnp.sum(chosen, axis=0, dtype=jnp.float32)


def add(total: Mapping[str, float | np.ndarray], sums: Mapping[str, jax.Array]) -> Total:
    """Adds one step's sums to a running total on the host, in double precision.

    `total` may be empty. Scalars become floats, and arrays float64 arrays. Steps are added one at a
    time, so that the result does not depend on where a run was interrupted.
    """

    def as_double(value: jax.Array) -> float | np.ndarray:
        return np.asarray(value, np.float64) if np.ndim(value) else float(value)

    return {name: total.get(name, 0.0) + as_double(value) for name, value in sums.items()}


def summarize(total: Mapping[str, float | np.ndarray]) -> dict[str, float]:
    """Returns the scalar metrics of a total of sums.

    Returns:
      `loss`: mean in nats, and `accuracy`: from 0 to 1; both NaN if there are no examples.
      `skipped`: number of examples left out, if there are any.
      `top5_accuracy`: only from `evaluation_sums` and with more than five classes.
      `calibration_error`: only from `evaluation_sums`; expected calibration error from 0 to 1, the
      gap between accuracy and confidence averaged over the examples (Guo et al., equation 3).
    """
    count = total["count"] or math.nan
    scalars = {"loss": total["loss"] / count, "accuracy": total["correct"] / count}
    if total.get("skipped"):
        scalars["skipped"] = total["skipped"]
    if "correct_top5" in total:
        scalars["top5_accuracy"] = total["correct_top5"] / count
    if "bin_count" in total:
        gaps = np.abs(total["bin_correct"] - total["bin_confidence"])
        scalars["calibration_error"] = float(gaps.sum() / count)
    return scalars


def details(total: Mapping[str, float | np.ndarray]) -> dict[str, Any]:
    """Returns the metrics of an evaluation that are not scalars, ready for JSON.

    Returns:
      `confusion`: lists of ints, examples by label (row) and prediction (column).
      `per_class_accuracy`: from 0 to 1, None for a class without examples.
      `calibration`: a reliability diagram; for each bin its bounds `above` and `up_to`, `count`,
      and mean `confidence` and `accuracy`, None where the bin is empty.
      {} for a total of `batch_sums`.
    """
    if "confusion" not in total:
        return {}
    confusion = total["confusion"]
    bins = zip(
        total["bin_count"],
        _means(total["bin_confidence"], total["bin_count"]),
        _means(total["bin_correct"], total["bin_count"]),
        strict=True,
    )
    return {
        "confusion": confusion.astype(int).tolist(),
        "per_class_accuracy": _means(confusion.diagonal(), confusion.sum(axis=1)),
        "calibration": [
            {
                "above": m / NUM_BINS,
                "up_to": (m + 1) / NUM_BINS,
                "count": int(count),
                "confidence": confidence,
                "accuracy": accuracy,
            }
            for m, (count, confidence, accuracy) in enumerate(bins)
        ],
    }


def most_confused(confusion: np.ndarray, count: int = 5) -> list[tuple[int, int, int]]:
    """Returns the most frequent mistakes, the worst first, as (label, prediction, examples).

    Args:
      confusion: [classes, classes], examples by label (row) and prediction (column).
      count: largest number of pairs to return; those without examples are left out.
    """
    mistakes = np.array(confusion)
    np.fill_diagonal(mistakes, 0)
    worst = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(worst, mistakes.shape)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(r, c, int(mistakes[r, c])) for r, c in pairs if mistakes[r, c]]


def _means(sums: np.ndarray, counts: np.ndarray) -> list[float | None]:
    return [float(s / n) if n else None for s, n in zip(sums, counts, strict=True)]
