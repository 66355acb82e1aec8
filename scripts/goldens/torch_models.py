"""The networks in plain PyTorch, written independently from the tables of the papers.

Modules have torchvision's names if torchvision has the network.
"""

from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


class Norm:
    """Creates a kind of normalisation, or the learned factors that replace it."""

    def __init__(self, kind: str):
        self.kind = kind

    def __call__(self, width: int, last: bool = False) -> nn.Module:
        """Returns a layer for `width` channels."""
        if self.kind == "batch":
            return nn.BatchNorm2d(width)
        if self.kind == "none":
            return Factor() if last else nn.Identity()
        return nn.GroupNorm(width // 16 if self.kind == "group" else 1, width)


class Factor(nn.Module):
    """Multiplies its input by a learned scalar."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class TernaryConv2d(nn.Conv2d):
    """A convolution by TWN ("layer" or "filter" scales) or TTQ, straight-through by `detach`."""

    def __init__(self, *args, scheme: str, **kwargs):
        super().__init__(*args, **kwargs)
        self.scheme = scheme
        if scheme == "ttq":
            self.positive_scale = nn.Parameter(torch.ones(()))
            self.negative_scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight
        if self.scheme == "ttq":
            above = w.detach() > 0.05 * w.detach().abs().max()
            below = w.detach() < -0.05 * w.detach().abs().max()
            p, n = self.positive_scale, self.negative_scale
            # The latent weights contribute the value 0, and a gradient scaled by their level.
            scale = torch.where(above, p, torch.where(below, n, 1)).detach()
            w = above * p - below * n + scale * (w - w.detach())
        else:
            dim = (1, 2, 3) if self.scheme == "filter" else (0, 1, 2, 3)
            size = w.detach().abs()
            kept = size > 0.7 * size.mean(dim, keepdim=True)
            alpha = (size * kept).sum(dim, keepdim=True) / kept.sum(dim, keepdim=True)
            w = alpha * kept * w.detach().sign() + w - w.detach()
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


def make_conv(norm: str, ternary: str):
    """Returns the constructor of the convolutions within the blocks."""
    if ternary == "none":
        return partial(nn.Conv2d, bias=norm == "none")
    return partial(TernaryConv2d, bias=norm == "none", scheme=ternary)


class Shortcut(nn.Module):
    """Shortcut A: every `stride`-th pixel, with zeros for the missing channels."""

    def __init__(self, stride: int, extra: int):
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, width_in, width, stride, downsample, conv, norm):
        super().__init__()
        self.conv1 = conv(width_in, width, 3, stride, 1)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, 1, 1)
        self.bn2 = norm(width, last=True)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut."""

    def __init__(self, width_in, width, stride, downsample, conv, norm):
        super().__init__()
        self.conv1 = conv(width_in, width, 1)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, stride, 1)
        self.bn2 = norm(width)
        self.conv3 = conv(width, 4 * width, 1)
        self.bn3 = norm(4 * width, last=True)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class PreActivationBlock(nn.Module):
    """Normalisation and ReLU before each convolution, except the first of the first block."""

    def __init__(self, width_in, width, stride, downsample, conv, norm, first):
        super().__init__()
        self.bn1 = None if first else norm(width_in)
        self.conv1 = conv(width_in, width, 3, stride, 1)
        self.bn2 = norm(width)
        self.conv2 = conv(width, width, 3, 1, 1)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(x)) if self.bn1 else x
        y = self.conv2(F.relu(self.bn2(self.conv1(y))))
        return y + (self.downsample(x) if self.downsample else x)


