"""The file beside a record that keeps what was counted on each image."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reproduce.base.errors import UserError
from reproduce.statistics import PerImage
from reproduce.statistics.image_hits import ImageHits
from reproduce.statistics.matched_detections import MatchedDetections
from reproduce.statistics.pixel_counts import PixelCounts

SUFFIX = '.images.npz'

_KINDS: dict[str, type[PerImage]] = {
    kind.KIND: kind for kind in (ImageHits, MatchedDetections, PixelCounts)
}


@dataclass(frozen=True)
class KeptImages:
    """What was counted on each image, and what images and classes are called.

    Attributes:
        statistics: of N images and K classes.
        images: the N names of their files.
        classes: the K names.
    """

    statistics: PerImage
    images: tuple[str, ...]
    classes: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Return the content of an .npz file: the same statistics give the same bytes."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            kind=np.array(self.statistics.KIND),
            images=np.array(self.images, str),
            classes=np.array(self.classes, str),
            **self.statistics.to_arrays(),
        )
        return content.getvalue()


def file_names(samples: Sequence[tuple[Path, object]]) -> tuple[str, ...]:
    """Return the name of each image's file, with its folder's where names repeat."""
    names = tuple(path.name for path, _ in samples)
    if len(set(names)) == len(names):
        return names
    return tuple(f'{path.parent.name}/{path.name}' for path, _ in samples)


def read(path: Path) -> KeptImages:
    """Read a file of what `KeptImages.to_bytes` gives.

    Raises:
        UserError: if it is missing, or is not such a file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f'the counts of each image in {path} cannot be read ({error.strerror}): evaluate or '
            'score again.'
        ) from error
    return from_bytes(content, path)


def from_bytes(content: bytes, path: Path | str) -> KeptImages:
    """Return what `KeptImages.to_bytes` gave. No code from the content is run.

    Args:
        path: where the content is from, for the error.

    Raises:
        UserError: if it is no such content.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            statistics = _KINDS[str(arrays['kind'])].from_arrays(arrays)
            kept = KeptImages(
                statistics, tuple(arrays['images'].tolist()), tuple(arrays['classes'].tolist())
            )
    except (EOFError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(
            f'the counts of each image in {path} cannot be read ({error}): expected the '
            f'*{SUFFIX} that an evaluation wrote; evaluate or score again.'
        ) from error
    if statistics.images != len(kept.images):
        raise UserError(
            f'{path} has {len(kept.images):,} names for {statistics.images:,} images: evaluate or '
            'score again.'
        )
    return kept
