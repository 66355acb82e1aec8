"""Images of every mode and orientation, against values worked out by hand."""

import numpy as np
import pytest
from PIL import Image

from jaxcifar.data import any_image
from jaxcifar.errors import InputError


@pytest.mark.parametrize(
    "mode, colour, expected",
    [
        ("1", 1, (255, 255, 255)),
        ("L", 100, (100, 100, 100)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        # Half transparent over white: c * a + 255 * (1 - a) with a = 51 / 255.
        ("RGBA", (10, 20, 30, 51), (206, 208, 210)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("LA", (100, 51), (224, 224, 224)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 51_200, (200, 200, 200)),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, expected, tmp_path):
    image = Image.new(mode, (3, 2), colour)
    file = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    image.save(file)
    for found in (any_image.to_rgb(image), any_image.read(file)):
        assert found.mode == "RGB" and found.size == (3, 2)
        np.testing.assert_allclose(np.asarray(found), np.broadcast_to(expected, (2, 3, 3)), atol=1)


def test_a_transparent_colour_of_a_palette_is_white(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([9, 9, 9, 50, 60, 70])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    pixels = np.asarray(any_image.read(tmp_path / "a.png"))
    np.testing.assert_array_equal(pixels, [[[255, 255, 255], [50, 60, 70]]])


# What a camera stores for an upright image, by EXIF orientation: EXIF 2.32, table 4, note on
# Orientation: where row 0 and column 0 of the stored image are in the scene.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: upright.transpose(1, 0, 2)[::-1],
    7: lambda upright: upright.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda upright: upright.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
def test_images_are_turned_as_exif_says(orientation, tmp_path):
    upright = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(any_image.read(tmp_path / "a.png")), upright)


def test_files_that_are_no_images_are_named(tmp_path):
    text, cut, missing = (tmp_path / name for name in ("text.png", "cut.png", "missing.png"))
    text.write_text("not an image")
    random = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(random).save(cut)
    cut.write_bytes(cut.read_bytes()[:3000])
    for path, reason in (
        (text, "not an image that Pillow can read"),
        (cut, "not an image that Pillow can read, or a damaged one"),
        (missing, "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(InputError, match=f"{path}: {reason}"):
            any_image.read(path)
    Image.new("F", (2, 2)).save(tmp_path / "f.tiff")
    with pytest.raises(InputError, match="floats have no known range"):
        any_image.read(tmp_path / "f.tiff")


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "huge.png")
    monkeypatch.setattr(any_image.fitting, "MAX_PIXELS", 89_999)
    with pytest.raises(InputError, match="huge.png: 300 x 300 pixels are too many"):
        any_image.read(tmp_path / "huge.png")
