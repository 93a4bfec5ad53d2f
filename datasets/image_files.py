"""What all data sets need to know about an image file: which errors decoding raises, its size."""

import struct
from pathlib import Path

from PIL import ExifTags, Image

from reproduce.errors import UserError

# What Pillow raises when it opens or decodes a missing, truncated or foreign file.
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),
    Image.DecompressionBombError,
)

# The EXIF orientations that exchange width and height.
_TURNED = (5, 6, 7, 8)


def upright_size(path: Path) -> tuple[int, int]:
    """Return the width and height in pixels that OpenCV gives the image at `path`.

    OpenCV, with which mmdet and mmseg read images, turns an image as its EXIF orientation says;
    Pillow does not. Only the header of the file is read.

    Raises:
        UserError: if the file is missing or is not an image.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            return image.size[::-1] if turned else image.size
    except DECODING_ERRORS as error:
        raise unreadable('image', path, error) from error


def unreadable(kind: str, path: object, error: Exception) -> UserError:
    """Return the error that names a file of some kind that cannot be read, and why."""
    reason = 'it does not exist' if isinstance(error, FileNotFoundError) else error
    return UserError(
        f'cannot read the {kind} {path}: {reason}; restore it from the original archive.'
    )
