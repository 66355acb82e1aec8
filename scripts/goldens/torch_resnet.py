"""The CIFAR-10 recipe of configs/resnet*.py in plain PyTorch, for comparing training curves.

    python scripts/goldens/torch_resnet.py cifar-10-batches-bin --steps 6400 --milestones 3200 4800

The script needs only PyTorch, NumPy and the files of the official binary version. Network (shortcut
A), initialisation, augmentation, optimizer, schedule and batches that span epochs are the same as
jaxcifar's; only the random numbers differ.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch_models import cifar_resnet

MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
STD = torch.tensor([0.2470, 0.2435, 0.2616]).view(1, 3, 1, 1)


def initialized(model: nn.Module) -> nn.Module:
    """Draws convolutions He normal by fan-out and sets the classifier's bias to zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(model.fc.bias)
    return model


def read(paths: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns uint8 images [N, 3, 32, 32] and labels [N] of files of the binary version."""
    records = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, 3073) for path in paths])
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy())
    return images, torch.from_numpy(records[:, 0].astype(np.int64))


def augment(images: torch.Tensor) -> torch.Tensor:
    """Pads each image by 4, crops it at a random position and mirrors it at random."""
    size = len(images)
    padded = F.pad(images, (4, 4, 4, 4))
    rows = torch.randint(0, 9, (size, 1)) + torch.arange(32)
    columns = torch.randint(0, 9, (size, 1)) + torch.arange(32)
    columns = torch.where(torch.rand(size, 1) < 0.5, columns.flip(1), columns)
    index = torch.arange(size)[:, None, None]
    cropped = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Returns float images with mean 0 and standard deviation 1, channels last in memory."""
    images = (images.float() / 255 - MEAN) / STD
    return images.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def evaluate(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Returns mean loss and accuracy over a whole split."""
    model.eval()
    loss = correct = 0.0
    for start in range(0, len(labels), 1000):
        logits = model(normalize(images[start : start + 1000]))
        target = labels[start : start + 1000]
        loss += F.cross_entropy(logits, target, reduction="sum").item()
        correct += (logits.argmax(1) == target).sum().item()
    model.train()
    return loss / len(labels), correct / len(labels)


def main() -> None:
    """Trains, printing test metrics and the training metrics since the previous line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="directory with data_batch_1.bin etc.")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--steps", type=int, default=64_000)
    parser.add_argument("--milestones", type=int, nargs="*", default=[32_000, 48_000])
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--eval_every", type=int, default=391)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    train_images, train_labels = read([args.data / f"data_batch_{k}.bin" for k in range(1, 6)])
    test_images, test_labels = read([args.data / "test_batch.bin"])
    model = initialized(cifar_resnet(args.depth)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, args.milestones, gamma=0.1)

    order = torch.empty(0, dtype=torch.int64)
    loss_sum = correct = seen = seconds = 0
    for step in range(1, args.steps + 1):
        start = time.perf_counter()
        if len(order) < args.batch_size:
            order = torch.cat([order, torch.randperm(len(train_labels))])
        index, order = order[: args.batch_size], order[args.batch_size :]
        target = train_labels[index]
        logits = model(normalize(augment(train_images[index])))
        loss = F.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        loss_sum += loss.item() * len(index)
        correct += (logits.argmax(1) == target).sum().item()
        seen += len(index)
        seconds += time.perf_counter() - start
        if step % args.eval_every == 0 or step == args.steps:
            test_loss, test_accuracy = evaluate(model, test_images, test_labels)
            print(
                f"step {step}  train loss {loss_sum / seen:.4f}  accuracy {correct / seen:.2%}  "
                f"{seen / seconds:.0f} images/s  test loss {test_loss:.4f}  "
                f"accuracy {test_accuracy:.2%}",
                flush=True,
            )
            loss_sum = correct = seen = seconds = 0


if __name__ == "__main__":
    main()
