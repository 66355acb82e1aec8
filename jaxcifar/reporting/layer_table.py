"""Layer statistics as rows of layers.csv and as TensorBoard histograms."""

from typing import Any

import jax
import numpy as np

from jaxcifar.metrics.layer_statistics import Statistics, path_name

LAYER_COLUMNS = ("step", "epoch", "layer", "gradient_norm", "weight_norm", "update_ratio")


def layer_rows(step: int, epoch: float, statistics: Statistics) -> list[dict[str, Any]]:
    """Returns the rows of `LAYER_COLUMNS` for one step: the network's, then each layer's.

    Args:
      step: number of updates made, including this step.
      epoch: the same in epochs.
      statistics: see `layer_statistics`.
    """
    return [
        {
            "step": step,
            "epoch": f"{epoch:.4f}",
            "layer": layer,
            **{name: f"{float(value):.7g}" for name, value in values.items()},
        }
        for layer, values in statistics.items()
    ]


def layer_histograms(params: Any, gradients: Any) -> dict[str, np.ndarray]:
    """Returns the values of all arrays, in the form that CLU's `write_histograms` takes.

    Args:
      params, gradients: trees of the same structure, fetched from the device.

    Returns:
      Flat arrays by tags such as weights/stage1_block1/conv1/kernel and
      gradients/stage1_block1/conv1/kernel. Non-finite values are left out, because TensorBoard
      cannot put them into buckets.
    """
    flat = {}
    for kind, tree in ("weights", params), ("gradients", gradients):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            values = np.asarray(leaf)
            flat[f"{kind}/{path_name(path)}"] = values[np.isfinite(values)]
    return flat
