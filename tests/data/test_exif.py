"""The orientation in EXIF data, against files written by Pillow."""

import io

import pytest
from PIL import Image

from jaxcifar.data.exif import orientation

IMAGE = Image.new("RGB", (16, 8))


def encoded(form, exif=None):
    buffer = io.BytesIO()
    IMAGE.save(buffer, form, **({} if exif is None else {"exif": exif}))
    return buffer.getvalue()


def tagged(value):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0131] = "a camera", value, "a program"
    return exif


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_the_orientation_that_was_written_is_read(form, value):
    assert orientation(encoded(form, tagged(value))) == value


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_an_image_without_one_is_upright(form):
    assert orientation(encoded(form)) == 1


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_value_that_does_not_exist_is_upright(value):
    assert orientation(encoded("JPEG", tagged(value))) == 1


def entry(order, kind):
    """EXIF data with one tag, orientation 6, as a number of two or four bytes."""

    def number(value, size):
        return value.to_bytes(size, order)

    value = number(6, 4) if kind == 4 else number(6, 2) + b"\0\0"
    head = (b"II" if order == "little" else b"MM") + number(42, 2) + number(8, 4)
    return head + number(1, 2) + number(0x0112, 2) + number(kind, 2) + number(1, 4) + value


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", [3, 4])
def test_both_byte_orders_and_sizes_of_numbers(order, kind):
    contents = encoded("JPEG", b"Exif\0\0" + entry(order, kind))
    assert orientation(contents) == 6
    # Bytes that fill up, and another segment of the same kind before it.
    assert orientation(contents[:2] + b"\xff\xe1\0\x06http\xff\xff" + contents[2:]) == 6


def test_damaged_data_is_upright_and_raises_nothing():
    for contents in (encoded("JPEG", tagged(6)), encoded("PNG", tagged(6))):
        for end in range(0, min(len(contents), 300)):
            assert orientation(contents[:end]) in (1, 6)
        for place in range(300):
            damaged = bytearray(contents)
            damaged[place % len(contents)] ^= 0xFF
            assert orientation(bytes(damaged)) in range(1, 9)
