"""Facts about JAX's backend, for code whose fastest form depends on it."""

import jax


def is_cpu() -> bool:
    """Returns whether programs run on a CPU: few cores, cheap calls, slow convolutions in XLA."""
    return jax.default_backend() == "cpu"


def prefers_outputs_first() -> bool:
    """Returns whether loops carry convolution kernels as [out, H, W, in], see `kernel_order`.

    cuDNN reads kernels in this order. With any other, a loop copies each kernel in each iteration.
    """
    return not is_cpu()
