"""The orientation of a photograph, from the EXIF data in its file."""

_ORIENTATION = 0x0112  # number of the tag
_LONG = 4  # number of a type of four bytes
_START_OF_SCAN, _APP1, _FILL = 0xDA, 0xE1, 0xFF


def orientation(contents: bytes) -> int:
    """Returns the EXIF orientation of an image, from 1, upright, to 8; 1 if it has no valid one.

    Args:
      contents: contents of a file; the EXIF data of a JPEG, PNG or WebP is found.
    """
    data = _exif_data(contents)
    order = {b"II": "little", b"MM": "big"}.get(data[:2])
    if order is None:
        return 1

    def number(first: int, size: int) -> int:
        return int.from_bytes(data[first : first + size], order)

    directory = number(4, 4)
    last = min(directory + 2 + 12 * number(directory, 2), len(data))
    for entry in range(directory + 2, last, 12):
        if number(entry, 2) == _ORIENTATION:
            value = number(entry + 8, 4 if number(entry + 2, 2) == _LONG else 2)
            return value if 1 <= value <= 8 else 1
    return 1


def _exif_data(contents: bytes) -> bytes:
    """Returns the part of a file that is laid out as a TIFF; b"" if there is none."""
    if contents.startswith(b"\xff\xd8"):
        return _in_jpeg(contents)
    if contents.startswith(b"\x89PNG"):
        return contents.partition(b"eXIf")[2]
    if contents.startswith(b"RIFF") and contents[8:12] == b"WEBP":
        return contents.partition(b"EXIF")[2][4:].removeprefix(b"Exif\0\0")
    return b""


def _in_jpeg(contents: bytes) -> bytes:
    place = 2
    while contents[place : place + 1] == b"\xff" and place + 4 <= len(contents):
        marker = contents[place + 1]
        if marker == _FILL:
            place += 1
            continue
        if marker == _START_OF_SCAN:
            break
        end = place + 2 + int.from_bytes(contents[place + 2 : place + 4], "big")
        if marker == _APP1 and contents[place + 4 : place + 10] == b"Exif\0\0":
            return contents[place + 10 : end]
        place = end
    return b""
