"""The layers that the networks share, initialised as their papers have it."""

from typing import Any

from flax import linen as nn

# He et al. 2015, "Delving Deep into Rectifiers", equation 14: variance 2 / fan-out, which keeps the
# scale of the gradients.
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# Uniform within 1 / sqrt(fan-in), as torch.nn.Linear.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def conv(features: int, kernel_size: int, strides: int = 1, **kwargs: Any) -> nn.Conv:
    """A square convolution without bias, padded by half its size on every side.

    The padding is explicit because "SAME" pads a strided convolution on the far sides only, where
    the published networks pad both.
    """
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        (strides, strides),
        padding=kernel_size // 2,
        use_bias=False,
        kernel_init=he_normal_fan_out,
        **kwargs,
    )


def batch_norm(train: bool, **kwargs: Any) -> nn.BatchNorm:
    """Batch normalisation whose running statistics keep 0.9 of their value a step."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, **kwargs)


def dense(features: int, **kwargs: Any) -> nn.Dense:
    """The classifier: a linear layer with bias, which starts at zero."""
    return nn.Dense(features, kernel_init=uniform_fan_in, **kwargs)
