"""Writes PyTorch's results for the networks of torch_models.py, as expected values of tests.

    python scripts/goldens/make_torch_goldens.py

The script needs PyTorch and NumPy. It writes tests/goldens/<model>.json with the logits in
evaluation and in training, the batch statistics, and the norm of every gradient after one training
step. Weights are not stored: both sides get them from `weights`, a function of name and shape. It
also writes schedules.json, the learning rate of each epoch, and optimizers.json, the weights after
ten updates.

Everything is computed in float64. In float32, one rounding error that moves an activation across
the kink of a ReLU changes gradients by a thousandth, even between two runs of PyTorch.
"""

import json
import zlib
from pathlib import Path

import numpy as np

GOLDENS = Path(__file__).resolve().parents[2] / "tests" / "goldens"

# Golden -> constructor and arguments of the PyTorch network, and the image size: small, but large
# enough that every BatchNorm of a deep network sees more than a handful of values.
MODELS = {
    "resnet20": ("cifar_resnet", (20,), {}, 8),
    "resnet20_b": ("cifar_resnet", (20,), {"shortcut": "B"}, 8),
    "resnet20_preactivation": ("cifar_resnet", (20,), {"preactivation": True}, 8),
    "resnet20_group": ("cifar_resnet", (20,), {"norm": "group"}, 8),
    "resnet20_layer": ("cifar_resnet", (20,), {"norm": "layer"}, 8),
    "resnet20_none": ("cifar_resnet", (20,), {"norm": "none"}, 8),
    "resnet20_twn": ("cifar_resnet", (20,), {"ternary": "layer"}, 8),
    "resnet20_twn_filter": ("cifar_resnet", (20,), {"ternary": "filter"}, 8),
    "resnet20_ttq": ("cifar_resnet", (20,), {"ternary": "ttq"}, 8),
    "resnet110": ("cifar_resnet", (110,), {}, 8),
    "resnet110_preactivation": ("cifar_resnet", (110,), {"preactivation": True}, 8),
    "resnet18": ("resnet", (18,), {}, 8),
    "resnet18_none": ("resnet", (18,), {"norm": "none"}, 8),
    "resnet18_twn": ("resnet", (18,), {"ternary": "layer"}, 8),
    "resnet18_ttq": ("resnet", (18,), {"ternary": "ttq"}, 8),
    "resnet50": ("resnet", (50,), {}, 16),
    "resnet50_group": ("resnet", (50,), {"norm": "group"}, 16),
    "resnet18_imagenet": ("resnet", (18,), {"stem": "imagenet"}, 32),
    "resnet50_imagenet": ("resnet", (50,), {"stem": "imagenet"}, 64),
    "densenet_bc_40_12": ("densenet", ((6, 6, 6), 12), {}, 8),
    "densenet_bc_100_12": ("densenet", ((16, 16, 16), 12), {}, 8),
    "densenet121": ("densenet", ((6, 12, 24, 16), 32), {}, 8),
    "densenet121_imagenet": ("densenet", ((6, 12, 24, 16), 32), {"stem": "imagenet"}, 32),
    "speedrun94": ("speedrun", ((64, 256, 256), 2), {}, 32),
    "speedrun96": ("speedrun", ((16, 24, 32), 3), {}, 32),
}
BATCH = 8


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the float32 array with the given name and shape in PyTorch."""
    # NumPy guarantees that the streams of RandomState never change.
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        values = 1 + 0.2 * np.abs(normal)
    elif len(shape) > 1:
        values = normal * np.sqrt(2 / (np.prod(shape[2:]) * shape[0]))  # 2 / fan-out
    elif name.endswith(("weight", "scale")):
        values = 1 + 0.2 * normal
    else:
        values = 0.2 * normal
    return np.asarray(values, np.float32)


def batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 images [BATCH, size, size, 3] and labels [BATCH]."""
    random = np.random.RandomState(0)
    images = random.standard_normal((BATCH, size, size, 3)).astype(np.float32)
    return images, random.randint(0, 10, BATCH)


