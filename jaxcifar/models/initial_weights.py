"""Puts saved arrays into the variables of a model, or says how they do not fit."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import tree_util

from jaxcifar.errors import InputError

_MAX_SHOWN = 5


def fit(
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    head: str = "",
    reset_head: bool = False,
) -> dict[str, np.ndarray]:
    """Returns the arrays that a model needs, as float32 and by name, after checking all of them.

    Args:
      arrays: the saved arrays by name.
      shapes: shape of each array of the model, by name.
      head: what the names of the classifier's arrays, and only these, start with; "" if unknown.
      reset_head: whether to leave out the classifier, whatever `arrays` has of it.

    Raises:
      InputError: if arrays are missing, unexpected, of another shape, no floats, or not finite; the
        message names the first few, and the flag --reset_head if the classifier alone is wrong.
    """
    if reset_head:
        arrays = {name: array for name, array in arrays.items() if not name.startswith(head)}
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(head)}
    missing, unexpected = shapes.keys() - arrays.keys(), arrays.keys() - shapes.keys()
    problems = {
        name: problem
        for name in shapes
        if name in arrays and (problem := _problem(arrays[name], shapes[name]))
    }
    lines = [
        f"{kind} arrays: {_shorten(sorted(names))}"
        for kind, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    lines += [f"{name}: {problem}" for name, problem in list(problems.items())[:_MAX_SHOWN]]
    if len(problems) > _MAX_SHOWN:
        lines.append(f"... ({len(problems)} such arrays in total)")
    if lines:
        wrong = missing | unexpected | problems.keys()
        if head and all(name.startswith(head) for name in wrong):
            lines.append(
                "Only the classifier does not fit; --reset_head initialises a new one instead."
            )
        raise InputError("\n  ".join(lines))
    return {name: _as_float32(arrays[name]) for name in shapes}


def from_variables(
    saved: Mapping[str, Any], template: Mapping[str, Any], *, head: str, reset_head: bool = False
) -> dict[str, Any]:
    """Returns `params` and `batch_stats` in the structure of `template`, with a run's values.

    Args:
      saved: `params` and `batch_stats` of a checkpoint, as nested dictionaries.
      template: variables of the model.
      head: name of the classifier in `params`, see `registry.Entry`.
      reset_head: whether to keep the classifier of `template`, which needs to have arrays.

    Raises:
      InputError: see `fit`.
    """
    arrays = {_name(path): np.asarray(x) for path, x in tree_util.tree_leaves_with_path(saved)}
    shapes = {_name(path): x.shape for path, x in tree_util.tree_leaves_with_path(template)}
    values = fit(arrays, shapes, head=f"params/{head}/", reset_head=reset_head)
    return tree_util.tree_map_with_path(
        lambda path, like: values.get(_name(path), like), dict(template)
    )


def _name(path: Any) -> str:
    return tree_util.keystr(path, simple=True, separator="/")


def _problem(array: np.ndarray, shape: tuple[int, ...]) -> str:
    """What is wrong with a saved array; "" if it can be used."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return f"type {array.dtype}, expected a float type"
    if array.shape != shape:
        return f"shape {array.shape}, expected {shape}"
    if not np.isfinite(_as_float32(array)).all():
        return "contains NaN or infinity, or numbers beyond float32"
    return ""


def _as_float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # becomes infinity, which is then refused
        return array.astype(np.float32)


def _shorten(names: list[str]) -> str:
    more = f", ... ({len(names)} in total)" if len(names) > _MAX_SHOWN else ""
    return ", ".join(names[:_MAX_SHOWN]) + more
