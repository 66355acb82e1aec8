import numpy as np
import pytest
from jax import numpy as jnp

from jaxcifar.errors import InputError
from jaxcifar.models import initial_weights

SHAPES = {"a": (2, 3), "b": (2,), "head/c": (4,)}


def zeros(**changes):
    """Arrays of `SHAPES`, with changes; None removes one."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()} | changes
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_float_types_become_float32(dtype):
    values = np.array([[0.5, -3, 1], [0, 256, 2]]).astype(jnp.dtype(dtype))
    found = initial_weights.fit(zeros(a=values), SHAPES)
    assert {x.dtype for x in found.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(found["a"], np.array([[0.5, -3, 1], [0, 256, 2]]))


@pytest.mark.parametrize("dtype", ["int8", "int64", "bool", "complex64"])
def test_arrays_that_are_no_floats_are_refused(dtype):
    with pytest.raises(InputError, match=f"^a: type {dtype}, expected a float type$"):
        initial_weights.fit(zeros(a=np.ones((2, 3), dtype)), SHAPES)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e300])
def test_arrays_that_are_not_finite_in_float32_are_refused(bad):
    with pytest.raises(
        InputError, match="^b: contains NaN or infinity, or numbers beyond float32$"
    ):
        initial_weights.fit(zeros(b=np.array([0, bad])), SHAPES)


def test_the_first_few_of_many_problems_are_shown():
    shapes = {f"{i:02}": (1,) for i in range(9)}
    arrays = {name: np.zeros(2, np.float32) for name in shapes}
    with pytest.raises(InputError) as refused:
        initial_weights.fit(arrays, shapes)
    lines = str(refused.value).split("\n  ")
    assert lines == [
        *(f"0{i}: shape (2,), expected (1,)" for i in range(5)),
        "... (9 such arrays in total)",
    ]
    with pytest.raises(InputError, match="missing arrays: 00, .*04, ... .9 in total.\n.*: x, y$"):
        initial_weights.fit({"x": np.zeros(1), "y": np.zeros(1)}, shapes)


def test_all_kinds_of_problems_are_shown_together():
    arrays = zeros(a=None, b=np.zeros(3), d=np.zeros(3))
    with pytest.raises(InputError) as refused:
        initial_weights.fit(arrays, SHAPES, head="head/")
    assert str(refused.value).split("\n  ") == [
        "missing arrays: a",
        "unexpected arrays: d",
        "b: shape (3,), expected (2,)",
    ]


def test_weights_of_a_run_are_matched_by_path():
    def tree(classes, value):
        head = {"kernel": np.full((2, classes), value, np.float32)}
        conv = {"kernel": np.full(3, value, np.float32)}
        return {"params": {"conv": conv, "head": head}, "batch_stats": {}}

    fit = initial_weights.from_variables
    np.testing.assert_equal(fit(tree(4, 1), tree(4, 0), head="head"), tree(4, 1))
    with pytest.raises(InputError, match=r"params/head/kernel: shape \(2, 7\).*\n.*--reset_head"):
        fit(tree(7, 1), tree(4, 0), head="head")
    found = fit(tree(7, 1), tree(4, 0), head="head", reset_head=True)
    np.testing.assert_equal(found["params"]["conv"], tree(4, 1)["params"]["conv"])
    np.testing.assert_equal(found["params"]["head"], tree(4, 0)["params"]["head"])
