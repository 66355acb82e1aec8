"""Measures training throughput, excluding compilation, evaluation and everything else."""

import time


class Throughput:
    """Images per second over the intervals between `start` and `stop`."""

    def __init__(self):
        self._started: float | None = None
        self._seconds = 0.0
        self._images = 0
        self._added = 0

    def start(self) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def add(self, images: int) -> None:
        """Adds the images of a step that has been dispatched."""
        self._added += images

    def stop(self) -> None:
        """Stops the clock once all dispatched steps are done; counts nothing if not started."""
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
            self._images += self._added
            self._started = None
        self._added = 0

    def rate(self) -> float | None:
        """Returns images per second since the last call, or None if nothing was counted."""
        rate = self._images / self._seconds if self._images else None
        self._images, self._seconds = 0, 0.0
        return rate
