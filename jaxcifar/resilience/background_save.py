"""One save in a background thread, with a time limit."""

import threading
import time
from collections.abc import Callable


class BackgroundSave:
    """Runs a save in a thread that ends with the process.

    Attributes:
      step: step of the checkpoint.
    """

    def __init__(self, step: int, save: Callable[[], None], timeout: float):
        """Starts the save.

        Args:
          step: step of the checkpoint.
          save: function that writes it and raises if that fails.
          timeout: seconds that the save may take before it counts as failed.
        """
        self.step = step
        self._timeout, self._deadline = timeout, time.monotonic() + timeout
        self._error: Exception | None = None
        self._reported = False
        self._thread = threading.Thread(target=self._run, args=(save,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Waits until the save has finished or its time is up."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))

    @property
    def stalled(self) -> bool:
        """Whether the save is still running after its time is up."""
        return self._thread.is_alive() and time.monotonic() >= self._deadline

    @property
    def succeeded(self) -> bool:
        """Whether the save has finished without an error."""
        return not self._thread.is_alive() and self._error is None

    def take_failure(self) -> Exception | None:
        """Returns the reason if the save has failed or stalled, the first time it is asked.

        Does not wait. Returns None while the save is running, after a success, and once the failure
        has been returned.
        """
        failure = self._error
        if not failure and self.stalled:
            failure = TimeoutError(f"not finished after {self._timeout:g} seconds")
        if not failure or self._reported:
            return None
        self._reported = True
        return failure

    def _run(self, save: Callable[[], None]) -> None:
        try:
            save()
        except Exception as error:  # Orbax raises many types
            self._error = error
