"""TensorBoard event files. TensorFlow, which writes them, is optional and imported only here."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcifar.environment import import_tensorflow
from jaxcifar.errors import InputError

if TYPE_CHECKING:
    from clu.metric_writers import MetricWriter


def load_writer(*, required: bool) -> "tuple[Callable[[Path], MetricWriter] | None, str]":
    """Imports what is needed to write event files.

    Args:
      required: whether a missing package is an error.

    Returns:
      A function that opens a writer in a directory, and ""; or None, and why there is none.

    Raises:
      InputError: if a package is missing and the event files are required.
    """
    try:
        import_tensorflow()
        from clu import metric_writers
    except (ImportError, InputError) as error:
        reason = error.__cause__ or error  # an InputError explains more than event files
        if required:
            raise InputError(
                f"log.histograms = True needs TensorBoard event files ({reason}); "
                "pip install 'jaxcifar[tf]', or set --config.log.histograms=False"
            ) from error
        return None, (
            f"no TensorBoard event files: {reason}; pip install 'jaxcifar[tf]' to get them, or set "
            "--config.log.tensorboard=False"
        )

    def open_writer(directory: Path) -> "MetricWriter":
        return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(directory)))

    return open_writer, ""