class ResNet(nn.Module):
    """ResNet of He et al. 2015 and 2016, for given stages, stem and shortcut."""

    def __init__(
        self,
        block,
        widths,
        blocks,
        num_classes=10,
        stem="cifar",
        shortcut="B",
        norm="batch",
        ternary="none",
    ):
        super().__init__()
        kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
        bias = norm == "none"
        conv, norm = make_conv(norm, ternary), Norm(norm)
        self.conv1 = nn.Conv2d(3, widths[0], kernel, stride, kernel // 2, bias=bias)
        self.bn1 = norm(widths[0])
        self.pool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, 1)
        expansion, width_in, stages = 4 if block is Bottleneck else 1, widths[0], []
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            layers = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                width_out, downsample = expansion * width, None
                if stride != 1 or width_in != width_out:
                    downsample = (
                        nn.Sequential(conv(width_in, width_out, 1, stride), norm(width_out))
                        if shortcut == "B"
                        else Shortcut(stride, width_out - width_in)
                    )
                extra = (not stage and not index,) if block is PreActivationBlock else ()
                layers.append(block(width_in, width, stride, downsample, conv, norm, *extra))
                width_in = width_out
            stages.append(nn.Sequential(*layers))
            setattr(self, f"layer{stage + 1}", stages[-1])
        self.num_stages = len(stages)
        self.bn_end = norm(width_in) if block is PreActivationBlock else None
        self.fc = nn.Linear(width_in, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(self.num_stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        if self.bn_end:
            x = F.relu(self.bn_end(x))
        return self.fc(x.mean((2, 3)))


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution, BatchNorm, ReLU, 3x3 convolution, joined to the input."""

    def __init__(self, width: int, growth_rate: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, 4 * growth_rate, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth_rate)
        self.conv2 = nn.Conv2d(4 * growth_rate, growth_rate, 3, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


class Transition(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution to half of the channels, 2x2 mean pooling."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width // 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """DenseNet of Huang et al. 2016, with bottleneck and compression."""

    def __init__(self, block_layers, growth_rate, num_classes=10, stem="cifar"):
        super().__init__()
        width = 2 * growth_rate
        self.features = nn.Sequential()
        if stem == "cifar":
            self.features.add_module("conv0", nn.Conv2d(3, width, 3, 1, 1, bias=False))
        else:
            self.features.add_module("conv0", nn.Conv2d(3, width, 7, 2, 3, bias=False))
            self.features.add_module("norm0", nn.BatchNorm2d(width))
            self.features.add_module("relu0", nn.ReLU())
            self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        for block, layers in enumerate(block_layers, 1):
            dense = nn.Sequential()
            for index in range(1, layers + 1):
                dense.add_module(f"denselayer{index}", DenseLayer(width, growth_rate))
                width += growth_rate
            self.features.add_module(f"denseblock{block}", dense)
            if block < len(block_layers):
                self.features.add_module(f"transition{block}", Transition(width))
                width //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(F.relu(self.features(x)).mean((2, 3)))


def cifar_resnet(depth: int, preactivation: bool = False, **fields) -> nn.Module:
    """The ResNet of 6n + 2 layers for CIFAR."""
    block = PreActivationBlock if preactivation else BasicBlock
    fields = {"shortcut": "A", **fields}
    return ResNet(block, (16, 32, 64), ((depth - 2) // 6,) * 3, **fields)


def resnet(depth: int, **fields) -> nn.Module:
    """ResNet-18, 34, 50, 101 or 152."""
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
    blocks |= {101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
    block = BasicBlock if depth < 50 else Bottleneck
    return ResNet(block, (64, 128, 256, 512), blocks[depth], **fields)


def densenet(block_layers: tuple[int, ...], growth_rate: int, **fields) -> nn.Module:
    """A DenseNet-BC."""
    return DenseNet(block_layers, growth_rate, **fields)


class SpeedrunNorm(nn.BatchNorm2d):
    """BatchNorm without a scale, whose statistics keep 0.6 of their value."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-12, momentum=0.4)
        self.register_parameter("weight", None)


class SpeedrunBlock(nn.Module):
    """Two 3x3 convolutions with pooling after the first, or three with a residual branch."""

    def __init__(self, width_in: int, width: int, convs: int):
        super().__init__()
        self.convs = convs
        for index in range(1, convs + 1):
            first = width_in if index == 1 else width
            self.add_module(f"conv{index}", nn.Conv2d(first, width, 3, padding=1, bias=False))
            self.add_module(f"norm{index}", SpeedrunNorm(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        y = self.norm2(self.conv2(x))
        if self.convs == 3:
            y = x + self.norm3(self.conv3(F.gelu(y)))
        return F.gelu(y)


def speedrun(widths: tuple[int, ...], convs: int) -> nn.Module:
    """A speedrun network of Jordan 2024, for 32x32 images and 10 classes."""
    blocks = [
        SpeedrunBlock(width_in, width, convs)
        for width_in, width in zip((24, *widths[:-1]), widths, strict=True)
    ]
    layers = OrderedDict(
        whiten=nn.Conv2d(3, 24, 2),
        layers=nn.Sequential(nn.GELU(), *blocks, nn.MaxPool2d(3), nn.Flatten()),
        head=nn.Linear(widths[-1], 10, bias=False),
        scale=Scale(1 / 9),
    )
    layers["whiten"].weight.requires_grad = False
    return nn.Sequential(layers)


class Scale(nn.Module):
    """Multiplies its input by a constant."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x
