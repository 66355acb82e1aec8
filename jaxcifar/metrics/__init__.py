"""Metrics as masked sums, which add up exactly over batches, devices and processes."""

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

NUM_BINS = 15  # of the confidence, as in Guo et al., table 1


def batch_sums(
    logits: jax.Array, labels: jax.Array, mask: jax.Array, targets: jax.Array | None = None
) -> Sums:
    """Returns the sums over one batch's real examples, as float32 scalars.

    Args:
      logits: float32 [B, classes].
      labels: int [B].
      mask: bool [B], False where an example only pads the batch.
      targets: float32 [B, classes], rows that sum to one: what the loss is taken against, as in
        label smoothing and mixing; None for the labels' one-hot vectors.

    Returns:
      `count`, the number of examples; `loss`, their summed cross-entropy in nats; `correct`, how
      many have the logit of the label, whatever the targets, as their largest.
    """
    if targets is None:
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    else:
        loss = optax.softmax_cross_entropy(logits, targets)
    return {
        "count": _count(mask),
        "loss": jnp.sum(loss, where=mask),
        "correct": _count((jnp.argmax(logits, axis=-1) == labels) & mask),
    }


def evaluation_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
    """Returns all that an evaluation counts over one batch's real examples.

    Args:
      logits, labels, mask: as in `batch_sums`.

    Returns:
      What `batch_sums` returns, and
      `correct_top5`, how many have the label's logit among their five largest; only if there are
      more than five classes;
      `confusion`, int32 [classes, classes], the examples by label (row) and prediction (column);
      `bin_count`, `bin_confidence`, `bin_correct`, float32 [NUM_BINS]: the examples, their summed
      confidence, and how many of them are correct, by confidence. That is the largest probability
      p; bin m from 0 has m < NUM_BINS * p <= m + 1 (Guo et al., "On Calibration of Modern Neural
      Networks", 2017, section 2).
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
    # Clipped, so that every example is in a bin whatever the rounding, even one that is not finite.
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

    `total` may be empty. Scalars become floats, arrays float64 arrays. Adding one step at a time
    makes the result independent of where a run was interrupted.
    """

    def as_double(value: jax.Array) -> float | np.ndarray:
        return np.asarray(value, np.float64) if np.ndim(value) else float(value)

    return {name: total.get(name, 0.0) + as_double(value) for name, value in sums.items()}


def summarize(total: Mapping[str, float | np.ndarray]) -> dict[str, float]:
    """Returns the scalars that a total of sums gives.

    Returns:
      The mean `loss` in nats and the `accuracy` from 0 to 1; NaN if there are no examples. The
      number of examples that were `skipped`, if any were. From `evaluation_sums` also the
      `top5_accuracy` if there are more than five classes, and the expected `calibration_error` from
      0 to 1: over the bins, the mean gap between accuracy and confidence, weighted by their numbers
      of examples (Guo et al., 2017, equation 3).
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
    """Returns what a total of `evaluation_sums` gives beside the scalars, ready for JSON.

    Returns:
      `confusion`, lists of ints: the examples by label (row) and prediction (column);
      `per_class_accuracy`, from 0 to 1, None for a class without examples;
      `calibration`, a reliability diagram: for each bin its bounds, `above` and `up_to`, `count`,
      mean `confidence` and `accuracy`, None where the bin is empty.
      Nothing from a total of `batch_sums`.
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


def _means(sums: np.ndarray, counts: np.ndarray) -> list[float | None]:
    return [float(s / n) if n else None for s, n in zip(sums, counts, strict=True)]
