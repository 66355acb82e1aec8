"""Heat maps of layer statistics, in which vanishing and exploding gradients show."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxcifar import models
from jaxcifar.errors import InputError
from jaxcifar.metrics.layer_statistics import ALL
from jaxcifar.report.charts import Chart, Heatmap
from jaxcifar.report.runs import Run
from jaxcifar.resilience import dataset_facts, manifest

_MAX_COLUMNS = 150
_KINDS = {
    "gradient_norm": ("Gradient norm", "norm of the gradient"),
    "update_ratio": ("Update-to-weight ratio", "norm of the update over that of the weights"),
}


def charts(run: Run) -> list[Chart]:
    """Returns a heat map by layer and step for each statistic in layers.csv."""
    rows = [row for row in run.layers if row["layer"] != ALL]
    if not rows:
        return []
    names = _in_order(run, list(dict.fromkeys(row["layer"] for row in rows)))
    steps = sorted({int(row["step"]) for row in rows})
    if len(steps) > _MAX_COLUMNS:
        chosen = np.linspace(0, len(steps) - 1, _MAX_COLUMNS).round().astype(int)
        steps = [steps[number] for number in chosen]
    row_of = {name: number for number, name in enumerate(names)}
    column_of = {step: number for number, step in enumerate(steps)}
    found: list[Chart] = []
    for column, (title, label) in _KINDS.items():
        values = np.full((len(names), len(steps)), np.nan)
        for row in rows:
            if int(row["step"]) in column_of:
                values[row_of[row["layer"]], column_of[int(row["step"])]] = float(row[column])
        found.append(
            Heatmap(
                title,
                _about(names, values, label),
                "step",
                "layer",
                [float(step) for step in steps],
                names,
                values,
                label,
                log=True,
            )
        )
    return found


def _in_order(run: Run, names: list[str]) -> list[str]:
    """Names of layers from the input of the network to its output; as they are if it is unknown."""
    order: dict[str, int] = {}
    try:
        config = manifest.saved_config(run.manifest)
        info, _ = dataset_facts.recorded(run.workdir, config.dataset)
        module = models.from_config(config, info.num_classes)
    except InputError:
        return names

    def initialize(images: jax.Array) -> None:
        # Flax creates parameters in the order in which the layers run; JAX sorts them afterwards.
        params = module.init(jax.random.key(0), images, train=False)["params"]
        for path in traverse_util.flatten_dict(params):
            order.setdefault("/".join(path[:-1]) or path[0], len(order))

    jax.eval_shape(initialize, jax.ShapeDtypeStruct((1, *info.image_shape), jnp.float32))
    return sorted(names, key=lambda name: order.get(name, len(order)))


def _about(names: list[str], values: np.ndarray, label: str) -> str:
    """The largest and the smallest value at the last step, in words."""
    last = values[:, -1]
    if not np.isfinite(last).any():
        return f"The {label}, by layer and step."
    low, high = int(np.nanargmin(last)), int(np.nanargmax(last))
    return (
        f"The {label}, by layer: at the last step from {last[low]:.2g} "
        f"({names[low]}) to {last[high]:.2g} ({names[high]})."
    )
