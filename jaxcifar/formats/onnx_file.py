"""A network in ONNX, written operation by operation from its jaxpr.

The library for this, jax2onnx, is not used: it requires an older Orbax than this package, and of
the networks here it refuses those with padded shortcuts and average pooling and computes other
results for those with max-pooling (version 0.17.1).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxcifar.errors import InputError
from jaxcifar.kernels import native

_IR_VERSION = 9


def serialize(
    function: Callable[[jax.Array], jax.Array],
    image_shape: tuple[int, ...],
    metadata: Mapping[str, str],
) -> bytes:
    """Returns a function of uint8 images [N, H, W, C] as an ONNX model, for any N.

    Its input is called `images` and its output `probabilities`.

    Args:
      function: a pure function of float32 arithmetic; arrays that it closes over become part of the
        result.
      image_shape: height, width and channels.
      metadata: texts to store in the model.

    Raises:
      InputError: if onnx is not installed, or the function has an operation that is not known here.
    """
    try:
        import onnx

        from jaxcifar.formats.onnx_operations import ANY, OPSET, Graph, Value
    except ImportError as error:
        raise InputError(
            "onnx is not installed; install it with pip install 'jaxcifar[onnx]'"
        ) from error
    images = jax.ShapeDtypeStruct((ANY, *image_shape), jnp.uint8)
    with native.switched_off():
        traced = jax.make_jaxpr(lambda x: function(x))(images)
    graph = Graph()
    given = Value("images", images.shape)
    (result,) = graph.add_jaxpr(traced.jaxpr, traced.consts, [given])
    (aval,) = traced.out_avals
    graph.node("Identity", [graph.full(result, aval.shape)], output="probabilities")
    inputs, outputs = (
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype)), ["n", *x.shape[1:]]
        )
        for name, x in (("images", images), ("probabilities", aval))
    )
    constants = [onnx.numpy_helper.from_array(x, name) for name, x in graph.arrays.items()]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "jaxcifar", [inputs], [outputs], constants),
        producer_name="jaxcifar",
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
