"""Reading images of a data set, from folders and from archives."""

import struct
from io import BytesIO
from typing import Any, BinaryIO

from PIL import ExifTags, Image

from datasets.stores import AnyPath
from reproduce.base.errors import UserError

# What Pillow raises when it opens or decodes a missing, truncated or foreign file.
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),
    Image.DecompressionBombError,
)

# The EXIF orientations that exchange width and height.
_TURNED = (5, 6, 7, 8)


def open_image(path: AnyPath, digest: Any = None) -> Image.Image:
    """Return the whole image at `path`, decoded, in RGB, as its pixels are stored.

    The EXIF orientation is ignored. The format is recognised by the content and not by the name:
    ImageNet has a PNG and CMYK JPEGs under `.JPEG`. `digest`, a hash, is updated with the bytes.

    Raises:
        UserError: if the file is missing, truncated or not an image.
    """
    try:
        content = path.read_bytes()
        if digest is not None:
            digest.update(content)
        with Image.open(BytesIO(content)) as image:
            return image.convert('RGB')
    except DECODING_ERRORS as error:
        raise unreadable('image', path, error) from error


def upright_size(path: AnyPath) -> tuple[int, int]:
    """Return the width and height in pixels that OpenCV gives the image at `path`.

    OpenCV, with which mmdet and mmseg read images, turns an image as its EXIF orientation says;
    Pillow does not.

    Raises:
        UserError: if the file is missing or is not an image.
    """
    try:
        with path.open('rb') as file, Image.open(file) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            return image.size[::-1] if turned else image.size
    except DECODING_ERRORS as error:
        raise unreadable('image', path, error) from error


def decode_to_end(source: BinaryIO) -> None:
    """Decode an image for what Pillow raises; a JPEG at an eighth of its size, to its end.

    Raises:
        DECODING_ERRORS: if it cannot be decoded.
    """
    with Image.open(source) as image:
        image.draft('RGB', (1, 1))
        image.load()


def unreadable(kind: str, path: object, error: Exception) -> UserError:
    """Return the error that names a file of some kind that cannot be read, and why."""
    reason = 'it does not exist' if isinstance(error, FileNotFoundError) else error
    return UserError(
        f'cannot read the {kind} {path}: {reason}; restore it from the original archive.'
    )
