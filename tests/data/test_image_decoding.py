"""Decoding one image of any kind and orientation, against Pillow."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxcifar.data.folder_pipeline import eval_batches, train_batches
from jaxcifar.data.image_decoding import View, decode_view
from jaxcifar.data.image_folder import FolderSplit
from jaxcifar.environment import import_tensorflow

PIXELS = np.asarray(
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (6, 8, 3), np.uint8)).resize(
        (64, 48), Image.Resampling.BICUBIC
    )
)
PICTURE = Image.fromarray(PIXELS)
ORIENTATION = 0x0112


def encoded(form, picture=PICTURE, **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def tagged(form, value, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return encoded(form, exif=exif, **options)


def whole(contents, **options):
    """Returns all pixels of an image."""
    tf = import_tensorflow()

    def choose_view(height, width):
        return View((0, 0, height, width), tf.ones(2), tf.zeros(2))

    return decode_view(tf.constant(contents), choose_view, **options)[0].numpy()


def pillow(contents, turn=False):
    image = Image.open(io.BytesIO(contents))
    return np.asarray((ImageOps.exif_transpose(image) if turn else image).convert("RGB"))


NEGATIVE = Image.fromarray(255 - PIXELS)
TRANSPARENT = Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]]))
FILES = {
    "WebP": lambda: encoded("WEBP", quality=90),
    "WebP without loss": lambda: encoded("WEBP", lossless=True),
    "WebP with transparency": lambda: encoded("WEBP", TRANSPARENT, lossless=True, exact=True),
    "WebP animation": lambda: encoded("WEBP", save_all=True, append_images=[NEGATIVE]),
    "BMP": lambda: encoded("BMP"),
    "BMP of grey levels": lambda: encoded("BMP", PICTURE.convert("L")),
    "BMP with a palette": lambda: encoded("BMP", PICTURE.convert("P")),
    "BMP of one bit": lambda: encoded("BMP", PICTURE.convert("1")),
    "GIF": lambda: encoded("GIF"),
    "GIF with transparency": lambda: encoded("GIF", TRANSPARENT),
    "GIF animation": lambda: encoded("GIF", save_all=True, append_images=[NEGATIVE]),
    "JPEG": lambda: encoded("JPEG", quality=95),
    "PNG": lambda: encoded("PNG"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_is_decoded_as_by_pillow(name):
    contents = FILES[name]()
    np.testing.assert_array_equal(whole(contents), pillow(contents))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_window_of_a_turned_image_is_that_of_the_upright_one(orientation):
    tf = import_tensorflow()
    contents = tagged("JPEG", orientation, quality=95)
    upright = pillow(contents, turn=True)
    assert upright.shape[:2] == ((48, 64) if orientation < 5 else (64, 48))
    np.testing.assert_array_equal(whole(contents, exif_orientation=True), upright)
    np.testing.assert_array_equal(whole(contents), pillow(contents))

    def choose_view(height, width):
        assert (height, width) == upright.shape[:2]
        return View((3, 5, 11, 17), tf.ones(2), tf.zeros(2))

    window, _, _ = decode_view(tf.constant(contents), choose_view, exif_orientation=True)
    np.testing.assert_array_equal(window, upright[3:14, 5:22])


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_other_kinds_with_an_orientation_are_turned_too(form):
    contents = tagged(form, 6)
    assert whole(contents, exif_orientation=True).shape == (64, 48, 3)
    np.testing.assert_array_equal(whole(contents, exif_orientation=True), pillow(contents, True))


@pytest.mark.parametrize(
    "exif",
    [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", 0, 9],
)
def test_an_image_without_a_valid_orientation_stays_as_it_is(exif):
    contents = encoded("JPEG", exif=exif) if isinstance(exif, bytes) else tagged("JPEG", exif)
    np.testing.assert_array_equal(whole(contents, exif_orientation=True), whole(contents))


def folder(root, files):
    root.mkdir()
    for name, contents in files.items():
        (root / name).write_bytes(contents)
    return FolderSplit(str(root), tuple(files), np.arange(len(files), dtype=np.int32), ("class",))


def test_training_and_evaluation_see_upright_images(tmp_path):
    turned = {f"{value}.jpg": tagged("JPEG", value, quality=95) for value in range(1, 9)}
    upright = {
        f"{name}.png": encoded("PNG", Image.fromarray(pillow(contents, turn=True)))
        for name, contents in turned.items()
    }
    expected, split = folder(tmp_path / "upright", upright), folder(tmp_path / "turned", turned)

    def images(batches, split, exif, **arguments):
        (batch,) = batches(split, image_size=24, batch_size=8, exif_orientation=exif, **arguments)
        assert batch["mask"].all()
        return batch["image"]

    steps = {"seed": 0, "first_step": 0, "num_steps": 1}
    for batches, arguments in ((train_batches, steps), (eval_batches, {})):
        found = images(batches, split, True, **arguments)
        np.testing.assert_array_equal(found, images(batches, expected, False, **arguments))


def test_the_kind_is_known_by_the_contents_and_bad_files_are_skipped(tmp_path):
    kinds = {f"{i}.jpg": make() for i, make in enumerate(FILES.values())}
    bad = {"empty.webp": b"", "cut.gif": FILES["GIF"]()[:900], "cut.bmp": FILES["BMP"]()[:900]}
    bad |= {"cut.webp": FILES["WebP"]()[:200], "tiff.jpg": encoded("TIFF")}
    split = folder(tmp_path / "files", kinds | bad)
    (batch,) = eval_batches(split, image_size=24, batch_size=split.size, on_bad_image="skip")
    assert batch["label"][batch["mask"]].tolist() == list(range(len(kinds)))
