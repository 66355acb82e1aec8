"""Networks by name.

A model is a linen module that is called as `model(images, train=...)` with float images
[B, H, W, C] and returns float32 logits [B, classes].
"""

from jaxcifar.models import densenet, resnet, resnet_cifar, speedrun
from jaxcifar.models.registry import create, fields, from_config, register, registered

__all__ = [
    "create",
    "densenet",
    "fields",
    "from_config",
    "register",
    "registered",
    "resnet",
    "resnet_cifar",
    "speedrun",
]
