"""What must be set before a library starts."""

import os
from functools import cache
from types import ModuleType


@cache
def import_tensorflow() -> ModuleType:
    """Returns TensorFlow, kept quiet and off the GPUs; the first call takes some ten seconds.

    It feeds data and writes events here, for which oneDNN has no use but a line of log.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # it would take all of their memory
    return tf
