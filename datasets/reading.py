"""Reading images and text of a data set, from folders and from archives."""

import codecs
import struct
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image

from datasets.stores import AnyPath, StoredPath
from reproduce.base.errors import UserError

# What Pillow raises when it opens or decodes a missing, truncated or foreign file.
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),
    Image.DecompressionBombError,
)

# The EXIF orientations that exchange width and height.
_TURNED = (5, 6, 7, 8)

# The size of nearly every JPEG is in its first bytes.
_HEADER = 2**16


def pillow_source(path: AnyPath) -> Path | BytesIO:
    """Return what Pillow opens for a file: its path, or its content if it is in an archive.

    Raises:
        OSError: if it is a pipe or another special file, which may never end.
    """
    if isinstance(path, StoredPath):
        return path.open()
    if isinstance(path, Path) and path.exists() and not path.is_file():
        raise OSError('it is not a regular file')
    return path


def upright_size(path: AnyPath) -> tuple[int, int]:
    """Return the width and height in pixels that OpenCV gives the image at `path`.

    OpenCV, with which mmdet and mmseg read images, turns an image as its EXIF orientation says;
    Pillow does not. Only the header of the file is read, if it has no more than 64 KiB.

    Raises:
        UserError: if the file is missing or is not an image.
    """
    try:
        with _header(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            return image.size[::-1] if turned else image.size
    except DECODING_ERRORS as error:
        raise unreadable('image', path, error) from error


def check_whole(path: AnyPath) -> None:
    """Decode the image at `path` to its end.

    Raises:
        UserError: if the file is missing, truncated or not an image.
    """
    try:
        decode_to_end(pillow_source(path))
    except DECODING_ERRORS as error:
        raise unreadable('image', path, error) from error


def decode_to_end(source: Path | BytesIO) -> None:
    """Decode an image for what Pillow raises; a JPEG at an eighth of its size, to its end.

    Raises:
        DECODING_ERRORS: if it cannot be decoded.
    """
    with Image.open(source) as image:
        image.draft('RGB', (1, 1))
        image.load()


def read_text(path: AnyPath) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        UserError: if it cannot be read, or is not such text.
    """
    try:
        content = path.read_bytes()
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode('utf-16' if is_utf16 else 'utf-8-sig')
        if '\0' in text:
            raise ValueError('it holds zero bytes')
    except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
        raise UserError(f'{path} is not text ({error}): save it in UTF-8.') from error
    return text


def unreadable(kind: str, path: object, error: Exception) -> UserError:
    """Return the error that names a file of some kind that cannot be read, and why."""
    reason = 'it does not exist' if isinstance(error, FileNotFoundError) else error
    return UserError(
        f'cannot read the {kind} {path}: {reason}; restore it from the original archive.'
    )


def _header(path: AnyPath) -> Image.Image:
    if isinstance(path, StoredPath):
        try:
            return Image.open(BytesIO(path.read_bytes(_HEADER)))
        except DECODING_ERRORS:
            pass  # its header is longer, or it is not an image
    return Image.open(pillow_source(path))
