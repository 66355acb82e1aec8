"""Measures how fast a program predicts."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

_SECONDS = 3.0  # at most, for each batch size
_MOST_CALLS = 200
_FEWEST_CALLS = 5


def measure(
    program: Callable[[np.ndarray], Any], image_shape: tuple[int, ...], batch_size: int
) -> dict[str, float]:
    """Returns the latency of single images and the throughput of batches.

    Args:
      program: a function of uint8 images [N, H, W, C] that returns once the result is there.
      image_shape: H, W and C.
      batch_size: number of images in a batch.

    Returns:
      `latency_ms`, and `images_per_second` with batches: medians over several calls; and at the
      slowest tenth of the calls `latency_ms_p90` and `images_per_second_p10`.
    """
    latencies, times = (_times(program, (n, *image_shape)) for n in (1, batch_size))
    return {
        "latency_ms": 1e3 * float(np.median(latencies)),
        "latency_ms_p90": 1e3 * float(np.quantile(latencies, 0.9)),
        "images_per_second": batch_size / float(np.median(times)),
        "images_per_second_p10": batch_size / float(np.quantile(times, 0.9)),
    }


def _times(program: Callable[[np.ndarray], Any], shape: tuple[int, ...]) -> list[float]:
    """Seconds of each call, after two that compile and warm up."""
    images = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    program(images)
    program(images)
    times: list[float] = []
    while len(times) < _FEWEST_CALLS or (sum(times) < _SECONDS and len(times) < _MOST_CALLS):
        start = time.perf_counter()
        program(images)
        times.append(time.perf_counter() - start)
    return times
