"""JAX's operations in ONNX, one rule for each that the networks have."""

import string
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend import core

from jaxcifar.errors import InputError

OPSET = 18

# The number of images while a function is traced. No other length is this prime, so that it stands
# for any number.
ANY = 7919
_LAST = 2**62  # beyond the end of any axis

_ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "and": "And",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "sign": "Sign",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
_UNCHANGED = ("copy", "stop_gradient", "optimization_barrier")


class Value(NamedTuple):
    """An array in the graph, or a constant.

    Attributes:
      data: name in the graph, or the constant.
      shape: its shape, which may have 1 where the jaxpr has a longer axis: ONNX repeats such axes
        by itself where arrays are combined element by element.
    """

    data: str | np.ndarray
    shape: tuple[int, ...]


class Graph:
    """Collects the nodes of an ONNX graph, whose input is called `images`.

    Attributes:
      nodes: the nodes so far.
      arrays: the constants by name.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def add_jaxpr(
        self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value]
    ) -> list[Value]:
        """Adds the operations of a jaxpr, and returns its results."""
        known: dict[Any, Value] = {}

        def value(atom: Any) -> Value:
            return constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

        known.update(zip(jaxpr.constvars, map(constant, consts), strict=True))
        known.update(zip(jaxpr.invars, arguments, strict=True))
        for equation in jaxpr.eqns:
            results = self._add(equation, [value(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def _add(self, equation: Any, values: list[Value]) -> list[Value]:
        """Adds one equation of a jaxpr, and returns its results."""
        name, params = equation.primitive.name, equation.params
        if name == "scan":
            return self._scan(equation, values)
        inner = params.get("jaxpr") or params.get("call_jaxpr") or params.get("fun_jaxpr")
        if inner is not None:
            return self.add_jaxpr(
                getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values
            )
        if name in _UNCHANGED:
            return values
        if _is_constant(values) and not any(ANY in v.aval.shape for v in equation.outvars):
            full = [np.broadcast_to(v.data, a.aval.shape) for v, a in _pairs(values, equation)]
            found = equation.primitive.bind(*map(jnp.asarray, full), **params)
            return list(map(constant, found if equation.primitive.multiple_results else [found]))
        if name in _ELEMENTWISE:
            return [self._elementwise(_ELEMENTWISE[name], values)]
        rule = getattr(self, f"_{name}", None)
        if rule is None:
            raise InputError(f"--to=onnx: the network has an operation that is not known: {name}")
        shapes = [atom.aval.shape for atom in equation.invars]
        return [rule(values, shapes, equation.outvars[0].aval, params)]

    def node(
        self, kind: str, inputs: Sequence[str | np.ndarray], output: str = "", **attributes: Any
    ) -> str:
        """Adds a node with one output, and returns the output's name."""
        output = output or f"v{len(self.nodes)}"
        names = [self._name(data) for data in inputs]
        self.nodes.append(onnx.helper.make_node(kind, names, [output], **attributes))
        return output

    def _name(self, data: str | np.ndarray) -> str:
        if isinstance(data, str):
            return data
        key = (data.dtype.str, data.shape, data.tobytes())
        if key not in self._names:
            self._names[key] = f"c{len(self._names)}"
            self.arrays[self._names[key]] = np.ascontiguousarray(data).reshape(data.shape)
        return self._names[key]

    def full(self, value: Value, shape: tuple[int, ...]) -> str | np.ndarray:
        """Returns the data of a value, with all of its axes as long as in the jaxpr."""
        if value.shape == shape:
            return value.data
        if ANY not in shape and not isinstance(value.data, str):
            return np.broadcast_to(value.data, shape)
        lengths = [self._count() if n == ANY else _int64([n]) for n in shape]
        return self.node("Expand", [value.data, self.node("Concat", lengths, axis=0)])

    def _count(self) -> str:
        return self.node("Shape", ["images"], start=0, end=1)

    def _elementwise(self, kind: str, values: Sequence[Value]) -> Value:
        name = self.node(kind, [value.data for value in values])
        return Value(name, np.broadcast_shapes(*(value.shape for value in values)))

    def _ne(self, values: list[Value], *_: Any) -> Value:
        return self._elementwise("Not", [self._elementwise("Equal", values)])

    def _rsqrt(self, values: list[Value], *_: Any) -> Value:
        return self._elementwise("Reciprocal", [self._elementwise("Sqrt", values)])

    def _square(self, values: list[Value], *_: Any) -> Value:
        return self._elementwise("Mul", [values[0], values[0]])

    def _integer_pow(self, values: list[Value], _: Any, aval: Any, params: Any) -> Value:
        power = constant(np.asarray(params["y"], aval.dtype))
        return self._elementwise("Pow", [values[0], power])

    def _is_finite(self, values: list[Value], *_: Any) -> Value:
        wrong = [self._elementwise(kind, values) for kind in ("IsInf", "IsNaN")]
        return self._elementwise("Not", [self._elementwise("Or", wrong)])

    def _select_n(self, values: list[Value], *_: Any) -> Value:
        condition, no, yes = values
        return self._elementwise("Where", [condition, yes, no])

    def _convert_element_type(self, values: list[Value], _: Any, aval: Any, __: Any) -> Value:
        dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype))
        return Value(self.node("Cast", [values[0].data], to=dtype), values[0].shape)

    def _broadcast_in_dim(self, values: list[Value], _: Any, aval: Any, params: Any) -> Value:
        (value,), axes = values, params["broadcast_dimensions"]
        shape = [1] * len(aval.shape)
        for axis, length in zip(axes, value.shape, strict=True):
            shape[axis] = length
        if not isinstance(value.data, str):
            return constant(value.data.reshape(shape))
        new = [axis for axis in range(len(shape)) if axis not in axes]
        data = self.node("Unsqueeze", [value.data, _int64(new)]) if new else value.data
        return Value(data, tuple(shape))

    def _reshape(self, values: list[Value], shapes: Any, aval: Any, _: Any) -> Value:
        lengths = _int64([-1 if n == ANY else n for n in aval.shape])
        data = self.node("Reshape", [self.full(values[0], shapes[0]), lengths])
        return Value(data, aval.shape)

    def _squeeze(self, values: list[Value], shapes: Any, aval: Any, params: Any) -> Value:
        data = self.full(values[0], shapes[0])
        return Value(self.node("Squeeze", [data, _int64(params["dimensions"])]), aval.shape)

    def _transpose(self, values: list[Value], shapes: Any, aval: Any, params: Any) -> Value:
        data = self.full(values[0], shapes[0])
        return Value(self.node("Transpose", [data], perm=params["permutation"]), aval.shape)

    def _concatenate(self, values: list[Value], shapes: Any, aval: Any, params: Any) -> Value:
        parts = [self.full(value, shape) for value, shape in zip(values, shapes, strict=True)]
        return Value(self.node("Concat", parts, axis=params["dimension"]), aval.shape)

    def _pad(self, values: list[Value], shapes: Any, aval: Any, params: Any) -> Value:
        before, after, between = zip(*params["padding_config"], strict=True)
        if any(between) or min(before + after) < 0:
            raise InputError("--to=onnx: the network pads between pixels or crops by padding")
        data = [self.full(values[0], shapes[0]), _int64(before + after), values[1].data]
        return Value(self.node("Pad", data, mode="constant"), aval.shape)

    def _slice(self, values: list[Value], shapes: Any, aval: Any, params: Any) -> Value:
        starts, ends = params["start_indices"], params["limit_indices"]
        steps = params["strides"] or (1,) * len(starts)
        return self._sliced(self.full(values[0], shapes[0]), starts, ends, steps, aval)

    def _dynamic_slice(self, values: list[Value], shapes: Any, aval: Any, _: Any) -> Value:
        value, *starts = values
        if not _is_constant(starts):
            raise InputError("--to=onnx: the network slices at computed places")
        # A slice is moved to where it fits.
        lasts = [n - size for n, size in zip(shapes[0], aval.shape, strict=True)]
        first = [int(np.clip(s.data, 0, last)) for s, last in zip(starts, lasts, strict=True)]
        ends = [start + size for start, size in zip(first, aval.shape, strict=True)]
        return self._sliced(self.full(value, shapes[0]), first, ends, [1] * len(first), aval)

    def _rev(self, values: list[Value], shapes: Any, aval: Any, params: Any) -> Value:
        axes = params["dimensions"]
        data = [self.full(values[0], shapes[0])]
        data += [_int64([n] * len(axes)) for n in (-1, -_LAST)]
        return Value(
            self.node("Slice", [*data, _int64(axes), _int64([-1] * len(axes))]), aval.shape
        )

    def _sliced(self, data: Any, starts: Any, ends: Any, steps: Any, aval: Any) -> Value:
        ends = [_LAST if n == ANY else n for n in ends]
        axes = _int64(range(len(ends)))
        inputs = [data, _int64(starts), _int64(ends), axes, _int64(steps)]
        return Value(self.node("Slice", inputs), aval.shape)

    def _reduce(self, kind: str, values: Any, shapes: Any, aval: Any, params: Any) -> Value:
        inputs = [self.full(values[0], shapes[0]), _int64(params["axes"])]
        return Value(self.node(kind, inputs, keepdims=0), aval.shape)

    def _reduce_sum(self, *arguments: Any) -> Value:
        return self._reduce("ReduceSum", *arguments)

    def _reduce_max(self, *arguments: Any) -> Value:
        return self._reduce("ReduceMax", *arguments)

    def _dot_general(self, values: list[Value], shapes: Any, aval: Any, params: Any) -> Value:
        data = [self.full(value, shape) for value, shape in zip(values, shapes, strict=True)]
        if params["dimension_numbers"] == (((1,), (0,)), ((), ())):
            return Value(self.node("MatMul", data), aval.shape)
        summed, batch = params["dimension_numbers"]
        letters = iter(string.ascii_lowercase)
        left, right = ([next(letters) for _ in shape] for shape in shapes)
        for one, other in zip(summed[0] + batch[0], summed[1] + batch[1], strict=True):
            right[other] = left[one]
        kept = [left[axis] for axis in batch[0]]
        kept += [name for name in left + right if (name in left) != (name in right)]
        equation = f"{''.join(left)},{''.join(right)}->{''.join(kept)}"
        return Value(self.node("Einsum", data, equation=equation), aval.shape)

    def _conv_general_dilated(
        self, values: list[Value], shapes: Any, aval: Any, params: Any
    ) -> Value:
        numbers = params["dimension_numbers"]
        if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
            raise InputError("--to=onnx: the network has a transposed or grouped convolution")
        images, kernel = (self.full(v, shape) for v, shape in zip(values, shapes, strict=True))
        kernel = (
            self.node("Transpose", [kernel], perm=numbers.rhs_spec)
            if isinstance(kernel, str)
            else kernel.transpose(numbers.rhs_spec)
        )
        before, after = zip(*params["padding"], strict=True)
        result = self.node(
            "Conv",
            [self.node("Transpose", [images], perm=numbers.lhs_spec), kernel],
            strides=params["window_strides"],
            pads=before + after,
            dilations=params["rhs_dilation"],
            group=params["feature_group_count"],
        )
        back = [int(axis) for axis in np.argsort(numbers.out_spec)]
        return Value(self.node("Transpose", [result], perm=back), aval.shape)

    def _reduce_window_sum(self, values: list[Value], shapes: Any, aval: Any, params: Any) -> Value:
        pooled = self._pool("AveragePool", values, shapes, aval, params, count_include_pad=1)
        size = constant(np.asarray(np.prod(params["window_dimensions"]), aval.dtype))
        return self._elementwise("Mul", [pooled, size])

    def _reduce_window_max(self, values: list[Value], shapes: Any, aval: Any, params: Any) -> Value:
        return self._pool("MaxPool", values, shapes, aval, params)

    def _pool(
        self,
        kind: str,
        values: list[Value],
        shapes: Any,
        aval: Any,
        params: Any,
        **attributes: Any,
    ) -> Value:
        """Pooling of images [N, H, W, C]."""
        window, strides = params["window_dimensions"], params["window_strides"]
        dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
        if len(window) != 4 or window[0] != 1 or window[3] != 1 or dilated:
            raise InputError("--to=onnx: the network pools over something else than pixels")
        before, after = zip(*params["padding"][1:3], strict=True)
        images = self.node("Transpose", [self.full(values[0], shapes[0])], perm=[0, 3, 1, 2])
        pooled = self.node(
            kind,
            [images],
            kernel_shape=window[1:3],
            strides=strides[1:3],
            pads=before + after,
            **attributes,
        )
        return Value(self.node("Transpose", [pooled], perm=[0, 2, 3, 1]), aval.shape)

    def _scan(self, equation: Any, values: list[Value]) -> list[Value]:
        """Adds each iteration of a loop over constants, one after another."""
        params = equation.params
        inner = getattr(params["jaxpr"], "jaxpr", params["jaxpr"])
        inner_consts = getattr(params["jaxpr"], "consts", ())
        # What is the same in each iteration, or carried, has the same shape within the loop. The
        # numbers of each are in the parameters, but under names that depend on JAX's version.
        carried = _count_equal_shapes(equation.outvars, inner.outvars)
        kept = _count_equal_shapes(equation.invars, inner.invars)
        consts, carry = values[: kept - carried], values[kept - carried : kept]
        inputs = values[kept:]
        if not _is_constant(inputs) or params["reverse"]:
            raise InputError("--to=onnx: the network has a loop over computed values")
        outputs: list[list[Value]] = []
        for number in range(params["length"]):
            slices = [constant(np.asarray(value.data)[number]) for value in inputs]
            results = self.add_jaxpr(inner, inner_consts, [*consts, *carry, *slices])
            carry, rows = results[:carried], results[carried:]
            outputs.append(rows)
        stacked = []
        avals = [variable.aval for variable in equation.outvars[carried:]]
        for rows, aval in zip(zip(*outputs, strict=True), avals, strict=True):
            parts = [self.full(row, aval.shape[1:]) for row in rows]
            parts = [self.node("Unsqueeze", [part, _int64([0])]) for part in parts]
            stacked.append(Value(self.node("Concat", parts, axis=0), aval.shape))
        return [*carry, *stacked]


def _count_equal_shapes(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    pairs = zip(outer, inner, strict=True)
    return sum(one.aval.shape == other.aval.shape for one, other in pairs)


def constant(value: Any) -> Value:
    """Returns a number or an array as a constant."""
    array = np.asarray(value)
    return Value(array, array.shape)


def _is_constant(values: Sequence[Value]) -> bool:
    return not any(isinstance(value.data, str) for value in values)


def _pairs(values: Sequence[Value], equation: Any) -> Any:
    return zip(values, equation.invars, strict=True)


def _int64(numbers: Any) -> np.ndarray:
    return np.array(list(numbers), np.int64)
