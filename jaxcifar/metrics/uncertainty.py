"""How far an accuracy, and a network's probabilities, can be trusted."""

import math

import numpy as np
from scipy.optimize import minimize_scalar

_QUANTILE = 1.959964  # of the normal distribution, at 97.5 %
_LARGEST_TEMPERATURE = 100.0


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Returns the 95 % confidence interval of a share, by Wilson's score method (Wilson 1927).

    Args:
      correct: number of successes.
      count: number of trials, above 0.
    """
    share, z = correct / count, _QUANTILE
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    half = z * spread / (1 + z**2 / count)
    return centre - half, centre + half


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the number that logits are best divided by: it minimises the cross-entropy.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.

    Args:
      logits: float [N, classes].
      labels: int [N].
    """
    logits = logits.astype(np.float64)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, labels]))

    bound = math.log(_LARGEST_TEMPERATURE)
    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded")
    return math.exp(found.x)
