"""A functional JAX/Flax trainer for the classic CIFAR networks."""

__version__ = "0.1.0"
