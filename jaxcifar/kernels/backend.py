"""The questions that code asks about JAX's backend where one form is not the fastest on all."""

import jax


def is_cpu() -> bool:
    """Returns whether programs run on CPUs: few cores, cheap calls, XLA's own convolutions slow."""
    return jax.default_backend() == "cpu"


def prefers_outputs_first() -> bool:
    """Returns whether loops carry convolution kernels as [out, H, W, in], see `kernel_order`.

    cuDNN reads kernels in this order. With any other, a loop copies each kernel in each iteration.
    """
    return not is_cpu()
