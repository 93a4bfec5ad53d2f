"""What an image's EXIF data say of its size."""

from PIL import ExifTags, Image

# Orientations that exchange width and height.
_TURNED = (5, 6, 7, 8)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels as OpenCV decodes an image: it heeds the orientation."""
    turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return image.size[::-1] if turned else image.size
