"""Writes Pillow's and OpenCV's results for eight images, as expected values of tests.

    python scripts/goldens/make_image_goldens.py DIRECTORY

The script needs Pillow, OpenCV and NumPy, and the unpacked binary archive of CIFAR-10 in DIRECTORY,
from which it takes the first eight test images. It writes tests/goldens/images.npz with the arrays
"images", uint8 [8, 32, 32, 3]; "outputs", uint8 [cases, 2, 32, 32, 3], the cases of PILLOW followed
by those of OPENCV, each applied to two of the images; and "versions", those of the two libraries.
"""

import sys
from pathlib import Path

import numpy as np

GOLDENS = Path(__file__).resolve().parents[2] / "tests" / "goldens"

# (operation, magnitude), the magnitude as in jaxcifar.augment.image_ops.operation.
PILLOW = [
    *[(name, m) for name in ("ShearX", "ShearY") for m in (0.3, -0.1, -0.99)],
    *[(name, m) for name in ("TranslateX", "TranslateY") for m in (9.7, -3, -32)],
    *[("Rotate", m) for m in (3.333, 90, -30, -121.5)],
    *[(n, m) for n in ("Brightness", "Contrast", "Color", "Sharpness") for m in (0.3, -0.9)],
    *[("Contrast", 0.9), ("Sharpness", 0.99)],
    *[("Posterize", m) for m in (2, 5)],
    *[("Solarize", m) for m in (170, 63.75)],
    *[(name, 0) for name in ("AutoContrast", "Equalize", "Invert")],
]
# (operation, strength).
OPENCV = [
    *[("hue", m) for m in (0.11, -0.2)],
    ("gray", None),
    *[("clahe", (clip_limit, tiles)) for clip_limit, tiles in ((4.0, (8, 8)), (3.0, (3, 5)))],
    ("clahe_grey", (4.0, (8, 8))),
    ("grid_distortion", None),
    ("elastic_transform", (34.0, 4.0)),
]
FILL = (125, 123, 114)


def sources(case: int) -> list[int]:
    """Returns the indices of the two images to which a case is applied."""
    return [case % 8, (case + 3) % 8]


def grid_steps() -> np.ndarray:
    """Returns the steps of the grid distortion in x and y, float32 [2, 6]."""
    return np.random.RandomState(0).uniform(0.7, 1.3, (2, 6)).astype(np.float32)


def elastic_noise() -> np.ndarray:
    """Returns the noise of the elastic transform in x and y, float32 [2, 32, 32]."""
    return np.random.RandomState(1).uniform(-1, 1, (2, 32, 32)).astype(np.float32)


def pillow(image: np.ndarray, name: str, magnitude: float) -> np.ndarray:
    """Applies an operation with Pillow, as torchvision.transforms.AutoAugment does."""
    from PIL import Image, ImageEnhance, ImageOps

    image = Image.fromarray(image)
    pixels = int(magnitude)
    affine = {
        "ShearX": (1, magnitude, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, magnitude, 1, 0),
        "TranslateX": (1, 0, -pixels, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, -pixels),
    }
    if name in affine:
        size, method = image.size, Image.Transform.AFFINE
        result = image.transform(size, method, affine[name], fillcolor=FILL)
    elif name == "Rotate":
        result = image.rotate(magnitude, fillcolor=FILL)
    elif name in ("Brightness", "Contrast", "Color", "Sharpness"):
        result = getattr(ImageEnhance, name)(image).enhance(1 + magnitude)
    elif name in ("Posterize", "Solarize"):
        result = getattr(ImageOps, name.lower())(image, magnitude)
    else:
        result = getattr(ImageOps, name.lower())(image)
    return np.asarray(result)


def opencv(image: np.ndarray, name: str, strength) -> np.ndarray:
    """Applies an operation with OpenCV, as albumentations 1.3 does."""
    import cv2

    x, y = np.meshgrid(np.arange(32), np.arange(32))
    if name == "hue":
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = np.mod(hsv[..., 0] + 180 * strength, 180).astype(np.uint8)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if name == "gray":
        return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if name.startswith("clahe"):
        clip_limit, (rows, columns) = strength
        equalize = cv2.createCLAHE(clip_limit, (columns, rows))
        if name == "clahe_grey":  # of the green channel only
            green = equalize.apply(np.ascontiguousarray(image[..., 1]))
            return np.repeat(green[..., None], 3, axis=-1)
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[..., 0] = equalize.apply(np.ascontiguousarray(lab[..., 0]))
        return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    if name == "grid_distortion":
        x, y = np.meshgrid(*map(grid_positions, grid_steps()))
    else:
        alpha, sigma = strength
        shift = [alpha * cv2.GaussianBlur(noise, (0, 0), sigma) for noise in elastic_noise()]
        x, y = x + shift[0], y + shift[1]
    x, y = np.float32(x), np.float32(y)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def grid_positions(steps: np.ndarray) -> np.ndarray:
    """Returns the source positions of a row's 32 pixels: five cells of 6 pixels and the rest."""
    pieces, start = [], 0.0
    for step in steps[:5]:
        pieces.append(np.linspace(start, start + 6 * step, 6))
        start += 6 * step
    return np.concatenate([*pieces, np.linspace(start, 32, 2)])


def main(directory: str) -> None:
    """Writes all goldens."""
    import cv2
    import PIL

    records = np.fromfile(Path(directory) / "test_batch.bin", np.uint8).reshape(-1, 3073)[:8]
    images = records[:, 1:].reshape(8, 3, 32, 32).transpose(0, 2, 3, 1)
    images = np.ascontiguousarray(images)
    cases = [(pillow, *case) for case in PILLOW] + [(opencv, *case) for case in OPENCV]
    outputs = [
        [make(images[source], *case) for source in sources(i)]
        for i, (make, *case) in enumerate(cases)
    ]
    versions = np.array([f"Pillow {PIL.__version__}", f"OpenCV {cv2.__version__}"])
    path = GOLDENS / "images.npz"
    np.savez_compressed(path, images=images, outputs=outputs, versions=versions)
    print(f"{path}: {len(outputs)} cases, {path.stat().st_size} bytes, {', '.join(versions)}")


if __name__ == "__main__":
    main(sys.argv[1])
