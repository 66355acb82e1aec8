"""Dynamic scaling of a float16 loss."""

import jax
import jax.numpy as jnp
from flax import struct

_MIN_SCALE = 1.0
_GROWTH_INTERVAL = 2000


@struct.dataclass
class LossScale:
    """Factor of a float16 loss that keeps small gradients from becoming zero.

    Micikevicius et al. 2018, "Mixed Precision Training", section 3.2. It is halved when a gradient
    is not finite, in an update that is skipped, and doubled after 2,000 finite updates in a row, as
    in PyTorch's GradScaler. Flax's DynamicScale computes the gradients itself, which leaves no room
    for gradient accumulation and masked means.

    Attributes:
      scale: current factor, float32.
      finite_steps: number of finite updates since it last changed, int32.
    """

    scale: jax.Array
    finite_steps: jax.Array

    @classmethod
    def create(cls) -> "LossScale":
        """Returns a new loss scale, with PyTorch's initial factor of 65,536."""
        return cls(jnp.float32(2.0**16), jnp.int32(0))

    def can_shrink(self) -> jax.Array:
        """Returns whether non-finite gradients may be due to too large a scale, a bool scalar."""
        return self.scale > _MIN_SCALE

    def update(self, finite: jax.Array) -> "LossScale":
        """Returns the scale after an update.

        Args:
          finite: whether all gradients of the update were finite, a bool scalar.
        """
        grows = finite & (self.finite_steps + 1 == _GROWTH_INTERVAL)
        factor = jnp.where(finite, jnp.where(grows, 2.0, 1.0), 0.5)
        return LossScale(
            scale=jnp.maximum(self.scale * factor, _MIN_SCALE),
            finite_steps=jnp.where(finite & ~grows, self.finite_steps + 1, 0),
        )
