"""The image reader of a test pipeline, made to stop at an image that it cannot read whole."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import cv2
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.registry import TRANSFORMS
from PIL import Image

from datasets.reading import decode_to_end
from reproduce.base.errors import UserError
from reproduce.base.files import reason

# What mmengine, Pillow and OpenCV raise for a damaged image.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, AssertionError, cv2.error),
    Image.DecompressionBombError,
)


@TRANSFORMS.register_module()
class LoadWholeImage(LoadImageFromFile):
    """mmcv's `LoadImageFromFile`, with the same pixels; a damaged file is an error that names it.

    Some releases of OpenCV decode the missing part of a truncated JPEG to grey.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add `img` (H, W, 3), `img_shape` and `ori_shape` to `results`.

        Raises:
            UserError: if the file at `img_path` is missing, truncated or no image.
        """
        path = results['img_path']
        try:
            decode_to_end(BytesIO(fileio.get(path)))
            return super().transform(results)
        except _DAMAGED as error:
            raise UserError(f'cannot read the image {path}: {reason(error)}.') from error


def with_whole_images(pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a copy of `pipeline` in which `LoadWholeImage` reads the images."""
    whole = {'type': LoadWholeImage.__name__}
    return [{**s, **whole} if kind(s) == LoadImageFromFile.__name__ else dict(s) for s in pipeline]


def kind(step: Mapping[str, Any]) -> str:
    """Return the name of a step's transform, without the name of its package."""
    name = step['type'] if isinstance(step['type'], str) else step['type'].__name__
    return name.rpartition('.')[2]
