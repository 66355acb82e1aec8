"""Progress: training sums, the best score and the patience of early stopping."""

import numpy as np

from jaxcifar.resilience.progress import Progress


def step_sums(loss, nonfinite=0.0):
    return {"loss": np.float32(loss), "count": np.float32(4), "nonfinite": np.float32(nonfinite)}


def test_sums_are_added_except_those_of_non_finite_steps():
    progress = Progress().add([step_sums(1), step_sums(np.nan, 1), step_sums(2)])
    assert progress.train_sums == {"loss": 3.0, "count": 8.0} and progress.skipped_steps == 1
    left_out = step_sums(0.5) | {"left_out": np.float32(1)}
    assert progress.add([left_out]).train_sums == {"loss": 3.5, "count": 12.0}


def test_the_best_and_the_patience_follow_the_scores():
    progress = Progress()
    scores = [0.5, 0.505, 0.6, 0.609, float("nan"), 0.59, 0.7]
    seen = []
    for step, score in enumerate(scores, 1):
        progress = progress.evaluated(step, score, min_delta=0.01)
        seen.append((progress.best_step, progress.stale_evaluations))
    # 0.505 and 0.609 are the best so far, but no improvement by more than 0.01.
    assert seen == [(1, 0), (2, 1), (3, 0), (4, 1), (4, 2), (4, 3), (7, 0)]
    assert progress.best_score == progress.reference_score == 0.7
