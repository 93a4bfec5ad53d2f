"""The file next to a record that keeps the counts of each image."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reproduce.base.errors import UserError
from reproduce.statistics.classification_metrics import ImageHits
from reproduce.statistics.detection_metrics import MatchedDetections
from reproduce.statistics.per_image import PerImage
from reproduce.statistics.segmentation_metrics import PixelCounts

SUFFIX = '.images.npz'

_KINDS = {kind.KIND: kind for kind in (ImageHits, MatchedDetections, PixelCounts)}


@dataclass(frozen=True)
class KeptImages:
    """The counts of N images and K classes, the N names of the images' files, and the K classes."""

    statistics: PerImage
    images: tuple[str, ...]
    classes: tuple[str, ...]
    hashes: Mapping[str, str] = field(default_factory=dict)  # see `Split.hashes`

    def to_bytes(self) -> bytes:
        """Return the content of an .npz file: the same statistics give the same bytes."""
        content, more = io.BytesIO(), dict[str, Any](self.statistics.to_arrays())
        np.savez_compressed(
            content,
            kind=np.array(self.statistics.KIND),
            images=np.array(self.images, str),
            classes=np.array(self.classes, str),
            files=np.array([*self.hashes], str),
            sha256=np.array([*self.hashes.values()], 'S64'),
            **more,
        )
        return content.getvalue()


def read(path: Path) -> KeptImages:
    """Read a file with the content of `KeptImages.to_bytes`. No code from the file is run.

    Raises:
        UserError: if the file is missing or is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        statistics = _KINDS[str(arrays['kind'])].from_arrays(arrays)
        images, classes = (tuple(arrays[name].tolist()) for name in ('images', 'classes'))
        hashed = (arrays[name].astype(str).tolist() for name in ('files', 'sha256'))
        hashes = dict(zip(*hashed, strict=True))
        if statistics.images != len(images):
            raise ValueError(f'{len(images):,} names for {statistics.images:,} images')
    except Exception as error:  # whatever NumPy and the checks raise for another file
        raise UserError(
            f'the counts of each image in {path} cannot be read ({error}): expected the '
            f'*{SUFFIX} that an evaluation wrote; evaluate or score again.'
        ) from error
    return KeptImages(statistics, images, classes, hashes)