# Golden -> PyTorch scheduler and its arguments; the base learning rate is 0.1.
EPOCHS = 60
SCHEDULES = {
    "step": ("StepLR", {"step_size": 20, "gamma": 0.2}),
    "multistep": ("MultiStepLR", {"milestones": [30, 45], "gamma": 0.1}),
    "cosine": ("CosineAnnealingLR", {"T_max": 60, "eta_min": 0.001}),
    "warm_restarts": ("CosineAnnealingWarmRestarts", {"T_0": 8, "T_mult": 2, "eta_min": 0.001}),
    "one_cycle": (
        "OneCycleLR",
        {"max_lr": 0.1, "total_steps": 60, "div_factor": 25, "final_div_factor": 100},
    ),
    "triangular": (
        "OneCycleLR",
        {
            "max_lr": 0.1,
            "total_steps": 60,
            "div_factor": 25,
            "final_div_factor": 100,
            "anneal_strategy": "linear",
        },
    ),
}
# Golden -> PyTorch optimizer and its arguments.
OPTIMIZERS = {
    "sgd": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "sgd_nesterov": (
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    ),
    "adamw": ("AdamW", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.01}),
    "clipped": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
}
CLIP = 2.0


def gradients(step: int) -> np.ndarray:
    """Returns the float32 gradient [3, 4] of one update for the optimizer goldens."""
    return np.random.RandomState(step).standard_normal((3, 4)).astype(np.float32)


def golden(model, size: int) -> dict:
    """Returns a network's logits and the norms of its batch statistics and gradients."""
    import torch
    from torch import nn

    model = model.double()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(weights(name, tuple(tensor.shape))))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    images, labels = batch(size)
    images = torch.from_numpy(images).permute(0, 3, 1, 2).double()

    counts = {}  # number of values per channel that each BatchNorm sees
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(
                lambda m, args, out, name=name: counts.update({name: out.numel() // out.shape[1]})
            )
    eval_logits = model.eval()(images)
    train_logits = model.train()(images)
    nn.functional.cross_entropy(train_logits, torch.from_numpy(labels)).backward()

    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    statistics = {name: p.norm().item() for name, p in frozen.items()}
    for name, after in model.state_dict().items():
        if name.endswith("running_mean"):
            statistics[name] = after.norm().item()
        elif name.endswith("running_var"):
            # PyTorch stores n / (n - 1) times the variance that it normalises by; Flax stores the
            # variance itself.
            norm = name.removesuffix(".running_var")
            n, momentum = counts[norm], model.get_submodule(norm).momentum
            kept = (1 - momentum) * before[name]
            statistics[name] = (kept + (after - kept) * (n - 1) / n).norm().item()
    return {
        "torch": torch.__version__,
        "eval_logits": eval_logits.tolist(),
        "train_logits": train_logits.tolist(),
        "statistics": statistics,
        "gradients": {
            name: p.grad.norm().item() for name, p in model.named_parameters() if p.requires_grad
        },
    }


def schedule(name: str, arguments: dict) -> list[float]:
    """Returns the learning rate of each epoch."""
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments)
    rates = []
    for _ in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def optimized(name: str, arguments: dict, clip: bool) -> list:
    """Returns the weights, initially 1, after ten updates."""
    import torch

    weight = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = getattr(torch.optim, name)([weight], **arguments)
    for step in range(10):
        weight.grad = torch.from_numpy(gradients(step))
        if clip:
            torch.nn.utils.clip_grad_norm_([weight], CLIP)
        optimizer.step()
    return weight.tolist()


def write(name: str, value: dict) -> None:
    """Writes one golden file."""
    (GOLDENS / f"{name}.json").write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def main() -> None:
    """Writes all goldens."""
    import torch
    import torch_models

    version = {"torch": torch.__version__}
    schedules = {key: schedule(*value) for key, value in SCHEDULES.items()}
    optimizers = {key: optimized(*value, key == "clipped") for key, value in OPTIMIZERS.items()}

    GOLDENS.mkdir(exist_ok=True)
    write("schedules", version | schedules)
    write("optimizers", version | optimizers)
    for name, (constructor, arguments, fields, size) in MODELS.items():
        result = golden(getattr(torch_models, constructor)(*arguments, **fields), size)
        write(name, result)
        print(name)


if __name__ == "__main__":
    main()
